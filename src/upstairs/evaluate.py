"""Scores on frozen lists of tasks: one accuracy per task, beside the plain baselines on the same tasks."""

from collections.abc import Callable, Iterable
from math import prod
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from upstairs.core import Learner, Task, evaluating
from upstairs.errors import UpstairsError
from upstairs.statistics import interval
from upstairs.tasks.episodes import Episodes, task_seed

Progress = Callable[[int, int], None]  # (done, total)
EVALUATION = 2**20  # evaluation streams start here: training streams (0, 1, ...) never meet their tasks


def frozen_seeds(seed: int, tasks: int) -> list[int]:
    """The task seeds of evaluation list `seed`: two learners meet the same tasks."""
    return [task_seed(EVALUATION + seed, i) for i in range(tasks)]


def score_tasks(
    learner: Learner,
    episodes: Episodes,
    seeds: Iterable[int],
    *,
    alone: bool = False,
    chunk: int | None = None,
    progress: Progress | None = None,
) -> Float[np.ndarray, " task"]:
    """Accuracy (0 to 1) on the queries of each task. Nothing but these numbers is kept, and no graph is built.

    Args:
        alone: predict each query without the others, which a transductive learner otherwise sees.
        chunk: tasks in memory at a time; None is up to 32, fewer where they are large.
    """
    seeds = list(seeds)
    learner = learner.for_way(episodes.way[1])
    chunk = chunk or chunk_size(episodes)
    scores: list[Tensor] = []
    with evaluating(learner):
        for start in range(0, len(seeds), chunk):
            tasks = episodes.batch(seeds[start : start + chunk])
            scores.append(task_accuracy(learner.solve_alone(tasks) if alone else learner.solve(tasks), tasks))
            if progress:
                progress(min(start + chunk, len(seeds)), len(seeds))
    return torch.cat(scores).double().numpy()


def chunk_size(episodes: Episodes) -> int:
    """As many tasks as hold 500,000 values (640 images of 28x28) in all: more takes memory and wins no time."""
    values = episodes.way[1] * (episodes.shot[1] + episodes.query) * prod(episodes.source.feature_shape)
    return min(32, max(1, 500_000 // values))


def task_accuracy(predictions: Float[Tensor, "task n way"], tasks: Task) -> Float[Tensor, " task"]:
    """The share of each task's real queries whose largest logit is that of the true class."""
    right = (predictions.argmax(-1) == tasks.query.y) & tasks.query.mask
    return right.sum(-1) / tasks.query.mask.sum(-1).clamp(min=1)


def evaluate(
    learner: Learner,
    episodes: Episodes,
    *,
    tasks: int = 600,
    seed: int = 0,
    baselines: dict[str, Learner] | None = None,
    chunk: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Mean accuracy with its 95% interval over tasks, and that of each baseline on the same tasks.

    A transductive learner's entry also has "inductive": its accuracy when each query is predicted without the others.

    Raises:
        UpstairsError: fewer than 2 tasks, or a way that the learner cannot answer.
    """
    if tasks < 2:
        raise UpstairsError(f"--tasks is {tasks}: an interval needs 2 or more, and a result worth telling 600 or more")
    seeds = frozen_seeds(seed, tasks)
    opponents = baselines or {}
    total = tasks * (1 + len(opponents) + learner.transductive)

    def part(place: int) -> Progress | None:
        return progress and (lambda done, _: progress(place * tasks + done, total))

    own = interval(score_tasks(learner, episodes, seeds, chunk=chunk, progress=part(0)))
    others = {
        name: interval(score_tasks(opponent, episodes, seeds, chunk=chunk, progress=part(i + 1)))
        for i, (name, opponent) in enumerate(opponents.items())
    }
    both = {}
    if learner.transductive:
        single = interval(
            score_tasks(learner, episodes, seeds, alone=True, chunk=chunk, progress=part(len(others) + 1))
        )
        both = {"inductive": {"accuracy": single.mean, "ci95": single.ci95}}
    return {
        "way": episodes.way[1],
        "shot": episodes.shot[1],
        "query": episodes.query,
        "tasks": tasks,
        "seed": seed,
        "accuracy": own.mean,
        "ci95": own.ci95,
        "transductive": learner.transductive,
        **both,
        "baselines": {
            name: {"accuracy": score.mean, "ci95": score.ci95, "transductive": opponents[name].transductive}
            for name, score in others.items()
        },
    }
