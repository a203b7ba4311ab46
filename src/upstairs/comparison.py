"""Several runs on the same tasks: each one's accuracy, and the paired differences with their intervals."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from upstairs.checkpoint import write_atomically
from upstairs.console import counting, percent, show_table
from upstairs.errors import UpstairsError
from upstairs.evaluate import describe_score, enough_seeds, score_beside
from upstairs.learners import baselines_for
from upstairs.report.measure import name_runs
from upstairs.report.values import write_name
from upstairs.run import load, refuse_unlike
from upstairs.session import absolute, choose_episodes
from upstairs.statistics import paired_differences


def compare(
    runs: Sequence[str | Path],
    *,
    data: str | None = None,
    split: str | None = None,
    way: int | None = None,
    shot: int = 1,
    query: int | None = None,
    tasks: int = 600,
    seed: int = 0,
    baselines: bool = True,
    quiet: bool = False,
) -> dict[str, Any]:
    """Score runs on one frozen list of tasks: `upstairs.compare(["runs/maml", "runs/protonet"])`.

    A transductive learner is a contestant twice: as it is, and with one query at a time.

    Args:
        runs: the directories of two or more runs on the same data.
        data, split, way, shot, query, tasks, seed: as `upstairs evaluate` takes them.
        baselines: the plain opponents of the first run are contestants too.

    Returns:
        `scores`: for each contestant its name, accuracy, interval and whether it is transductive, the best first.
        `differences`: what `upstairs.statistics.paired_differences` gives.

    Raises:
        UpstairsError: fewer than two runs, one given twice, or runs that no task can be put to alike.
    """
    loaded = [load(path) for path in runs]
    if len(loaded) < 2:
        raise UpstairsError(
            f"{len(loaded)} run was given and a comparison needs 2: write `upstairs compare RUN RUN...`"
        )
    foreign = data is not None and absolute(data) not in {run.settings.data for run in loaded}
    refuse_unlike(loaded, foreign=foreign)
    seeds = enough_seeds(seed, tasks)
    episodes, name, part = choose_episodes(loaded, data=data, split=split, way=way, shot=shot, query=query, quiet=quiet)
    opponents = baselines_for(loaded[0].settings, episodes.source.feature_shape, episodes.way[1]) if baselines else {}
    total = len(seeds) * (len(opponents) + sum(1 + run.learner.transductive for run in loaded))
    scores, transductive = {}, {name for name, learner in opponents.items() if learner.transductive}
    with counting("comparing", quiet=quiet) as progress:
        for label, run in zip(name_runs(loaded), loaded, strict=True):
            before = len(scores) * len(seeds)
            tell = progress and (lambda done, _, before=before: progress(before + done, total))
            beside = {} if scores else opponents
            found = score_beside(run.learner, episodes, seeds, baselines=beside, progress=tell)
            scores |= found.named(label) | found.baselines
            transductive |= {label} if run.learner.transductive else set()
    table = [
        {"name": who, **describe_score(own), "transductive": who in transductive, "baseline": who in opponents}
        for who, own in scores.items()
    ]
    return {
        "data": name,
        "split": part,
        "way": episodes.way[1],
        "shot": episodes.shot[1],
        "query": episodes.query,
        "tasks": tasks,
        "seed": seed,
        "runs": [str(run.path) for run in loaded],
        "scores": sorted(table, key=lambda row: -row["accuracy"]),
        "differences": paired_differences(scores, baselines=opponents),
    }


def write_comparison(result: dict[str, Any], path: Path) -> Path:
    """The result as json, whole or not at all."""
    write_atomically(path, json.dumps(result, indent=1, ensure_ascii=False).encode())
    return path


def print_comparison(result: dict[str, Any]) -> None:
    """Two tables: each contestant's accuracy, and the paired differences."""
    task = f"{result['way']}-way {result['shot']}-shot"
    title = f"{result['data']}, {result['split']} classes, {task}, {result['tasks']} tasks, 95% intervals"
    transductive = {row["name"] for row in result["scores"] if row["transductive"]}
    words = {row["name"]: write_name(row["name"]) if row["baseline"] else row["name"] for row in result["scores"]}
    show_table(
        title, ("contestant", "accuracy", ""),
        [(words[r["name"]], percent(r), "baseline" if r["baseline"] else "") for r in result["scores"]],
        "† transductive: it sees all queries of a task at once" if transductive else None,
    )  # fmt: skip
    pairs = result["differences"]
    show_table(
        "paired differences: first minus second, on the same tasks", ("first", "second", "points", ""),
        [
            (*(words[pair[k]] + (" †" if pair[k] in transductive else "") for k in ("first", "second")),
             f"{100 * pair['difference']:+.1f} ± {100 * pair['ci95']:.1f}", "" if pair["clear"] else "not clear")
            for pair in pairs
        ],
        f"not clear: the interval holds zero; of {len(pairs)} intervals {0.05 * len(pairs):.2g} would miss by chance",
    )  # fmt: skip
