"""The meta-step: the meta-gradient of a batch of tasks, a few tasks at a time, refusing what is not finite."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from upstairs.core import Examples, Learner, Task
from upstairs.errors import NonFiniteError
from upstairs.tree import take


class Step(NamedTuple):
    """What a meta-step gives beside the gradients: detached, per task."""

    losses: Float[Tensor, " task"]
    predictions: Float[Tensor, "task n out"]


def meta_step(learner: Learner, tasks: Task, *, chunk: int | None = None) -> Step:
    """Write the meta-gradient, the mean over `tasks`, into the `.grad` of the learner's parameters.

    Args:
        tasks: a batch, every leaf with a leading task axis.
        chunk: how many tasks at a time (all where None); the result is the same, the memory is that of a chunk.

    Raises:
        NonFiniteError: a task's loss, or its gradient, is NaN or infinite; the parameters' `.grad` is cleared.
    """
    learner.zero_grad(set_to_none=True)
    count = len(tasks.query.mask)
    steps = []
    for start, part in chunks(tasks, chunk or count):
        losses, predictions = learner(part)
        refuse_non_finite(losses, start)
        (losses.sum() / count).backward()
        steps.append(Step(losses.detach(), predictions.detach()))
    if not _gradients_finite(learner):
        index = _first_bad_gradient(learner, tasks)
        learner.zero_grad(set_to_none=True)
        raise NonFiniteError(f"the meta-gradient of task {index} of the batch is not finite", index=index)
    return Step(*(torch.cat(parts) for parts in zip(*steps, strict=True)))


def chunks(tasks: Task, size: int) -> Iterator[tuple[int, Task]]:
    """Consecutive tasks, at most `size` at a time, with the place of the first.

    Columns that are padding in all of them are cut off: a single task has none, so its batch statistics are its own.
    """
    for start in range(0, len(tasks.query.mask), size):
        part = take(tasks, slice(start, start + size))
        yield start, Task(*(Examples(*(leaf[:, : _widest(e.mask)] for leaf in e)) for e in part))


def _widest(mask: Bool[Tensor, "task n"]) -> int:
    """One more than the last column that is not padding."""
    used = mask.any(0).nonzero()
    return int(used[-1]) + 1 if len(used) else 0


def refuse_non_finite(losses: Float[Tensor, " task"], start: int = 0) -> None:
    """Raise NonFiniteError for the first task whose loss is NaN or infinite."""
    if not (finite := losses.detach().isfinite()).all():
        index = start + int((~finite).nonzero()[0])
        raise NonFiniteError(f"the loss of task {index} of the batch is {losses[index - start].item()}", index=index)


def _gradients_finite(learner: nn.Module) -> bool:
    grads = [p.grad for p in learner.parameters() if p.grad is not None]
    # one non-finite number makes the sum of absolute values non-finite
    return not grads or bool(torch.stack(torch._foreach_norm(grads, 1)).sum().isfinite())


def _first_bad_gradient(learner: Learner, tasks: Task) -> int:
    """Which single task's gradient is not finite; the first where only the sum overflows."""
    for index in range(len(tasks.query.mask)):
        learner.zero_grad(set_to_none=True)
        learner(take(tasks, slice(index, index + 1)))[0].sum().backward()
        if not _gradients_finite(learner):
            return index
    return 0
