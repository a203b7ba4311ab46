"""What layers with running statistics saw, gathered while tasks adapt and written once, after the meta-step.

torch's batch norm writes its running statistics in every pass. Here nothing is written while tasks adapt:
`meta_backward` writes the mean over tasks and passes once.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

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


@torch.no_grad()
def write_running_statistics(learner: nn.Module, moments: Moments) -> None:
    """What torch's batch norms would have written, once: the mean over this step's tasks and passes."""
    for m in learner.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and (seen := moments.get(id(m.running_mean))):
            if m.running_mean is None or m.running_var is None:
                continue
            if m.num_batches_tracked is not None:
                m.num_batches_tracked.add_(1)
            number = 1.0 if m.num_batches_tracked is None else float(m.num_batches_tracked)
            rate = 1 / number if m.momentum is None else m.momentum
            m.running_mean.lerp_(torch.stack([mean for mean, _, _ in seen]).mean(0), rate)
            m.running_var.lerp_(torch.stack([variance for _, variance, _ in seen]).mean(0), rate)
