"""Scores on frozen lists of tasks: one number per task, beside the plain baselines on the same tasks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from upstairs.core import Learner, Task, evaluating, gaussian_nll
from upstairs.embedded import embedded
from upstairs.errors import UpstairsError
from upstairs.statistics import interval
from upstairs.tasks.episodes import Episodes
from upstairs.tasks.seeds import task_seed
from upstairs.tree import beside

Progress = Callable[[int, int], None]  # (done, total)
EVALUATION = 2**20  # evaluation streams start here: training streams (0, 1, ...) never meet their tasks


def frozen_seeds(seed: int, tasks: int) -> list[int]:
    """The task seeds of evaluation list `seed`: two learners meet the same tasks."""
    return [task_seed(EVALUATION + seed, i) for i in range(tasks)]


def task_accuracy(predictions: Float[Tensor, "task n way"], tasks: Task) -> Float[Tensor, " task"]:
    """The share of each task's real queries whose largest logit is that of the true class."""
    right = (predictions.argmax(-1) == tasks.query.y) & tasks.query.mask
    return right.sum(-1) / tasks.query.mask.sum(-1).clamp(min=1)


def hardest_classes(predictions: Float[Tensor, "task n way"], tasks: Task) -> list[int]:
    """For each task the label of the class whose queries were answered worst."""
    member = F.one_hot(tasks.query.y, predictions.shape[-1]) * tasks.query.mask[..., None]
    right = (predictions.argmax(-1) == tasks.query.y)[..., None] * member
    share = right.sum(1) / member.sum(1)  # NaN for a class without queries
    return share.nan_to_num(nan=2.0).argmin(-1).tolist()


def task_squared_error(predictions: Float[Tensor, "task n d"], tasks: Task) -> Float[Tensor, " task"]:
    """The mean squared error of each task's real queries; of a Gaussian's [mean, log scale] the mean is taken."""
    means = predictions[..., : tasks.query.y.shape[-1]]
    errors = torch.where(tasks.query.mask, (means - tasks.query.y).square().sum(-1), 0.0)
    return errors.sum(-1) / tasks.query.mask.sum(-1).clamp(min=1)


def task_likelihood(predictions: Float[Tensor, "task n d2"], tasks: Task) -> Float[Tensor, " task"]:
    """The mean log-likelihood of each task's real queries, in nats per query, where predictions are Gaussians."""
    each = -gaussian_nll(predictions.flatten(0, 1), tasks.query.y.flatten(0, 1)).reshape(tasks.query.mask.shape)
    return torch.where(tasks.query.mask, each, 0.0).sum(-1) / tasks.query.mask.sum(-1).clamp(min=1)


def task_bound(predictions: Float[Tensor, "task n 1"], tasks: Task) -> Float[Tensor, " task"]:
    """The mean over each task's real queries of what was predicted of them, such as a bound on their likelihood."""
    return torch.where(tasks.query.mask, predictions[..., 0], 0.0).sum(-1) / tasks.query.mask.sum(-1).clamp(min=1)


class ScoreKind(NamedTuple):
    """How tasks are judged."""

    name: str  # its key in results
    of: Callable[[Tensor, Task], Tensor]  # (predictions, tasks) -> one score per task
    less_is_better: bool

    def better(self, score: float, other: float) -> bool:
        return score < other if self.less_is_better else score > other


ACCURACY = ScoreKind("accuracy", task_accuracy, False)
SQUARED_ERROR = ScoreKind("mse", task_squared_error, True)
BOUND = ScoreKind("bound", task_bound, False)
LIKELIHOOD = ScoreKind("likelihood", task_likelihood, False)  # beside the squared error, where predictions are Gaussian


def score_kind(episodes: Episodes) -> ScoreKind:
    """Accuracy (0 to 1) for classes, mean squared error for functions, a bound in nats for sets of one class."""
    if episodes.source.functions:
        return SQUARED_ERROR
    return BOUND if episodes.way[1] == 1 else ACCURACY


def score_tasks(
    learner: Learner,
    episodes: Episodes,
    seeds: Iterable[int],
    *,
    alone: bool = False,
    kind: ScoreKind | None = None,
    chunk: int | None = None,
    progress: Progress | None = None,
) -> Float[np.ndarray, " task"]:
    """The score of each task, on its queries. Nothing but these numbers is kept, and no graph is built.

    Args:
        alone: predict each query without the others, which a transductive learner otherwise sees.
        kind: how they are judged; None is what suits the tasks.
        chunk: tasks in memory at a time; None is up to 32, fewer where they are large.
    """
    seeds = list(seeds)
    total = len(seeds)
    learner = learner.for_way(episodes.way[1])
    scores: list[Tensor] = []
    kind = kind or score_kind(episodes)

    def tell(done: float) -> None:
        if progress:
            progress(int(done), total)

    with evaluating(learner):
        before = episodes
        learner, episodes = embedded(learner, before, total, lambda share: tell(share * total / 2))
        half = total // 2 * (episodes is not before)  # of the work, where examples were embedded first
        chunk = chunk or chunk_size(episodes)
        for start in range(0, total, chunk):
            tasks = beside(learner, episodes.batch(seeds[start : start + chunk]))
            scores.append(kind.of(learner.solve_alone(tasks) if alone else learner.solve(tasks), tasks).cpu())
            tell(half + (total - half) * min(start + chunk, total) / total)
    return torch.cat(scores).double().numpy()


def chunk_size(episodes: Episodes) -> int:
    """As many tasks as hold 500,000 values (640 images of 28x28) in all: more takes memory and wins no time."""
    values = max(1, episodes.way[1]) * (episodes.shot[1] + episodes.query) * prod(episodes.source.feature_shape)
    return min(32, max(1, 500_000 // values))


class Scores(NamedTuple):
    """The score of each task: the learner's, with each query alone where that differs, and the baselines'."""

    own: Float[np.ndarray, " task"]
    alone: Float[np.ndarray, " task"] | None
    baselines: dict[str, Float[np.ndarray, " task"]]

    def named(self, name: str) -> dict[str, Float[np.ndarray, " task"]]:
        """The learner's scores by what they are called beside those of others."""
        return {name: self.own} | ({} if self.alone is None else {f"{name}, one query at a time": self.alone})


def score_beside(
    learner: Learner,
    episodes: Episodes,
    seeds: Sequence[int],
    *,
    baselines: Mapping[str, Learner],
    chunk: int | None = None,
    progress: Progress | None = None,
    score: Callable[..., Float[np.ndarray, " task"]] = score_tasks,
) -> Scores:
    """A learner and its baselines on the same tasks.

    Args:
        score: `score_tasks`, or one like it that remembers.
    """
    total = len(seeds) * (1 + learner.transductive + len(baselines))
    done = 0

    def scored(contestant: Learner, alone: bool = False) -> Float[np.ndarray, " task"]:
        nonlocal done
        before = done
        tell = progress and (lambda here, _: progress(before + here, total))
        done += len(seeds)
        return score(contestant, episodes, seeds, alone=alone, chunk=chunk, progress=tell)

    own = scored(learner)
    others = {name: scored(opponent) for name, opponent in baselines.items()}
    return Scores(own, scored(learner, alone=True) if learner.transductive else None, others)


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
    """The mean score (accuracy, or "mse") with its 95% interval over tasks, and each baseline's on the same tasks.

    A transductive learner's entry also has "inductive": its score when each query is predicted without the others.
    Those that predict a Gaussian also have "likelihood": the mean log-likelihood of a query, in nats.

    Raises:
        UpstairsError: fewer than 2 tasks, or a way that the learner cannot answer.
    """
    opponents = baselines or {}
    seeds = enough_seeds(seed, tasks)
    scores = score_beside(learner, episodes, seeds, baselines=opponents, chunk=chunk, progress=progress)
    return describe_scores(scores, learner, episodes, tasks=tasks, seed=seed, baselines=opponents)


def describe_likelihood(learner: Learner, episodes: Episodes, seeds: Sequence[int]) -> dict[str, Any]:
    """The mean log-likelihood of a query in nats and its interval; nothing where predictions are not Gaussian."""
    if not learner.gaussian:
        return {}
    return {"likelihood": describe_score(score_tasks(learner, episodes, seeds, kind=LIKELIHOOD), LIKELIHOOD)}


def enough_seeds(seed: int, tasks: int) -> list[int]:
    """The frozen list of tasks, refused where it is too short for an interval."""
    if tasks < 2:
        raise UpstairsError(f"--tasks is {tasks}: an interval needs 2 or more, and a result worth telling 600 or more")
    return frozen_seeds(seed, tasks)


def describe_scores(
    scores: Scores, learner: Learner, episodes: Episodes, *, tasks: int, seed: int, baselines: Mapping[str, Learner]
) -> dict[str, Any]:
    """What `evaluate` returns."""
    kind, seeds = score_kind(episodes), frozen_seeds(seed, tasks)
    return {
        "way": episodes.way[1],
        "shot": episodes.shot[1],
        "query": episodes.query,
        "tasks": tasks,
        "seed": seed,
        **describe_score(scores.own, kind),
        **describe_likelihood(learner, episodes, seeds),
        "transductive": learner.transductive,
        **({} if scores.alone is None else {"inductive": describe_score(scores.alone, kind)}),
        "baselines": {
            name: {
                **describe_score(own, kind),
                **describe_likelihood(baselines[name], episodes, seeds),
                "transductive": baselines[name].transductive,
            }
            for name, own in scores.baselines.items()
        },
    }


def describe_score(values: Float[np.ndarray, " task"], kind: ScoreKind) -> dict[str, Any]:
    """The mean over tasks and its interval."""
    mean, ci95 = interval(values)
    return {kind.name: mean, "ci95": ci95}
