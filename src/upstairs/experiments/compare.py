"""Several runs on the same tasks: each one's score, and the paired differences with their intervals."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from upstairs.console import (
    counting,
    score_name,
    show_table,
    title_of,
    write_difference,
    write_likelihood,
    write_score,
    write_task,
)
from upstairs.data.open import absolute
from upstairs.engine.evaluate import describe_likelihood, describe_score, enough_seeds, score_beside
from upstairs.engine.metrics import score_kind
from upstairs.errors import UpstairsError
from upstairs.experiments.evaluate import choose_episodes
from upstairs.experiments.report.measure import name_runs
from upstairs.experiments.report.values import write_name
from upstairs.learners import baselines_for
from upstairs.statistics import paired_differences
from upstairs.storage import write_atomically
from upstairs.training.run import check_comparable, load


def compare(
    runs: Sequence[str | Path],
    *,
    data: str | None = None,
    split: str | None = None,
    way: int | None = None,
    shot: int | None = None,
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
        baselines: those of the first run are contestants too.

    Returns:
        `scores`: for each contestant its name, score, interval and whether it is transductive, the best first.
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
    check_comparable(loaded, foreign=foreign)
    seeds = enough_seeds(seed, tasks)
    episodes, name, part = choose_episodes(loaded, data=data, split=split, way=way, shot=shot, query=query, quiet=quiet)
    kind = score_kind(episodes)
    plain = baselines_for(loaded[0].settings, episodes.source, episodes.way[1]) if baselines else {}
    total = len(seeds) * (len(plain) + sum(1 + run.learner.transductive for run in loaded))
    likelihoods: dict[str, dict[str, Any]] = {}
    scores, transductive = {}, {name for name, learner in plain.items() if learner.transductive}
    with counting("comparing", quiet=quiet) as progress:
        for label, run in zip(name_runs(loaded), loaded, strict=True):
            before = len(scores) * len(seeds)
            tell = progress and (lambda done, _, before=before: progress(before + done, total))
            beside = {} if scores else plain
            found = score_beside(run.learner, episodes, seeds, baselines=beside, progress=tell)
            scores |= found.named(label) | found.baselines
            for who, learner in {label: run.learner, **beside}.items():
                likelihoods[who] = describe_likelihood(learner, episodes, seeds)
            transductive |= {label} if run.learner.transductive else set()
    table = [
        {
            "name": who,
            **describe_score(own, kind),
            "transductive": who in transductive,
            "baseline": who in plain,
            **likelihoods.get(who, {}),
        }
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
        "scores": sorted(table, key=lambda row: row[kind.name] * (1 if kind.less_is_better else -1)),
        "differences": paired_differences(scores, baselines=plain, less_is_better=kind.less_is_better),
    }


def write_comparison(result: dict[str, Any], path: Path) -> Path:
    """The result as json, whole or not at all."""
    write_atomically(path, json.dumps(result, indent=1, ensure_ascii=False).encode())
    return path


def print_comparison(result: dict[str, Any]) -> None:
    """Two tables: each contestant's score, and the paired differences."""
    name = score_name(result["scores"][0])
    transductive = {row["name"] for row in result["scores"] if row["transductive"]}
    words = {row["name"]: write_name(row["name"]) if row["baseline"] else row["name"] for row in result["scores"]}
    show_table(
        f"{title_of(result)}, {write_task(result)}", ("contestant", name, "", ""),
        [
            (words[r["name"]], write_score(r), write_likelihood(r), "baseline" if r["baseline"] else "")
            for r in result["scores"]
        ],
        "† transductive: it sees all queries of a task at once" if transductive else None,
    )  # fmt: skip
    pairs = result["differences"]
    show_table(
        "paired differences: first minus second, on the same tasks",
        ("first", "second", "points" if name == "accuracy" else name, ""),
        [
            (*(words[pair[k]] + (" †" if pair[k] in transductive else "") for k in ("first", "second")),
             write_difference(name, pair), "" if pair["clear"] else "not clear")
            for pair in pairs
        ],
        f"not clear: the interval holds zero; of {len(pairs)} intervals {0.05 * len(pairs):.2g} would miss by chance",
    )  # fmt: skip
