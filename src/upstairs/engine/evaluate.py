"""Evaluation on frozen lists of tasks: one score per task, for a learner and its baselines on the same tasks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from upstairs.console import score_name, write_likelihood, write_mean, write_task
from upstairs.core import Learner, Task, check_measured, evaluating
from upstairs.data.episodes import Episodes
from upstairs.data.seeds import task_seed
from upstairs.engine.calibrate import calibrate
from upstairs.engine.metrics import LIKELIHOOD, ScoreKind, score_kind
from upstairs.engine.precompute import embedded
from upstairs.errors import UpstairsError, check_type
from upstairs.functional.waiting import wait_considerately
from upstairs.learners.baselines import plain_baselines
from upstairs.ranks import assigned, joined_parts
from upstairs.statistics import interval
from upstairs.tree import to_device_of

Progress = Callable[[int, int], None]  # (done, total)
EVALUATION = 2**20  # evaluation streams start here: training streams (0, 1, ...) never meet their tasks


def frozen_seeds(seed: int, tasks: int) -> list[int]:
    """Returns the task seeds of evaluation list `seed`, so that two learners receive the same tasks."""
    return [task_seed(EVALUATION + seed, i) for i in range(tasks)]


@torch.inference_mode(False)
def score_tasks(
    learner: Learner,
    episodes: Episodes,
    seeds: Iterable[int],
    *,
    inductive: bool = False,
    kind: ScoreKind | None = None,
    chunk: int | None = None,
    progress: Progress | None = None,
) -> Float[np.ndarray, " task"]:
    """Returns the score of each task, on its queries; no graph is built. Several processes divide the chunks.

    Args:
        inductive: predict each query without the others, which a transductive learner otherwise sees.
        kind: the kind of score; None: the one that suits the tasks.
        chunk: tasks in memory at a time; None: up to 32, fewer where they are large.

    Raises:
        UpstairsError: population statistics that were never measured, or a way that the learner does not support.
    """
    seeds = list(seeds)
    total = len(seeds)
    wait_considerately(learner)
    learner = learner.for_way(episodes.largest_way)
    scores: list[Tensor] = []
    kind = kind or score_kind(episodes)

    def tell(done: float) -> None:
        if progress:
            progress(int(done), total)

    with evaluating(learner):
        check_measured(learner)  # before examples are embedded
        before = episodes
        learner, episodes = embedded(learner, before, total, lambda share: tell(share * total / 2))
        half = total // 2 * (episodes is not before)  # embedding counts as half of the work
        chunk = chunk or chunk_size(episodes)
        starts = range(0, total, chunk)
        for start in (starts[k] for k in assigned(len(starts))):  # all of them, unless several processes divide them
            tasks = to_device_of(learner, episodes.batch(seeds[start : start + chunk]))
            scores.append(kind.of(learner.solve_inductive(tasks) if inductive else learner.solve(tasks), tasks).cpu())
            tell(half + (total - half) * min(start + chunk, total) / total)
    return torch.cat(joined_parts(scores)).double().numpy()


def chunk_size(episodes: Episodes) -> int:
    """Returns the number of tasks with 500,000 values (640 images of 28x28) in all: more are no faster."""
    values = (episodes.largest_way or 1) * (episodes.shot[1] + episodes.query) * prod(episodes.source.feature_shape)
    return min(32, max(1, 500_000 // values))


class Scores(NamedTuple):
    """The score of each task: the learner's, its inductive one where that differs, and the baselines'."""

    own: Float[np.ndarray, " task"]
    inductive: Float[np.ndarray, " task"] | None
    baselines: dict[str, Float[np.ndarray, " task"]]

    def named(self, name: str) -> dict[str, Float[np.ndarray, " task"]]:
        """Returns the learner's scores by their names in a comparison."""
        return {name: self.own} | ({} if self.inductive is None else {f"{name}, one query at a time": self.inductive})


def score_with_baselines(
    learner: Learner,
    episodes: Episodes,
    seeds: Sequence[int],
    *,
    baselines: Mapping[str, Learner],
    chunk: int | None = None,
    progress: Progress | None = None,
    score: Callable[..., Float[np.ndarray, " task"]] = score_tasks,
) -> Scores:
    """Scores a learner and its baselines on the same tasks.

    Args:
        score: `score_tasks`, or a version of it that caches.
    """
    total = len(seeds) * (1 + learner.transductive + len(baselines))
    done = 0

    def scored(contestant: Learner, inductive: bool = False) -> Float[np.ndarray, " task"]:
        nonlocal done
        before = done
        tell = progress and (lambda here, _: progress(before + here, total))
        done += len(seeds)
        return score(contestant, episodes, seeds, inductive=inductive, chunk=chunk, progress=tell)

    own = scored(learner)
    others = {name: scored(baseline) for name, baseline in baselines.items()}
    return Scores(own, scored(learner, inductive=True) if learner.transductive else None, others)


def evaluate(
    learner: Learner,
    episodes: Episodes,
    *,
    tasks: int = 600,
    seed: int = 0,
    training: Episodes | Iterable[Task] | None = None,
    baselines: Mapping[str, Learner] | None = None,
    chunk: int | None = None,
    progress: Progress | None = None,
) -> "Evaluation":
    """Returns the mean score (accuracy or "mse") with its 95% interval over tasks, and those of baselines.

        print(upstairs.evaluate(learner, test_tasks, training=train_tasks))

    A transductive learner's entry also has "inductive": its score when each query is predicted without the others.
    A learner that predicts a Gaussian also has "likelihood": the mean log-likelihood of a query, in nats.

    Args:
        tasks: the number of tasks, from the frozen list `seed`: two learners receive the same ones.
        training: the training episodes, on which the learner's population statistics are measured first (see
            `calibrate`).
        baselines: by name; None: the baselines without learning that suit the tasks, such as the nearest centroid of
            raw inputs; {}: none.
        chunk: tasks in memory at a time; None: up to 32, fewer where they are large.

    Raises:
        UpstairsError: fewer than 2 tasks, a way that the learner does not support, or population statistics that were
            never measured.
    """
    check_type("learner", learner, Learner, "a learner, such as `run.learner` of a run")
    check_type("episodes", episodes, Episodes, "the tasks, such as Episodes(source, way=5, shot=1)")
    seeds = enough_seeds(seed, tasks)
    check_type("baselines", baselines, (Mapping, NoneType), "a dict of learners, {} for none, or None")
    for name, baseline in (baselines or {}).items():
        check_type(f"baselines[{name!r}]", baseline, Learner, "a learner")
    if chunk is not None and not chunk >= 1:
        raise UpstairsError(f"`chunk` is {chunk}: it must be at least 1")
    if training is not None:
        calibrate(learner, training)
    if baselines is None:
        baselines = plain_baselines(episodes.source, episodes.largest_way)
    scores = score_with_baselines(learner, episodes, seeds, baselines=baselines, chunk=chunk, progress=progress)
    return describe_scores(scores, learner, episodes, tasks=tasks, seed=seed, baselines=baselines)


class Evaluation(dict[str, Any]):
    """The result of `evaluate`: a dict, ready for json; printed, it is a few lines of plain text."""

    def __str__(self) -> str:
        own = f"{score_name(self)} {write_mean(self).rstrip('†')} (95% interval over {self['tasks']} tasks)"
        lines = [f"{write_task(self)}, {self['query']} queries{' a class' if self['way'] else ''}: {own}"]
        if self["transductive"]:
            lines.append("transductive: it sees all queries of a task at once")
            lines.append(f"inductive, one query at a time: {write_mean(self['inductive'])}")
        elif self["way"] != 1:
            lines.append("inductive: each query is predicted without the others")
        if likelihood := write_likelihood(self):
            lines.append(likelihood)
        for name, score in self["baselines"].items():
            lines.append(f"baseline {name.replace('_', ' ')}: {write_mean(score)}")
        return "\n".join(lines)


def describe_likelihood(learner: Learner, episodes: Episodes, seeds: Sequence[int]) -> dict[str, Any]:
    """Returns the mean log-likelihood of a query in nats with its interval; {} where predictions are not Gaussian."""
    if not learner.gaussian:
        return {}
    return {"likelihood": describe_score(score_tasks(learner, episodes, seeds, kind=LIKELIHOOD), LIKELIHOOD)}


def enough_seeds(seed: int, tasks: int) -> list[int]:
    """Returns the frozen list of tasks; refuses one that is too short for an interval."""
    check_type("tasks", tasks, int, "the number of tasks")
    check_type("seed", seed, int, "a whole number")
    if tasks < 2:
        raise UpstairsError(f"`tasks` is {tasks}: an interval needs 2 or more, and a result worth telling 600 or more")
    return frozen_seeds(seed, tasks)


def describe_scores(
    scores: Scores, learner: Learner, episodes: Episodes, *, tasks: int, seed: int, baselines: Mapping[str, Learner]
) -> Evaluation:
    """Returns the result of `evaluate`."""
    kind, seeds = score_kind(episodes), frozen_seeds(seed, tasks)
    found = {
        "way": episodes.largest_way,
        "shot": episodes.shot[1],
        "query": episodes.query,
        "tasks": tasks,
        "seed": seed,
        **describe_score(scores.own, kind),
        **describe_likelihood(learner, episodes, seeds),
        "transductive": learner.transductive,
        **({} if scores.inductive is None else {"inductive": describe_score(scores.inductive, kind)}),
        "baselines": {
            name: {
                **describe_score(own, kind),
                **describe_likelihood(baselines[name], episodes, seeds),
                "transductive": baselines[name].transductive,
            }
            for name, own in scores.baselines.items()
        },
    }
    return Evaluation(found)


def describe_score(values: Float[np.ndarray, " task"], kind: ScoreKind) -> dict[str, Any]:
    """Returns the mean over tasks with its interval."""
    mean, ci95 = interval(values)
    return {kind.name: mean, "ci95": ci95}
