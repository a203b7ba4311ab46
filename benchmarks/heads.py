# ruff: noqa: T201
"""Compare the heads on frozen features, and the choice among them (`auto`), on few-shot tasks of test classes.

    OMP_NUM_THREADS=1 python benchmarks/heads.py photos test_features.npz --out heads-photos

The file has `x` [n, d], features of the test classes by any encoder, and `y` [n], their labels. Every head meets the
same 600 tasks, with 15 queries of each class. The table has accuracies with 95% intervals over tasks and the paired
difference to `auto`; and of `auto` the expected calibration error over the queries of all tasks (15 bins; temperature
by leave-one-out), and the coverage and mean size of its conformal sets for 90%, where a set may be empty (in brackets:
where it has the likeliest class at least). Hyper-parameters and defaults were chosen on training and validation
classes, on 100 tasks of each kind.

`--runs` adds rows for runs of `upstairs train` on such features.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import RESULTS, surroundings
from torch import Tensor

import upstairs
from upstairs.core import Learner, evaluating
from upstairs.data.episodes import Episodes
from upstairs.data.source import Source
from upstairs.engine.evaluate import frozen_seeds
from upstairs.engine.leave_one_out import ONE_SHOT, choose_by, conformal_bar, leave_one_out, prediction_sets
from upstairs.engine.metrics import expected_calibration_error
from upstairs.learners.metric.heads import HEADS
from upstairs.statistics import interval, paired_interval

COVERAGE, PART = 0.9, 20  # tasks at a time


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("name")
    words.add_argument("features", type=Path)
    words.add_argument("--settings", nargs="+", default=["5x1", "5x5", "5x10", "20x1", "20x5", "20x10"])
    words.add_argument("--tasks", type=int, default=600)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--runs", nargs="*", default=[], type=Path)
    words.add_argument("--out", help="name of the file in benchmarks/results")
    chosen = words.parse_args()
    with np.load(chosen.features) as file:
        source = Source.from_arrays(file["x"], file["y"], name=chosen.name)
    runs = {path.name: upstairs.load(path).learner for path in chosen.runs}
    found = {"name": chosen.name, "tasks": chosen.tasks, "seed": chosen.seed, "surroundings": surroundings()}
    found["settings"] = {}
    for setting in chosen.settings:
        way, shot = map(int, setting.split("x"))
        found["settings"][setting] = measure(source, way, shot, chosen.tasks, chosen.seed, runs)
        print(table(chosen.name, setting, found["settings"][setting]), flush=True)
        if chosen.out:
            (RESULTS / f"{chosen.out}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def measure(source: Source, way: int, shot: int, tasks: int, seed: int, runs: dict[str, Learner]) -> dict[str, Any]:
    """Returns the rows of one setting, and what is measured of `auto`."""
    started = time.perf_counter()
    episodes, seeds = Episodes(source, way=way, shot=shot, query=15), frozen_seeds(seed, tasks)
    learners = {name: make(way=way) for name, make in HEADS.items()}
    learners |= {name: learner.for_way(way) for name, learner in runs.items()}
    right: dict[str, list[float]] = {name: [] for name in [*learners, "auto"]}
    taken, probabilities, truth = dict.fromkeys(HEADS, 0), list[Tensor](), list[Tensor]()
    covered, sizes, full_covered, full_sizes = (list[float]() for _ in range(4))
    for start in range(0, tasks, PART):
        batch = episodes.batch(seeds[start : start + PART])
        logits, left_out = {}, {}
        for name, learner in learners.items():
            with evaluating(learner):
                logits[name] = learner.solve(batch)
            right[name] += (logits[name].argmax(-1) == batch.query.y).double().mean(1).tolist()
            if shot > 1 and name in HEADS:
                left_out[name] = leave_one_out(learner, batch.support)
        for i, (y, asked) in enumerate(zip(batch.support.y, batch.query.y, strict=True)):
            own = {name: values[i] for name, values in left_out.items()}
            name, t = choose_by(own, y) if own else (ONE_SHOT, 1.0)
            taken[name] += 1
            answer = (logits[name][i].double() / t).softmax(-1)
            right["auto"].append(float((answer.argmax(-1) == asked).double().mean()))
            probabilities.append(answer)
            truth.append(asked)
            if own:
                bar = conformal_bar((own[name].double() / t).softmax(-1), y, coverage=COVERAGE)
                for never_empty, hits, many in ((False, covered, sizes), (True, full_covered, full_sizes)):
                    sets = prediction_sets(answer, bar, never_empty=never_empty)
                    hits.append(float(sets.gather(1, asked[:, None]).double().mean()))
                    many.append(float(sets.sum(-1).double().mean()))
    auto = {
        "taken": {name: count for name, count in taken.items() if count},
        "calibration_error": expected_calibration_error(torch.cat(probabilities), torch.cat(truth)),
    }
    if covered:
        auto |= {"coverage": interval(covered), "size": interval(sizes)}
        auto |= {"coverage_never_empty": interval(full_covered), "size_never_empty": interval(full_sizes)}
    rows = {
        name: {"accuracy": interval(own), "to_auto": None if name == "auto" else paired_interval(own, right["auto"])}
        for name, own in right.items()
    }
    return {"rows": rows, "auto": auto, "seconds": time.perf_counter() - started}


def table(name: str, setting: str, found: dict[str, Any]) -> str:
    """Returns a setting's rows as a table in Markdown."""
    lines = [f"\n{name}, {setting.replace('x', '-way ')}-shot ({found['seconds']:.0f} s)", ""]
    lines += ["| head | accuracy | difference to auto |", "|---|---|---|"]
    for head, row in found["rows"].items():
        mean, ci95 = row["accuracy"]
        gap = "" if row["to_auto"] is None else "{:+.2f} ± {:.2f}".format(*(100 * v for v in row["to_auto"]))
        lines.append(f"| {head} | {100 * mean:.2f} ± {100 * ci95:.2f} | {gap} |")
    auto = found["auto"]
    lines += ["", f"auto: {auto['taken']}; calibration error {auto['calibration_error']:.3f}"]
    if "coverage" in auto:
        lines[-1] += (
            f"; coverage {100 * auto['coverage'][0]:.1f}% with {auto['size'][0]:.2f} classes a set"
            f" ({100 * auto['coverage_never_empty'][0]:.1f}%, {auto['size_never_empty'][0]:.2f})"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
