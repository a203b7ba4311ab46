"""The meta-step: the meta-gradient of a batch of tasks, as many at once as memory allows."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import isfinite
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors

from upstairs.core import Learner, Task
from upstairs.engine.allocator import (
    large_blocks_returned,
    large_blocks_reused,
    one_thread,
    release_freed_memory,
    steady_heap,
)
from upstairs.engine.chunks import chunks, depends_on_the_batch
from upstairs.engine.compile import Compiled, compiled_step
from upstairs.engine.explain import explain
from upstairs.engine.plan import LARGE, LARGEST_BLOCK, MIB, SMALL, Plan, estimate, plan, signature
from upstairs.errors import NonFiniteError, UpstairsError
from upstairs.functional.batching.norms import Moments, running_statistics, write_running_statistics
from upstairs.functional.batching.vectorize import out_of_memory, untracked
from upstairs.functional.derivatives import twice
from upstairs.functional.differentiate import Differentiation, FirstOrder, executing
from upstairs.functional.purity import check_unchanged, snapshot
from upstairs.tree import index, modules_of, parameters_of

Precision = Literal["full", "tf32", "bf16", "bf16-unsafe"]
Compile = Literal["off", "on", "auto"]


class Step(NamedTuple):
    """What a meta-step gives beside the gradients: detached, per task."""

    losses: Float[Tensor, " task"]
    predictions: Float[Tensor, "task n out"]


def meta_backward(
    learner: Learner,
    tasks: Task,
    *,
    chunk: int | None = None,
    memory: int | str | None = None,
    recompute: bool | None = None,
    differentiate: Differentiation | None = None,
    compile: Compile = "off",
    precision: Precision = "full",
) -> Step:
    """Write the meta-gradient, the mean over `tasks`, into the `.grad` of the learner's parameters.

    Args:
        tasks: a batch, every leaf with a leading task axis.
        chunk: how many tasks at a time; the result is the same. None: as many as fit (see `plan`).
        memory: the budget that `plan` keeps to, in bytes or as "2 GiB"; half of the machine's where None.
        recompute: keep only the parameters of each inner step and compute the rest again on the way back. None: where
            the budget asks for it.
        differentiate: `Exact()`, `FirstOrder()` or `Implicit()` in place of the learner's own way.
        compile: `on` traces the whole step and compiles it (seconds to minutes, once for each shape); `auto` does where
            that pays: small tensors, after 20 steps of one shape.
        precision: `tf32` for CUDA's matrix products; `bf16` for learners without second derivatives, which it ruins
            (50 to 70% error): `bf16-unsafe` does it all the same.

    Raises:
        NonFiniteError: a task's loss, or its gradient, is NaN or infinite; the parameters' `.grad` is cleared.
        UpstairsError: memory ran out, an operation has no second derivative, or a precision that is refused.
    """
    modules = modules_of(learner)
    parameters = parameters_of(modules)
    _clear(parameters)
    key = signature(learner, tasks, modules, parameters)
    ready = _PREPARED.setdefault(learner, {})
    asked = (key, chunk, memory, recompute, differentiate)
    before, prepared = None, ready.get(asked)
    if prepared is None:
        before = snapshot(learner)
        with executing(differentiate=differentiate):
            prepared = _prepare(learner, tasks, chunk, memory, recompute)
        check_unchanged(before)
    decided, chunk, recompute, whole, tracked, large, small = prepared
    count = len(tasks.query.mask)
    steps: list[tuple[list[int], Step]] = []
    moments: Moments = {}
    checked = True  # are losses and gradients known to be finite?
    try:
        with (
            executing(recompute=recompute, differentiate=differentiate),
            ExitStack() as contexts,
        ):
            if precision != "full":
                contexts.enter_context(numbers(learner, precision, differentiate, tasks.query.x.device))
            if recompute and decided is not None and decided.one.largest > LARGE:
                contexts.enter_context(large_blocks_returned(decided.one.largest // 8))
            elif large:
                contexts.enter_context(large_blocks_reused())
            if tracked:
                moments = contexts.enter_context(running_statistics())
                contexts.enter_context(untracked(learner))  # inner steps are computed again in the backward pass
            for places, part in chunks(tasks, chunk, whole=whole):
                fast = None
                if compile != "off":
                    own = key if part is tasks else signature(learner, part)
                    fast = compiled_step(learner, part, compile, (recompute, differentiate, own))
                step, sound = _accumulate(learner, part, count, fast, small=small)
                steps.append((places, step))
                checked = checked and sound
            if not checked and not _finite(parameters, [step.losses for _, step in steps]):
                for places, step in steps:
                    check_finite(step.losses, places)
                place = _first_bad_gradient(learner, tasks, parameters)
                raise NonFiniteError(f"the meta-gradient of task {place} of the batch is not finite", index=place)
        if before is not None:
            check_unchanged(before)
            ready[asked] = prepared
    except UpstairsError:
        _clear(parameters)
        raise
    except (RuntimeError, MemoryError) as error:
        _clear(parameters)
        if out_of_memory(error):
            error.__traceback__ = None  # it holds the tensors of the step
            release_freed_memory()
        if (advice := _advice(error, learner, tasks, decided)) is None:
            raise
        raise UpstairsError(advice) from error
    if tracked:
        write_running_statistics(learner, moments)
    return _in_order(steps)


class Prepared(NamedTuple):
    """What is decided once for each shape of tasks."""

    plan: Plan | None
    chunk: int
    recompute: bool
    whole: bool
    tracked: bool
    large: bool  # is a single tensor above the size that glibc maps anew each time?
    small: bool  # are all tensors so small that one thread is faster than several?


_PREPARED: WeakKeyDictionary[Learner, dict[Any, Prepared]] = WeakKeyDictionary()


def _prepare(learner: Learner, tasks: Task, chunk: int | None, memory: Any, recompute: bool | None) -> Prepared:
    decided = None
    if chunk is None or recompute is None:
        decided = plan(learner, tasks, memory=memory, chunk=chunk, recompute=recompute)
        chunk, recompute = decided.chunk, decided.recompute
    tracked = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in learner.modules())
    on_cpu = decided is not None and tasks.query.x.device.type == "cpu"
    if on_cpu:
        steady_heap()
    large = decided is not None and on_cpu and decided.one.largest > LARGEST_BLOCK
    small = decided is not None and on_cpu and decided.one.largest * chunk <= SMALL
    return Prepared(decided, chunk, recompute, depends_on_the_batch(learner), tracked, large, small)


def _accumulate(
    learner: Learner, part: Task, count: int, fast: Compiled | None, *, small: bool
) -> tuple[Step, bool]:  # fmt: skip
    """Add the gradient of some tasks; their losses and predictions, and whether all is known to be finite.

    Args:
        small: in one thread, unless compiled: a program has fewer and larger pieces, and gains from two on idle cores.
    """
    if fast is None:
        with one_thread(when=small):
            losses, predictions = learner(part)
            losses.backward(torch.full_like(losses, 1 / count))
        return Step(losses.detach(), predictions.detach()), False
    size, losses, predictions, grads = fast(part)
    share = len(losses) / count
    for p, g in zip(fast.parameters, grads, strict=True):
        g = g if share == 1 else g * share
        p.grad = g if p.grad is None else p.grad + g
    return Step(losses, predictions), isfinite(size.item())


def _in_order(steps: list[tuple[list[int], Step]]) -> Step:
    """The parts as one batch, each task at its own place."""
    if len(steps) == 1:
        return steps[0][1]
    order = torch.tensor([place for places, _ in steps for place in places]).argsort()
    widest = max(step.predictions.shape[1] for _, step in steps)
    padded = [nn.functional.pad(s.predictions, (0, 0, 0, widest - s.predictions.shape[1])) for _, s in steps]
    return Step(torch.cat([s.losses for _, s in steps])[order], torch.cat(padded)[order])


@contextmanager
def numbers(
    learner: Learner, precision: Precision, differentiate: Differentiation | None, device: torch.device
) -> Iterator[None]:
    """The kind of numbers that matrix products use inside."""
    if precision == "bf16" and learner.second_order and not isinstance(differentiate, FirstOrder):
        raise UpstairsError(
            f"precision is bf16 and {type(learner).__name__} takes second derivatives, which bf16 ruins (50 to 70% "
            'error): use "full", differentiate=FirstOrder(), or "bf16-unsafe" to do it all the same'
        )
    before = torch.get_float32_matmul_precision()
    try:
        if precision == "tf32":
            torch.set_float32_matmul_precision("high")
        with torch.autocast(device.type, torch.bfloat16, enabled=precision.startswith("bf16")):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _advice(error: Exception, learner: Learner, tasks: Task, decided: Plan | None) -> str | None:
    """What to do when memory has run out, or an operation has no second derivative; None for any other error."""
    if not out_of_memory(error):
        return twice(str(error))
    least = estimate(learner, tasks, recompute=True).peak
    tried = f"{decided.chunk} tasks at a time" if decided else "this chunk"
    return (
        f"memory ran out with {tried}: chunk=1, recompute=True takes about {least / MIB:,.0f} MiB beside the "
        f'parameters; give what is free as the budget, such as memory="{max(1, 2 * least // MIB)} MiB"'
    )


def check_finite(losses: Float[Tensor, " task"], places: list[int] | None = None) -> None:
    """Raise NonFiniteError for the first task whose loss is NaN or infinite."""
    if not (finite := losses.detach().isfinite()).all():
        first = int((~finite).nonzero()[0])
        place = places[first] if places else first
        raise NonFiniteError(f"the loss of task {place} of the batch is {losses[first].item()}", index=place)


def _clear(parameters: list[nn.Parameter]) -> None:
    for p in parameters:
        p.grad = None


def _finite(parameters: list[nn.Parameter], losses: list[Tensor]) -> bool:
    """Are gradients and losses finite? One number that is not makes the sum of all so."""
    grads = [p.grad for p in parameters if p.grad is not None]
    return isfinite(_flatten_dense_tensors([*losses, *grads]).sum().item())


def _first_bad_gradient(learner: Learner, tasks: Task, parameters: list[nn.Parameter]) -> int:
    """Which single task's gradient is not finite; the first where only the sum overflows."""
    for place in range(len(tasks.query.mask)):
        _clear(parameters)
        losses = learner(index(tasks, slice(place, place + 1)))[0]
        losses.sum().backward()
        if not _finite(parameters, [losses.detach()]):
            return place
    return 0


__all__ = ["Plan", "Step", "explain", "meta_backward", "plan"]
