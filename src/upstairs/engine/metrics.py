"""Scores of tasks: accuracy, squared error, likelihood, a bound."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from upstairs.core import Task, gaussian_nll
from upstairs.data.episodes import Episodes


def task_accuracy(predictions: Float[Tensor, "task n way"], tasks: Task) -> Float[Tensor, " task"]:
    """Computes each task's accuracy on its queries, padding left out."""
    right = (predictions.argmax(-1) == tasks.query.y) & tasks.query.mask
    return right.sum(-1) / tasks.query.mask.sum(-1).clamp(min=1)


def hardest_classes(predictions: Float[Tensor, "task n way"], tasks: Task) -> list[int]:
    """Returns for each task the label of the class with the lowest accuracy."""
    member = F.one_hot(tasks.query.y, predictions.shape[-1]) * tasks.query.mask[..., None]
    right = (predictions.argmax(-1) == tasks.query.y)[..., None] * member
    share = right.sum(1) / member.sum(1)  # NaN for a class without queries
    return share.nan_to_num(nan=2.0).argmin(-1).tolist()


def task_squared_error(
    predictions: Float[Tensor, "task n d"], tasks: Task, *, units: tuple[float, ...] = ()
) -> Float[Tensor, " task"]:
    """Computes each task's mean squared error on its queries; a Gaussian [mean, log scale] predicts its mean.

    Args:
        units: factors of the errors of each target; empty: 1.
    """
    error = predictions[..., : tasks.query.y.shape[-1]] - tasks.query.y
    error = error * torch.tensor(units).to(error) if units else error
    errors = torch.where(tasks.query.mask, error.square().sum(-1), 0.0)
    return errors.sum(-1) / tasks.query.mask.sum(-1).clamp(min=1)


def task_likelihood(predictions: Float[Tensor, "task n d2"], tasks: Task) -> Float[Tensor, " task"]:
    """Computes the mean log-likelihood of each task's queries under Gaussian predictions, in nats per query."""
    each = -gaussian_nll(predictions.flatten(0, 1), tasks.query.y.flatten(0, 1)).reshape(tasks.query.mask.shape)
    return torch.where(tasks.query.mask, each, 0.0).sum(-1) / tasks.query.mask.sum(-1).clamp(min=1)


def task_bound(predictions: Float[Tensor, "task n 1"], tasks: Task) -> Float[Tensor, " task"]:
    """Computes the mean over each task's queries of the predicted value, such as a bound on their likelihood."""
    return torch.where(tasks.query.mask, predictions[..., 0], 0.0).sum(-1) / tasks.query.mask.sum(-1).clamp(min=1)


class ScoreKind(NamedTuple):
    """A way to score tasks."""

    name: str  # its key in results
    of: Callable[[Tensor, Task], Tensor]  # (predictions, tasks) -> one score per task
    less_is_better: bool

    def better(self, score: float, other: float) -> bool:
        return score < other if self.less_is_better else score > other


ACCURACY = ScoreKind("accuracy", task_accuracy, False)
SQUARED_ERROR = ScoreKind("mse", task_squared_error, True)
BOUND = ScoreKind("bound", task_bound, False)
LIKELIHOOD = ScoreKind("likelihood", task_likelihood, False)  # in addition to the squared error, for Gaussians


def score_kind(episodes: Episodes) -> ScoreKind:
    """Returns accuracy (0 to 1) for classification, mean squared error for regression, a bound for generation.

    The squared error is in the units of the targets.
    """
    if episodes.source.functions:
        units = episodes.source.format.units if episodes.source.format else ()
        return SQUARED_ERROR._replace(of=partial(task_squared_error, units=units)) if units else SQUARED_ERROR
    return BOUND if episodes.task_kind == "generation" else ACCURACY
