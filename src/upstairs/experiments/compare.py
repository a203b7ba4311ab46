"""Scores of several runs on the same tasks, and their paired differences with intervals."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from upstairs.console import (
    DAGGER,
    counting,
    score_name,
    show_table,
    title_of,
    write_likelihood,
    write_mean,
    write_task,
    write_value,
)
from upstairs.data.open import absolute
from upstairs.engine.evaluate import describe_likelihood, describe_score, enough_seeds, score_with_baselines
from upstairs.engine.metrics import score_kind
from upstairs.errors import UpstairsError, check_type
from upstairs.experiments.evaluate import choose_episodes
from upstairs.experiments.report.measure import name_runs
from upstairs.experiments.report.values import write_name
from upstairs.learners import baselines_for
from upstairs.statistics import paired_differences
from upstairs.training.run import Run, check_comparable, load


def compare(
    runs: Sequence[str | Path | Run],
    *,
    data: str | None = None,
    split: str | None = None,
    columns: str | None = None,
    pattern: str | None = None,
    way: int | None = None,
    shot: int | None = None,
    query: int | None = None,
    tasks: int = 600,
    seed: int = 0,
    baselines: bool = True,
    quiet: bool = False,
) -> dict[str, Any]:
    """Scores runs on one frozen list of tasks: `upstairs.compare(["runs/maml", "runs/protonet"])`.

    A transductive learner is scored twice: with all queries at once, and with one query at a time.

    Args:
        runs: two or more runs on the same data, or their directories.
        data, split, columns, pattern, way, shot, query, tasks, seed: as in `upstairs evaluate`.
        baselines: score the baselines of the first run too.

    Returns:
        `scores`: for each contestant its name, score, interval and whether it is transductive, the best first.
        `differences`: the result of `upstairs.statistics.paired_differences`.

    Raises:
        UpstairsError: fewer than two runs, a run given twice, or runs without tasks in common.
    """
    check_type("runs", runs, Iterable | Path | Run, "a list of runs, or of their directories")
    loaded = [load(path) for path in ([runs] if isinstance(runs, str | Path | Run) else runs)]
    if len(loaded) < 2:
        raise UpstairsError(
            f"{len(loaded)} run was given and a comparison needs 2: write `upstairs compare RUN RUN...`"
        )
    foreign = data is not None and absolute(data) not in {run.settings.data for run in loaded}
    check_comparable(loaded, foreign=foreign)
    seeds = enough_seeds(seed, tasks)
    episodes, name, part = choose_episodes(
        loaded, data=data, split=split, columns=columns, pattern=pattern, way=way, shot=shot, query=query, quiet=quiet
    )
    kind = score_kind(episodes)
    plain = baselines_for(loaded[0].settings, episodes.source, episodes.largest_way) if baselines else {}
    named = dict(zip(name_runs(loaded), (run.learner for run in loaded), strict=True))
    total = len(seeds) * (len(plain) + sum(1 + learner.transductive for learner in named.values()))
    scores: dict[str, Any] = {}
    with counting("comparing", quiet=quiet) as progress:
        for label, learner in named.items():
            before = len(scores) * len(seeds)
            tell = progress and (lambda done, _, before=before: progress(before + done, total))
            found = score_with_baselines(learner, episodes, seeds, baselines={} if scores else plain, progress=tell)
            scores |= found.named(label) | found.baselines
    contestants = named | plain
    table = [
        {
            "name": who,
            **describe_score(own, kind),
            "transductive": who in contestants and contestants[who].transductive,
            "baseline": who in plain,
            **(describe_likelihood(contestants[who], episodes, seeds) if who in contestants else {}),
        }
        for who, own in scores.items()
    ]
    return {
        "data": name,
        "split": part,
        "way": episodes.largest_way,
        "shot": episodes.shot[1],
        "query": episodes.query,
        "tasks": tasks,
        "seed": seed,
        "runs": [str(run.path) for run in loaded],
        "scores": sorted(table, key=lambda row: row[kind.name] * (1 if kind.less_is_better else -1)),
        "differences": paired_differences(scores, baselines=plain, less_is_better=kind.less_is_better),
    }


def print_comparison(result: dict[str, Any]) -> None:
    """Prints two tables: each contestant's score, and the paired differences."""
    rows, pairs = result["scores"], result["differences"]
    name, daggers = score_name(rows[0]), {row["name"]: " †" * row["transductive"] for row in rows}
    words = {row["name"]: write_name(row["name"]) if row["baseline"] else row["name"] for row in rows}
    show_table(
        f"{title_of(result)}, {write_task(result)}", ("contestant", name, "", ""),
        [(words[r["name"]], write_mean(r), write_likelihood(r), "baseline" * r["baseline"]) for r in rows],
        DAGGER if any(daggers.values()) else None,
    )  # fmt: skip
    show_table(
        "paired differences: first minus second, on the same tasks",
        ("first", "second", "points" if name == "accuracy" else name, ""),
        [
            (*(words[pair[k]] + daggers[pair[k]] for k in ("first", "second")),
             write_value(name, pair["difference"], pair["ci95"], signed=True), "" if pair["clear"] else "not clear")
            for pair in pairs
        ],
        f"not clear: the interval holds zero; of {len(pairs)} intervals {0.05 * len(pairs):.2g} would miss by chance",
    )  # fmt: skip
