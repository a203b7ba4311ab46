"""Task augmentation against overfitting: mixed tasks (MLTI), mixed queries (MetaMix), smoothed labels.

A label may be a distribution over classes: query.y is then [task, n, way] of probabilities instead of [task, n] of
class numbers. `cross_entropy` takes both.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from upstairs.core import Examples, Task
from upstairs.settings import Settings

PARTNERS = 2**18  # distance in streams between a task and the one it is mixed with; no training task lies there


def remedied(
    tasks: Task, seeds: Sequence[int], settings: Settings, *, global_labels: bool, draw: Callable[[list[int]], Task]
) -> Task:
    """Returns the tasks augmented as the settings ask; a pure function of the seeds.

    Args:
        global_labels: the learner classifies all training classes, in support set and queries.
        draw: seeds -> tasks, to mix these with.
    """
    outputs = settings.classes if global_labels and settings.classes else settings.way or 0
    if settings.interpolate == "mlti":
        others = draw([seed + (PARTNERS << 31) for seed in seeds])
        tasks = mix_tasks(tasks, others, shares(seeds, settings.mixing, 1)[:, 0])
    elif settings.interpolate == "metamix":
        tasks = mix_queries(tasks, seeds, settings.mixing, outputs=outputs)
    if settings.label_smoothing:
        query = smoothed(tasks.query, settings.label_smoothing, outputs=outputs)
        support = smoothed(tasks.support, settings.label_smoothing, outputs=outputs) if global_labels else tasks.support
        tasks = Task(support, query)
    return tasks


def shares(seeds: Sequence[int], mixing: float, count: int) -> Float[Tensor, "task count"]:
    """Draws `count` numbers from Beta(mixing, mixing) for each task."""
    rows = [np.random.default_rng([1, seed]).beta(mixing, mixing, count) for seed in seeds]
    return torch.from_numpy(np.stack(rows)).float()


def mix_tasks(tasks: Task, others: Task, share: Float[Tensor, " task"]) -> Task:
    """Interpolates tasks (MLTI; Yao, Zhang and Finn 2022): class k of the result mixes class k of both.

        x = share x_1 + (1 - share) x_2,   share ~ Beta(a, a), one for the support set and queries of a task

    Labels stay, since the mixture is a new class; regression targets are mixed as well (the paper's shared labels). The
    paper mixes at a random layer and its code for pictures at the inputs, as here, which suits any learner.

    Args:
        tasks, others: with the same classes at the same places, as one `Episodes` draws them.
    """

    def mix(one: Examples, other: Examples) -> Examples:
        y = one.y if one.y.ndim == 2 else blend(one.y, other.y, share)
        return Examples(blend(one.x, other.x, share), y, one.mask & other.mask)

    return Task(*(mix(one, other) for one, other in zip(tasks, others, strict=True)))


def blend(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Returns share * one + (1 - share) * other; `share` has the first axes of both."""
    return torch.lerp(other, one, share.reshape(*share.shape, *(1,) * (one.ndim - share.ndim)))


def mix_queries(tasks: Task, seeds: Sequence[int], mixing: float, *, outputs: int) -> Task:
    """Mixes each query, and its label, with a support example of its task (MetaMix; Yao et al. 2021).

        x = share x_query + (1 - share) x_support,   y likewise,   share ~ Beta(a, a) for each query

    The support set stays as it is. Inputs are mixed, where the paper draws a layer.
    """
    support, query = tasks
    rows = []
    for seed, mask in zip(seeds, support.mask, strict=True):
        real = np.flatnonzero(mask.numpy())
        rows.append(np.random.default_rng([2, seed]).choice(real, query.mask.shape[1]))
    place, task = torch.from_numpy(np.stack(rows)), torch.arange(len(rows))[:, None]
    share = shares(seeds, mixing, query.mask.shape[1])
    own, other = (part.y if part.y.ndim == 3 else F.one_hot(part.y, outputs).float() for part in (query, support))
    mixed = Examples(blend(query.x, support.x[task, place], share), blend(own, other[task, place], share), query.mask)
    return Task(support, mixed)


def smoothed(examples: Examples, share: float, *, outputs: int) -> Examples:
    """Smooths labels (Szegedy et al. 2016): y = (1 - share) y + share / outputs."""
    y = examples.y if examples.y.ndim == 3 else F.one_hot(examples.y, outputs).float()
    return examples._replace(y=(1 - share) * y + share / outputs)


def with_places(tasks: Task) -> Task:
    """Replaces queries' class probabilities by the likeliest class, for accuracy. Not for regression."""
    y = tasks.query.y
    return tasks._replace(query=tasks.query._replace(y=y.argmax(-1))) if y.ndim == 3 else tasks
