"""The measurements of a report: results, an episode, depth (steps, shots) and breadth (groups of classes)."""

import platform
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from upstairs.core import Learner, evaluating
from upstairs.data.episodes import Episodes
from upstairs.data.mixture import SIGN, episodes_of
from upstairs.data.source import Source
from upstairs.data.splits import Splits
from upstairs.engine.evaluate import describe_scores, frozen_seeds, score_with_baselines
from upstairs.errors import UpstairsError
from upstairs.experiments.report.cache import Remembered
from upstairs.experiments.report.sentences import choose_words
from upstairs.learners import baselines_for, nearest_centroid
from upstairs.statistics import interval, paired_differences
from upstairs.training.run import Run
from upstairs.training.trainer import validation_episodes
from upstairs.tree import index

STEPS, MORE_STEPS = (0, 1, 2, 3, 5), (0, 1, 2, 3, 5, 10, 20, 50, 100)
SHOTS, MORE_SHOTS = (1, 2, 5, 10), (1, 2, 3, 5, 10, 15, 20)
SETTINGS = ((5, 1), (5, 5), (20, 1))  # way and shot
QUERY, FIGURE_QUERY = 5, 2  # queries per class in the table and in figures

Point = tuple[dict[str, Any], Learner, Source, int]  # label, learner, source and shot
PARTS = ("training classes", "validation classes", "test classes")


def measure(
    runs: Sequence[Run],
    splits: Splits,
    *,
    settings: Sequence[tuple[int, int]] = SETTINGS,
    tasks: int = 600,
    seed: int = 0,
    command: str = "",
    more: bool = False,
    memory: Remembered | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Returns the report's dict for runs on the same data, with the same frozen tasks of test classes for all learners.

    Settings that the classes or the learner do not allow are left out.

    Args:
        more: up to 100 adaptation steps and 20 shots.
        memory: the cache of scores; None: a new one for this call.

    Raises:
        UpstairsError: there are too few test classes, or too few examples, for any task.
    """
    started, memory, source = time.monotonic(), memory or Remembered(None), splits.test
    smallest = min((len(rows) for rows in source.rows), default=0)
    if len(source) < 2 or smallest < 2:
        raise UpstairsError(
            f"{source.name} has {len(source)} test classes: a report needs 2 or more, of 2 examples or more"
        )
    query, figure_query = (max(1, min(most, smallest - 1)) for most in (QUERY, FIGURE_QUERY))
    seeds, names = frozen_seeds(seed, tasks), name_runs(runs)
    report: dict[str, Any] = {
        **page_head(runs, "Learning to learn", command),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "trained_on": name_training(splits.train, runs[0].settings.data),
        "runs": describe_runs(runs),
        **{part: [] for part in ("results", "differences", "depth_steps", "depth_shots", "depth_gap", "breadth")},
    }
    known: dict[Any, dict[str, Any]] = {}  # scores of baselines, shared by runs
    scored: dict[tuple[int, int], dict[str, Any]] = {}  # each task's score in each setting, by contestant
    way = min([5, source.most_way, *(run.learner.max_way or 5 for run in runs)])
    jobs: list[tuple[int, list[dict[str, Any]], Callable[[], dict[str, Any]]]] = []  # cost, destination, function
    for run, name in zip(runs, names, strict=True):
        for w, s in dict.fromkeys([*settings, (way, 1)]):
            asked = max(1, min(QUERY, smallest - s))  # fewer queries where classes are small, so that shots remain
            if able(run.learner, source, w, s + asked):
                episodes = episodes_of(source, way=w, shot=s, query=asked)
                own = scored.setdefault((w, s), {})
                job = partial(result, run, name, episodes, seeds, seed, memory, known=known, scored=own)
                jobs.append((30, report["results"], job))
    contestants = {name: run.learner for name, run in zip(names, runs, strict=True)}
    for name, learner in [*contestants.items(), ("nearest_centroid", nearest_centroid(source, way=way))]:
        for key, points in curves(learner, splits, way, figure_query, more=more).items():
            row: dict[str, Any] = {"learner": name, "way": way, "shot": 1, "points": []}
            report[key].append(row)
            for label, contestant, part, shot in points:
                episodes = episodes_of(part, way=way, shot=shot, query=figure_query)
                job = partial(score, label, contestant, episodes, seeds, memory)
                jobs.append((5 + label.get("steps", 0), row["points"], job))
    total, done = sum(size for size, *_ in jobs), 0
    for size, destination, job in jobs:
        destination.append(job())
        done += size
        if progress:
            progress(done, total)
    report["times"] = times(runs, splits.val, memory)
    plain = {name for row in report["results"] for name in row["baselines"]}
    report["differences"] = [
        {"way": w, "shot": s, "baselines": sorted(plain), "pairs": paired_differences(scores, baselines=plain)}
        for (w, s), scores in scored.items()
    ]
    best = max(report["results"], key=lambda r: (r["way"] == way and r["shot"] == 1, r["accuracy"]))["learner"]
    report["episode"] = episode(contestants[best], best, source, way, query, seed)
    return report | {"seconds": time.monotonic() - started}


def page_head(runs: Sequence[Run], title: str, command: str) -> dict[str, Any]:
    """Returns the first entries of every report."""
    return {
        "title": f"{title}: {short_name(runs[0].settings.data)}",
        "command": command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": runs[0].meta["versions"],
        "data": runs[0].settings.data,
        "split": "test",
    }


def short_name(data: str) -> str:
    """Returns the name of a data set without its path."""
    return " + ".join(Path(part).name or part for part in data.split(SIGN))


def name_runs(runs: Sequence[Run]) -> list[str]:
    """Returns a unique name for each run: its learner, if necessary with its directory or its whole path."""
    names = [run.settings.learner for run in runs]
    for more in (lambda run: run.path.name, lambda run: run.path):
        names = [
            name if names.count(name) == 1 else f"{run.settings.learner} {more(run)}"
            for run, name in zip(runs, names, strict=True)
        ]
    return names


def able(learner: Learner, source: Source, way: int, examples: int) -> bool:
    """Returns whether the learner supports the way and the source has enough classes and examples of each."""
    smallest = min(len(rows) for rows in source.rows)
    return way <= min(source.most_way, learner.max_way or way) and examples <= smallest


def curves(learner: Learner, splits: Splits, way: int, query: int, *, more: bool) -> dict[str, list[Point]]:
    """Returns the points of a learner's figures: accuracy by inner steps, by shots, by training or new classes (the
    gap), and by groups of classes (breadth)."""
    found: dict[str, list[Point]] = {}
    source, parts = splits.test, [(n, part) for n, part in zip(PARTS, splits, strict=True) if len(part) >= way]
    if learner.inner_steps is not None:
        steps = sorted({*(MORE_STEPS if more else STEPS), learner.inner_steps})
        found["depth_steps"] = [({"steps": k}, learner.with_steps(k), source, 1) for k in steps]
    shots = [shot for shot in (MORE_SHOTS if more else SHOTS) if able(learner, source, way, shot + query)]
    found["depth_shots"] = [({"shot": shot}, learner, source, shot) for shot in shots]
    found["depth_gap"] = [({"group": n}, learner, part, 1) for n, part in parts if able(learner, part, way, 1 + query)]
    groups = {group: part for group, part in source.by_group().items() if able(learner, part, way, 1 + query)}
    if len(groups) > 1:
        found["breadth"] = [({"group": group}, learner, part, 1) for group, part in groups.items()]
    return found


def score(
    label: dict[str, Any], learner: Learner, episodes: Episodes, seeds: list[int], memory: Remembered
) -> dict[str, Any]:
    """Evaluates one point of a figure."""
    mean, ci95 = interval(memory(learner, episodes, seeds))
    return {**label, "accuracy": mean, "ci95": ci95, "tasks": len(seeds)}


def name_training(source: Source, data: str) -> str:
    """Describes the training classes by the number of their groups, else of classes."""
    groups = len(set(source.groups))
    return f"{groups} {choose_words(data).groups}" if groups > 1 else f"{len(source)} classes"


def times(runs: Sequence[Run], source: Source, memory: Remembered) -> dict[str, Any]:
    """Evaluates the baselines of the first run on its validation tasks, for the time to beat them."""
    episodes = validation_episodes(source, runs[0].learner.max_way, runs[0].settings.shots[1])
    if episodes is None:
        return {}
    seeds = frozen_seeds(2**19, runs[0].settings.validation_tasks)
    baselines = baselines_for(runs[0].settings, source, episodes.largest_way)
    return {name: score({}, learner, episodes, seeds, memory) for name, learner in baselines.items()}


def result(
    run: Run, name: str, episodes: Episodes, seeds: list[int], seed: int, memory: Remembered, *,
    known: dict[Any, dict[str, Any]], scored: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Returns one row of the table of results: the learner and its baselines on the same tasks.

    Args:
        known: scores of baselines from earlier runs; new ones are added.
        scored: receives each task's score, by contestant.
    """
    started = time.monotonic()
    way, shot = episodes.largest_way, episodes.shot[1]
    key = (run.settings.net, way, shot)
    baselines = baselines_for(run.settings, episodes.source, way)
    scores = score_with_baselines(
        run.learner, episodes, seeds, baselines={} if key in known else baselines, score=memory
    )
    scores = scores._replace(baselines=known.setdefault(key, scores.baselines))
    # baselines depend on the network: those of the first run are compared
    scored.update({**scores.baselines, **scored, **scores.named(name)})
    row = describe_scores(scores, run.learner, episodes, tasks=len(seeds), seed=seed, baselines=baselines)
    head = {"learner": name, "data": run.settings.data, "split": "test"}
    return {**head, **row, "seconds": time.monotonic() - started}


def describe_runs(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Returns each run's learning curve and size."""
    return [
        {
            "learner": name,
            "history": run.history,
            "steps": run.meta["progress"]["step"],
            "seconds": run.meta["progress"]["seconds"],
            "parameters": sum(p.numel() for p in run.learner.parameters()),
            "settings": run.settings.to_json(),
        }
        for run, name in zip(runs, name_runs(runs), strict=True)
    ]


def episode(learner: Learner, name: str, source: Source, way: int, query: int, seed: int) -> dict[str, Any]:
    """Returns one task to show: its examples, and the learner's prediction for each query."""
    episodes = episodes_of(source, way=way, shot=1, query=query)
    first = frozen_seeds(seed, 1)
    tasks, learner = episodes.batch(first), learner.for_way(way)
    with evaluating(learner):
        probabilities = learner.solve(tasks)[0].softmax(-1)
    task, predicted = index(tasks, 0), probabilities.argmax(-1)
    texts = episodes.texts(first[0])
    shown = [[{"text": t} for t in part] for part in texts] or [[{"image": x} for x in p.x.numpy()] for p in task]
    queries = zip(shown[1], task.query.y.tolist(), predicted.tolist(), probabilities.amax(-1).tolist(), strict=True)
    return {
        "learner": name,
        "way": way,
        "shot": 1,
        "classes": episodes.labels(first[0]),
        "support": [{**x, "label": y} for x, y in zip(shown[0], task.support.y.tolist(), strict=True)],
        "query": [{**x, "label": y, "predicted": k, "probability": p} for x, y, k, p in queries],
        "accuracy": float((predicted == task.query.y).float().mean()),
    }
