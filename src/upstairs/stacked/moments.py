"""What layers with running statistics saw, gathered while tasks adapt and written once, after the meta-step.

torch's batch norm writes its running statistics in every pass. Here nothing is written while tasks adapt: `meta_step`
writes the mean over tasks and passes once.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

Moments = dict[int, list[tuple[Tensor, Tensor, float]]]  # id of running_mean -> (mean, unbiased variance, momentum)
GATHERING: list[Moments] = []


@contextmanager
def running_statistics() -> Iterator[Moments]:
    """The batch statistics that layers with running ones used while the context was open, for each use."""
    GATHERING.append({})
    try:
        yield GATHERING[-1]
    finally:
        GATHERING.pop()


def gather(running: Tensor | None, mean: Tensor, variance: Tensor, n: int, momentum: float) -> None:
    """Note the statistics [channels] of one use, the mean over tasks."""
    for moments in GATHERING:
        if running is not None:
            unbiased = variance.detach() * (n / max(n - 1, 1))
            moments.setdefault(id(running), []).append((mean.detach(), unbiased, momentum))
