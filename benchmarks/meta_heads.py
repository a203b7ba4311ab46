# ruff: noqa: T201
"""What meta-learning adds on frozen features: learners trained over tasks, against every head that needs no training.

    OMP_NUM_THREADS=1 python benchmarks/meta_heads.py photos FOLDER/mobilenet --out meta-heads-photos

reads FOLDER/mobilenet_train.npz, _val.npz and _test.npz, each with `x` [n, d], features by any encoder, and `y` [n],
labels; no class is in two of them. Learners are trained on tasks of the training classes; of five moments of the
training, the first of them before it, the best on tasks of the validation classes is kept. All heads then meet the same
tasks of the test classes, 10 queries of each class, each query read alone. The best head without training is the one
with the best accuracy on these very tasks, which favours it. A learner's accuracy on a task is the mean over its seeds.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from record import RESULTS, surroundings
from torch import nn

import upstairs as up
from upstairs.core import Learner
from upstairs.engine.evaluate import frozen_seeds, score_tasks
from upstairs.engine.leave_one_out import ONE_SHOT, choose_by, leave_one_out
from upstairs.learners.metric.heads import HEADS
from upstairs.nets import projection
from upstairs.statistics import interval, paired_interval

Scores = Float[np.ndarray, " task"]
SETTINGS = ["5x1", "5x5", "5x10", "20x1", "20x5", "20x10"]
MAKE: dict[str, Callable[[nn.Module, int, int], Learner]] = {
    "protonet": lambda net, d, way: up.protonet(net, way=way, scale=8 / d),
    "r2d2": lambda net, d, way: up.r2d2(net, way=way, strength=d, scale=10.0),
    "in_context": lambda net, d, way: up.in_context(net, d, way=way),
    "caml": lambda net, d, way: up.caml(net, d, way=way),
}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("name")
    words.add_argument("features")
    words.add_argument("--learners", nargs="+", default=list(MAKE), choices=MAKE)
    words.add_argument("--settings", nargs="+", default=SETTINGS)
    words.add_argument("--tasks", type=int, default=600)
    words.add_argument("--seeds", type=int, default=3)
    words.add_argument("--steps", type=int, default=300)
    words.add_argument("--lr", type=float, default=1e-4)
    words.add_argument("--way", type=int, default=20, help="classes of a training task")
    words.add_argument(
        "--auto", nargs="*", default=["5x1", "5x5", "5x10"], help="settings where `auto` is measured too"
    )
    words.add_argument("--out", help="name of the file in benchmarks/results")
    chosen = words.parse_args()
    train, val, test = (read(chosen.name, f"{chosen.features}_{part}.npz") for part in ("train", "val", "test"))
    found: dict[str, Any] = {**vars(chosen), "surroundings": surroundings(), "training": [], "rows": {}}
    trained: dict[str, list[Learner]] = {}
    for name in chosen.learners:
        for seed in range(chosen.seeds):
            learner, record = trained_learner(name, train, val, seed, chosen)
            trained.setdefault(name, []).append(learner)
            found["training"].append(record)
            print(record, flush=True)
    for setting in chosen.settings:
        found["rows"][setting] = measure(test, setting, trained, chosen)
        print(table(chosen.name, setting, found["rows"][setting]), flush=True)
        if chosen.out:
            (RESULTS / f"{chosen.out}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def read(name: str, path: str) -> up.Source:
    """Returns the features at length sqrt(d): of all fixed scalings the best for most heads."""
    with np.load(path) as file:
        x = file["x"].astype(np.float32)
        x = x / np.linalg.norm(x, axis=1, keepdims=True) * x.shape[1] ** 0.5
        return up.Source.from_arrays(x, file["y"], name=f"{name}, {Path(path).stem}")


def trained_learner(
    name: str, train: up.Source, val: up.Source, seed: int, chosen: argparse.Namespace
) -> tuple[Learner, dict[str, Any]]:
    """Trains a learner with a projection that begins as the identity, and returns it at its best on `val`."""
    torch.manual_seed(seed)
    started, way = time.perf_counter(), min(chosen.way, len(train))
    learner = MAKE[name](projection(train.feature_shape), train.feature_shape[0], way)
    ways = way if learner.max_way is None else (5, way)  # a fixed number of label inputs: all of them are trained
    tasks = up.Episodes(train, way=ways, shot=(1, 5), query=3)
    checks = [up.Episodes(val, way=5, shot=shot, query=10) for shot in (1, 5)]
    optimizer = torch.optim.Adam(learner.parameters(), lr=chosen.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, chosen.steps)

    def on_validation() -> float:
        return float(np.mean([score_tasks(learner, own, frozen_seeds(0, 100)).mean() for own in checks]))

    values, weights = [on_validation()], [copied(learner)]
    for step, batch in enumerate(tasks.stream(size=1, seed=seed, steps=chosen.steps), 1):
        optimizer.zero_grad()
        up.meta_backward(learner, batch)
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % (chosen.steps // 4) == 0:
            values.append(on_validation())
            weights.append(copied(learner))
    best = int(np.argmax(values))
    learner.load_state_dict(weights[best])
    record = {"learner": name, "seed": seed, "validation": values, "seconds": time.perf_counter() - started}
    return learner, record


def copied(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in learner.state_dict().items()}


def measure(
    test: up.Source, setting: str, trained: dict[str, list[Learner]], chosen: argparse.Namespace
) -> dict[str, Any]:
    """Returns each head's accuracy, and its paired difference to the best head without training, with intervals."""
    way, shot = map(int, setting.split("x"))
    tasks, seeds = up.Episodes(test, way=way, shot=shot, query=10), frozen_seeds(0, chosen.tasks)
    plain = {name: score_tasks(make(way=way), tasks, seeds) for name, make in HEADS.items()}
    best = max(plain, key=lambda name: plain[name].mean())
    scores = plain | ({"auto": by_auto(tasks, seeds, plain)} if setting in chosen.auto else {})
    spread = {}
    for name, learners in trained.items():
        own = [score_tasks(learner, tasks, seeds) for learner in learners]
        scores[name] = np.mean(own, axis=0)
        spread[name] = [float(each.mean()) for each in own]
    return {
        name: {
            "accuracy": interval(own), "seeds": spread.get(name), "best_plain": best,
            "to_best_plain": None if name == best else paired_interval(own, plain[best]),
        } for name, own in scores.items()
    }  # fmt: skip


def by_auto(tasks: up.Episodes, seeds: list[int], plain: dict[str, Scores]) -> Scores:
    """Returns the accuracy of the head that leave-one-out chooses for each task."""
    if tasks.shot[1] == 1:
        return plain[ONE_SHOT]
    scores, part = [], 20
    for start in range(0, len(seeds), part):
        support = tasks.batch(seeds[start : start + part]).support
        left_out = {name: leave_one_out(make(way=tasks.largest_way), support) for name, make in HEADS.items()}
        for i, y in enumerate(support.y):
            name, _ = choose_by({name: own[i] for name, own in left_out.items()}, y)
            scores.append(plain[name][start + i])
    return np.array(scores)


def table(name: str, setting: str, rows: dict[str, Any]) -> str:
    """Returns a setting's rows as a table in Markdown."""
    lines = [f"\n{name}, {setting.replace('x', '-way ')}-shot", ""]
    lines += ["| head | accuracy | difference to the best without training |", "|---|---|---|"]
    for head, row in rows.items():
        mean, ci95 = row["accuracy"]
        gap = (
            "" if row["to_best_plain"] is None else "{:+.2f} ± {:.2f}".format(*(100 * v for v in row["to_best_plain"]))
        )
        lines.append(f"| {head} | {100 * mean:.2f} ± {100 * ci95:.2f} | {gap} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
