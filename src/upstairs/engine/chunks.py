"""Division of a batch of tasks into chunks."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from upstairs.core import Examples, Task
from upstairs.nets.norm import BatchNorm
from upstairs.tree import index


def depends_on_the_batch(learner: nn.Module) -> bool:
    """Returns whether the learner normalises by batch statistics, in which padding would count."""
    return any(
        (m.training and isinstance(m, BatchNorm | nn.modules.batchnorm._BatchNorm))
        or (isinstance(m, BatchNorm) and m.statistics == "batch")
        or (isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is None)
        for m in learner.modules()
    )  # fmt: skip


def chunks(tasks: Task, size: int, *, whole: bool = False) -> Iterator[tuple[list[int], Task]]:
    """Yields at most `size` tasks at a time, with their places in the batch; columns of padding alone are cut off.

    Args:
        whole: only tasks of equal size share a chunk, so that none of them is padded.
    """
    count, full = len(tasks.query.mask), bool(tasks.support.mask.all()) and bool(tasks.query.mask.all())
    if full and size >= count:
        yield list(range(count)), tasks
        return
    groups: dict[Any, list[int]] = {}
    for i in range(count):
        key = tuple(int(e.mask[i].sum()) for e in tasks) if whole and not full else None
        groups.setdefault(key, []).append(i)
    for places in groups.values():
        for start in range(0, len(places), size):
            here = places[start : start + size]
            run = here[-1] - here[0] + 1 == len(here)
            part = index(tasks, slice(here[0], here[-1] + 1) if run else torch.tensor(here))
            yield here, part if full else Task(*(_trimmed(e) for e in part))


def _trimmed(examples: Examples) -> Examples:
    used = examples.mask.any(0).nonzero()
    widest = int(used[-1]) + 1 if len(used) else 0
    return Examples(*(leaf[:, :widest] for leaf in examples))
