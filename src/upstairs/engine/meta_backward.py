"""The meta-gradient of a batch of tasks, as many at a time as memory allows."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from math import isfinite
from typing import Literal, NamedTuple, get_args

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
from upstairs.engine.compile import Compiled, compiled_step
from upstairs.engine.plan import MIB, Plan, Precision, chunks, estimate, known_of, plan, signature
from upstairs.errors import NonFiniteError, UpstairsError, check_type
from upstairs.functional.batching.norms import Moments, running_statistics, write_running_statistics
from upstairs.functional.batching.vectorize import out_of_memory, untracked
from upstairs.functional.derivatives import twice
from upstairs.functional.differentiate import Differentiation, executing
from upstairs.functional.exclusive import exclusive
from upstairs.functional.purity import check_unchanged, put_back, snapshot
from upstairs.functional.waiting import wait_considerately
from upstairs.tree import index, modules_of, parameters_of

Compile = Literal["off", "on", "auto"]
COMPILE, PRECISION = get_args(Compile), get_args(Precision)


class MetaStep(NamedTuple):
    """The result of `meta_backward`, detached."""

    losses: Float[Tensor, " task"]
    predictions: Float[Tensor, "task n *out"]


@exclusive
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
) -> MetaStep:
    """Adds the meta-gradient, the mean over `tasks`, to the `.grad` of the learner's parameters, as `backward()` does.

    It accumulates until `optimizer.zero_grad()`. The gradient is that of `learner(tasks)[0].mean()`.

    Args:
        tasks: a batch, every leaf with a leading task axis.
        chunk: the number of tasks at a time; the result is the same. None: as many as fit (see `plan`).
        memory: the memory budget of `plan`, in bytes or as "2 GiB"; None: half of the machine's.
        recompute: keep only the parameters of each inner step and recompute the rest in the backward pass. None: only
            if the budget requires it.
        differentiate: `Exact()`, `FirstOrder()` or `Implicit()` instead of the learner's own choice.
        compile: `on` traces and compiles the whole step (seconds to minutes, once for each shape); `auto` compiles
            where that pays: small tensors, after 20 steps of one shape.
        precision: `tf32` for CUDA's matrix products; `bf16` for learners without second derivatives, which it ruins
            (50 to 70% error); `bf16-unsafe` for any learner.

    Raises:
        NonFiniteError: a task's loss or gradient is NaN or infinite.
        UpstairsError: memory ran out, an operation has no second derivative, or the precision is refused. After any
            error the parameters' `.grad` is unchanged.
    """
    if not isinstance(learner, Learner) or not isinstance(tasks, Task):
        check_type("learner", learner, Learner, "a learner, such as upstairs.maml(net, way=5)")
        check_type("tasks", tasks, Task, "a batch of tasks, such as one of Episodes(...).stream(size=4)")
    if chunk is not None and chunk < 1:
        raise UpstairsError(f"`chunk` is {chunk}: give the number of tasks at a time, 1 or more")
    for name, value, choices in (("compile", compile, COMPILE), ("precision", precision, PRECISION)):
        if value not in choices:
            raise UpstairsError(f"`{name}` is {value!r}: choose {', '.join(choices)}")
    if differentiate is not None:
        check_type("differentiate", differentiate, Differentiation, "Exact(), FirstOrder() or Implicit()")
    if tasks.query.mask.ndim != 2:
        raise UpstairsError(
            f"`tasks` is a batch, whose tensors have a leading task axis, and its mask has shape "
            f"{tuple(tasks.query.mask.shape)}: give one task as x[None], y[None]"
        )
    modules = modules_of(learner)
    parameters = parameters_of(modules)
    key = signature(learner, tasks, modules, parameters)
    plans, asked = known_of(learner).plans, (key, chunk, memory, recompute, differentiate, precision)
    before, how = None, plans.get(asked)
    if how is None:
        before = snapshot(learner)
        how = plan(
            learner, tasks, chunk=chunk, memory=memory, recompute=recompute, differentiate=differentiate,
            precision=precision,
        )  # fmt: skip
        if tasks.query.x.device.type == "cpu":
            steady_heap(learner)
            wait_considerately(learner)
    steps: list[tuple[list[int], MetaStep]] = []
    checked = True  # losses and gradients are known to be finite
    try:
        with added_to_grads(parameters):
            inside = executing(recompute=how.recompute, differentiate=how.differentiate)
            with inside, surroundings(how, learner, tasks.query.x.device) as moments:
                for places, part in chunks(tasks, how.chunk, whole=how.whole):
                    fast = None
                    if compile != "off":
                        own = key if part is tasks else signature(learner, part)
                        fast = compiled_step(learner, part, compile, (how.recompute, differentiate, own))
                    step, sound = _accumulate(learner, part, how, fast)
                    steps.append((places, step))
                    checked = checked and sound
                if not checked and not _finite(parameters, [step.losses for _, step in steps]):
                    for places, step in steps:
                        check_finite(step.losses, places)
                    place = _first_bad_gradient(learner, tasks, parameters)
                    raise NonFiniteError(f"the meta-gradient of task {place} of the batch is not finite", index=place)
            if before is not None:
                check_unchanged(before)
                plans[asked] = how
    except BaseException as error:
        if before is not None:
            put_back(before)
        if isinstance(error, UpstairsError) or not isinstance(error, RuntimeError | MemoryError):
            raise
        if out_of_memory(error):
            error.__traceback__ = None  # it holds the tensors of the step
            release_freed_memory()
        if (advice := _advice(error, learner, tasks, how)) is None:
            raise
        raise UpstairsError(advice) from error
    if how.running:
        write_running_statistics(learner, moments)
    return _in_order(steps)


def surroundings(how: Plan, learner: Learner, device: torch.device) -> AbstractContextManager[Moments]:
    """A context with a plan's precision and memory settings; yields the running statistics gathered in it."""
    plain = how.blocks == "" and how.precision == "full" and not how.running
    return nullcontext({}) if plain else _surroundings(how, learner, device)


@contextmanager
def _surroundings(how: Plan, learner: Learner, device: torch.device) -> Iterator[Moments]:
    moments: Moments = {}
    with ExitStack() as contexts:
        if how.blocks == "returned":
            contexts.enter_context(large_blocks_returned(how.one.largest // 8))
        elif how.blocks == "reused":
            contexts.enter_context(large_blocks_reused())
        if how.precision == "tf32":
            contexts.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("high")
        elif how.precision != "full":
            contexts.enter_context(torch.autocast(device.type, torch.bfloat16))
        if how.running:
            moments = contexts.enter_context(running_statistics())
            contexts.enter_context(untracked(learner))  # the backward pass may recompute inner steps
        yield moments


class added_to_grads:
    """A context in which gradients start from None; the end adds them to the old ones, an error drops them."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters

    def __enter__(self) -> None:
        self.before = {p: p.grad for p in self.parameters if p.grad is not None}
        for p in self.before:
            p.grad = None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            for p in self.parameters:
                p.grad = self.before.get(p)
        elif self.before:
            with torch.no_grad():
                for p, grad in self.before.items():
                    p.grad = grad if p.grad is None else grad.add_(p.grad)


def _accumulate(learner: Learner, part: Task, how: Plan, fast: Compiled | None) -> tuple[MetaStep, bool]:
    """Adds the gradient of some tasks; returns losses and predictions, and whether all are known to be finite."""
    if fast is None:
        with one_thread(when=how.one_thread):
            losses, predictions = learner(part)
            losses.backward(torch.full_like(losses, 1 / how.tasks))
        return MetaStep(losses.detach(), predictions.detach()), False
    # not in one thread: a program has fewer and larger operations
    size, losses, predictions, grads = fast(part)
    share = len(losses) / how.tasks
    for p, g in zip(fast.parameters, grads, strict=True):
        g = g if share == 1 else g * share
        p.grad = g if p.grad is None else p.grad + g
    return MetaStep(losses, predictions), isfinite(size.item())


def _in_order(steps: list[tuple[list[int], MetaStep]]) -> MetaStep:
    """Joins the chunks, each task at its own place in the batch."""
    if len(steps) == 1:
        return steps[0][1]
    order = torch.tensor([place for places, _ in steps for place in places]).argsort()
    widest = max(step.predictions.shape[1] for _, step in steps)
    padded = [_pad(step.predictions, widest) for _, step in steps]
    return MetaStep(torch.cat([s.losses for _, s in steps])[order], torch.cat(padded)[order])


def _pad(predictions: Tensor, rows: int) -> Tensor:
    """Returns predictions [task, n, ...] with zeros up to `rows` examples."""
    missing = rows - predictions.shape[1]
    return nn.functional.pad(predictions, (*(0, 0) * (predictions.ndim - 2), 0, missing)) if missing else predictions


def _advice(error: Exception, learner: Learner, tasks: Task, how: Plan) -> str | None:
    """Returns advice for exhausted memory or a missing second derivative; None for any other error."""
    if not out_of_memory(error):
        return twice(str(error))
    least = estimate(learner, tasks, recompute=True).peak
    return (
        f"memory ran out with {how.chunk} tasks at a time: chunk=1, recompute=True takes about {least / MIB:,.0f} MiB "
        f'on top of the parameters; give what is free as the budget, such as memory="{max(1, 2 * least // MIB)} MiB"'
    )


def check_finite(losses: Float[Tensor, " task"], places: list[int] | None = None) -> None:
    """Raises NonFiniteError for the first task whose loss is NaN or infinite."""
    if not (finite := losses.detach().isfinite()).all():
        first = int((~finite).nonzero()[0])
        place = places[first] if places else first
        raise NonFiniteError(f"the loss of task {place} of the batch is {losses[first].item()}", index=place)


def _finite(parameters: list[nn.Parameter], losses: list[Tensor]) -> bool:
    """Returns whether gradients and losses are finite: one non-finite number makes their sum non-finite."""
    grads = [p.grad for p in parameters if p.grad is not None]
    return isfinite(abs(_flatten_dense_tensors([*losses, *grads]).sum().item()))  # it may be complex


def _first_bad_gradient(learner: Learner, tasks: Task, parameters: list[nn.Parameter]) -> int:
    """Returns the place of the first task with a non-finite gradient; 0 where only the sum overflows."""
    for place in range(len(tasks.query.mask)):
        for p in parameters:
            p.grad = None
        losses = learner(index(tasks, slice(place, place + 1)))[0]
        losses.sum().backward()
        if not _finite(parameters, [losses.detach()]):
            return place
    return 0
