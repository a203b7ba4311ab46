"""What a report shows, measured: results, an episode, depth (steps, shots) and breadth (groups of classes)."""

import copy
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import torch

from upstairs.core import Learner
from upstairs.engine import evaluating
from upstairs.evaluate import evaluate, frozen_seeds, score_tasks
from upstairs.learners import GradientLearner, baselines_for, nearest_centroid
from upstairs.run import Run
from upstairs.statistics import interval
from upstairs.tasks.episodes import Episodes
from upstairs.tasks.sources import Source
from upstairs.tree import take

STEPS = (0, 1, 2, 3, 5, 10)
SHOTS = (1, 2, 3, 5, 10)
SETTINGS = ((5, 1), (5, 5), (20, 1))

Job = Callable[[], None]


def measure(
    runs: list[Run],
    source: Source,
    *,
    tasks: int = 600,
    seed: int = 0,
    command: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """The report's dict for runs on the same data, every learner on the same frozen tasks.

    Settings that the classes or the learner do not allow are left out.
    """
    started = time.monotonic()
    smallest = min(len(rows) for rows in source.rows)
    queries = max(1, min(5, smallest - 1))
    seeds = frozen_seeds(seed, tasks)
    report: dict[str, Any] = {
        "title": f"Learning to learn: {runs[0].settings.data}",
        "command": command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": runs[0].meta["versions"],
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "data": runs[0].settings.data,
        "split": "test",
        "results": [],
        "runs": [describe(run) for run in runs],
        "depth_steps": [],
        "depth_shots": [],
        "breadth": [],
    }

    def able(learner: Learner, classes: int, way: int, shot: int) -> bool:
        return way <= min(classes, learner.max_way or way) and shot + queries <= smallest

    def score(learner: Learner, part: Source, way: int, shot: int) -> dict[str, float]:
        mean, ci95 = interval(score_tasks(learner, Episodes(part, way=way, shot=shot, query=queries), seeds))
        return {"accuracy": mean, "ci95": ci95}

    jobs: list[Job] = []
    way = min([5, len(source), *(run.learner.max_way or 5 for run in runs)])
    for run in runs:
        for w, s in dict.fromkeys([*SETTINGS, (way, 1)]):
            if able(run.learner, len(source), w, s):
                jobs.append(
                    lambda run=run, w=w, s=s: report["results"].append(result(run, source, w, s, queries, tasks, seed))
                )
    contestants = [(run.settings.learner, run.learner) for run in runs] + [
        ("nearest_centroid", nearest_centroid(way=way))
    ]

    def curve(
        key: str, name: str, extra: dict[str, Any], points: list[tuple[dict[str, Any], Learner, Source, int]]
    ) -> None:
        row: dict[str, Any] = {"learner": name, "way": way, **extra, "points": []}
        report[key].append(row)
        for label, learner, part, shot in points:
            jobs.append(lambda a=label, b=learner, c=part, d=shot: row["points"].append({**a, **score(b, c, way, d)}))

    for name, learner in contestants:
        if isinstance(learner, GradientLearner):
            curve("depth_steps", name, {"shot": 1}, [({"steps": k}, with_steps(learner, k), source, 1) for k in STEPS])
        shots = [s for s in SHOTS if able(learner, len(source), way, s)]
        curve("depth_shots", name, {}, [({"shot": s}, learner, source, s) for s in shots])
        groups = {g: part for g, part in source.by_group().items() if able(learner, len(part), way, 1)}
        if len(groups) > 1:
            points = [({"group": g, "tasks": tasks}, learner, part, 1) for g, part in groups.items()]
            curve("breadth", name, {"shot": 1}, points)
    for done, job in enumerate(jobs):
        job()
        if progress:
            progress(done + 1, len(jobs))
    best = max(
        runs,
        key=lambda run: next((r["accuracy"] for r in report["results"] if r["learner"] == run.settings.learner), 0.0),
    )
    report["episode"] = episode(best, source, way, queries, seed)
    report["seconds"] = time.monotonic() - started
    return report


def result(run: Run, source: Source, way: int, shot: int, query: int, tasks: int, seed: int) -> dict[str, Any]:
    """One row of the table of results: the learner and its baselines on the same tasks."""
    started = time.monotonic()
    episodes = Episodes(source, way=way, shot=shot, query=query)
    opponents = baselines_for(run.settings, source.feature_shape, way)
    scores = evaluate(run.learner, episodes, tasks=tasks, seed=seed, baselines=opponents)
    head = {"learner": run.settings.learner, "data": run.settings.data, "split": "test"}
    return {**head, **scores, "seconds": time.monotonic() - started}


def describe(run: Run) -> dict[str, Any]:
    """A run's learning curve and size."""
    progress = run.meta["progress"]
    return {
        "learner": run.settings.learner,
        "history": run.history,
        "steps": progress["step"],
        "seconds": progress["seconds"],
        "parameters": sum(p.numel() for p in run.learner.parameters()),
        "settings": run.settings.to_json(),
    }


def with_steps(learner: GradientLearner, steps: int) -> GradientLearner:
    """The same meta-parameters with another number of inner steps."""
    other = copy.copy(learner)
    other.steps = steps
    return other


def episode(run: Run, source: Source, way: int, query: int, seed: int) -> dict[str, Any]:
    """One task to look at: its pictures, and what the learner takes each query for."""
    episodes = Episodes(source, way=way, shot=1, query=query)
    first = frozen_seeds(seed, 1)
    tasks = episodes.batch(first)
    learner = run.learner.for_way(way)
    with evaluating(learner):
        probabilities = learner.solve(tasks)[0].softmax(-1)
    task, predicted = take(tasks, 0), probabilities.argmax(-1)
    pictures = [part.x.numpy() for part in task]
    queries = zip(pictures[1], task.query.y.tolist(), predicted.tolist(), probabilities.amax(-1).tolist(), strict=True)
    return {
        "learner": run.settings.learner,
        "way": way,
        "shot": 1,
        "classes": episodes.labels(first[0]),
        "support": [{"image": x, "label": y} for x, y in zip(pictures[0], task.support.y.tolist(), strict=True)],
        "query": [{"image": x, "label": y, "predicted": k, "probability": p} for x, y, k, p in queries],
        "accuracy": float((predicted == task.query.y).float().mean()),
    }
