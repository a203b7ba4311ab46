"""One meta-step by several processes: the same bits for any number of them.

The tasks of a step are divided into shards, which belong to the run; processes only compute them. A shard has its own
tasks and its own random numbers. The gradients of the shards are added in the order of the shards, never in that of the
network, so that a run may go on with more or fewer processes.

    import upstairs as up
    with up.distributed.process_group():              # in a program that torchrun started, or alone
        for step in range(1000):
            optimizer.zero_grad()
            batch = episodes.batch(seeds(step))           # the same on every process
            up.distributed.meta_backward(learner, batch, shards=8, seed=step)
            optimizer.step()
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from upstairs import ranks
from upstairs.core import Learner, Task
from upstairs.engine.meta_backward import MetaStep, added_to_grads
from upstairs.engine.meta_backward import meta_backward as backward_of_one
from upstairs.errors import NonFiniteError, UpstairsError, reason
from upstairs.functional.batching.norms import tracks_statistics
from upstairs.functional.exclusive import alone
from upstairs.ranks import process_group, rank, world
from upstairs.tree import index, modules_of, parameters_of

LARGE = 10_000_000  # numbers in the gradients of all shards: from here on each process adds one slice of them


class ShardedStep(NamedTuple):
    """The result of a step, the same on every process."""

    losses: Float[Tensor, " task"]
    notes: Float[Tensor, "task k"]  # what `note` returned for each task
    flags: list[tuple[float, ...]]  # what each process gave


class _Shard(NamedTuple):
    """What the processes tell each other about a shard, besides its gradient."""

    losses: Tensor
    notes: Tensor
    has: list[bool]  # which parameters have a gradient
    running: list[Tensor]  # statistics of torch's batch norms after the shard


def sharded_backward(
    learner: Learner,
    tasks: Task | Callable[[int], Task],
    *,
    shards: int | None = None,
    seed: int = 0,
    backward: Callable[[Learner, Task], MetaStep] = backward_of_one,
    note: Callable[[MetaStep, Task], Float[Tensor, "task k"]] | None = None,
    flags: tuple[float, ...] = (),
) -> ShardedStep:
    """Adds the meta-gradient, the mean over all tasks, to `.grad` on every process.

    The result depends on `shards`, `seed` and the number of threads of a process, and not on the number of processes.
    In training mode torch's batch norms get the mean of the running statistics that the shards would give them.

    Args:
        tasks: a batch, the same on every process; or a function that draws the tasks of one shard.
        shards: the number of parts of equal size, a multiple of the number of processes. None: one for each process.
        seed: of torch's random numbers: shard k has `seed + k`. The global generator is unchanged afterwards.
        backward: computes one shard, such as `functools.partial(upstairs.meta_backward, memory="2 GiB")`.
        note: numbers for each task of a shard, which every process receives for all tasks.
        flags: numbers that every process tells the others.

    Raises:
        NonFiniteError: a loss or gradient is not finite on any process, on all of them; `.grad` is unchanged.
        LostProcessError: another process ended, or cannot be reached within 60 seconds.
        UpstairsError: shards that do not fit; or what any process failed with, on all of them.
    """
    shards = ranks.world() if shards is None else shards
    check_shards(shards, None if callable(tasks) else len(tasks.query.mask))
    draw = tasks if callable(tasks) else partial(_slice, tasks, shards)
    parameters, running = parameters_of(modules_of(learner)), _running_statistics(learner)
    before = [b.clone() for b in running]
    gradients: list[Tensor] = []
    told: list[_Shard] = []
    failed: Exception | None = None
    with added_to_grads(parameters):
        for k in ranks.assigned(shards):
            for p in parameters:
                p.grad = None
            _write(running, before)
            part: Task | None = None
            try:
                part = draw(k)
                with alone(), torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed + k)
                    step = backward(learner, part)
                notes = note(step, part) if note else step.losses.new_zeros(len(step.losses), 0)
            except Exception as error:
                _write(running, before)
                failed = _in_batch(error, k, part) if part and isinstance(error, NonFiniteError) else error
                break
            has = [p.grad is not None for p in parameters]
            told.append(_Shard(step.losses, notes, has, [b.clone() for b in running]))
            gradients.append(
                torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
            )
        said = failed if failed is None or isinstance(failed, UpstairsError) else _other(failed)
        every = ranks.all_told((said, told, flags))
        first = next((error for error, _, _ in every if error is not None), None)
        if failed is not None and said is not failed:
            raise failed  # with its traceback
        if first is not None:
            first.by_all = ranks.world() > 1
            raise first
        parts = [part for _, own, _ in every for part in own]
        own = torch.stack(gradients)
        if own.shape[1] * shards > LARGE:
            total = ranks.ordered_sum(own)
        else:
            total = ranks.added(torch.cat(ranks.gathered(own)))
        slices = (total / shards).split([p.numel() for p in parameters])
        for k, (p, grad) in enumerate(zip(parameters, slices, strict=True)):
            p.grad = grad.view_as(p).to(p.dtype) if any(part.has[k] for part in parts) else None
    columns = [torch.stack(column) for column in zip(*(part.running for part in parts), strict=True)]
    _write(running, [column.mean(0) if column.is_floating_point() else column[0] for column in columns])
    losses, notes = torch.cat([part.losses for part in parts]), torch.cat([part.notes for part in parts])
    return ShardedStep(losses, notes, [own for *_, own in every])


meta_backward = sharded_backward  # its public name, `upstairs.distributed.meta_backward`
__all__ = ["ShardedStep", "meta_backward", "process_group", "rank", "world"]


def check_shards(shards: int, tasks: int | None = None) -> None:
    """Raises UpstairsError for shards that do not divide the tasks, or that the processes do not divide."""
    processes = ranks.world()
    if shards < 1 or shards % processes:
        raise UpstairsError(
            f"`shards` is {shards} and there are {processes} processes: give a multiple of {processes}, or start "
            f"{_divisors(shards)} processes"
        )
    if tasks is not None and tasks % shards:
        raise UpstairsError(
            f"`tasks` is {tasks} and `shards` {shards}, and each shard has as many tasks as the others: give "
            f"{(tasks // shards + 1) * shards} tasks, or {_divisors(tasks)} shards"
        )


def _divisors(number: int) -> str:
    found = [str(k) for k in range(1, number + 1) if number % k == 0]
    return ", ".join(found[:-1]) + (" or " if len(found) > 1 else "") + found[-1] if found else "1"


def _slice(tasks: Task, shards: int, k: int) -> Task:
    size = len(tasks.query.mask) // shards
    return index(tasks, slice(k * size, (k + 1) * size))


def _running_statistics(learner: nn.Module) -> list[Tensor]:
    """Returns the running statistics that a step in training mode writes."""
    if not tracks_statistics(learner):
        return []
    kinds = nn.modules.batchnorm._BatchNorm
    layers = [m for m in learner.modules() if isinstance(m, kinds) and m.track_running_stats]
    return [b for m in layers for b in (m.running_mean, m.running_var, m.num_batches_tracked) if b is not None]


@torch.no_grad()
def _write(buffers: list[Tensor], values: list[Tensor]) -> None:
    for buffer, value in zip(buffers, values, strict=True):
        buffer.copy_(value)


def _in_batch(error: NonFiniteError, k: int, part: Task) -> NonFiniteError:
    """Returns the error with the place of the task in the whole batch."""
    place = k * len(part.query.mask) + error.index
    return NonFiniteError(str(error).replace(f"task {error.index} ", f"task {place} "), index=place)


def _other(error: Exception) -> UpstairsError:
    return UpstairsError(f"process {ranks.rank()} failed with {type(error).__name__}: {reason(error)}")
