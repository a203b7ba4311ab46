"""The plan of a meta-step: how it runs and in how much memory, estimated on tensors without storage."""

import ctypes
import logging
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary, finalize

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from upstairs.core import Examples, Learner, Task
from upstairs.errors import UpstairsError
from upstairs.functional.batching.tensor import FOLDS
from upstairs.functional.batching.vectorize import chosen, forget, untracked
from upstairs.functional.derivatives import check_differentiable
from upstairs.functional.differentiate import NOW, Differentiation, Exact, FirstOrder, Implicit, executing
from upstairs.functional.exclusive import exclusive
from upstairs.functional.explained import explained
from upstairs.functional.purity import put_back, snapshot
from upstairs.nets.norm import BatchNorm
from upstairs.settings import parse_bytes
from upstairs.tree import index, modules_of, parameters_of

# glibc maps every block above 32 MiB anew, and its pages fault in again: a step took 1.6 times as long
LARGEST_BLOCK = 32 * 2**20
LARGE = 2**20  # bytes of a tensor above which copying it costs more than the overhead of calls
SMALL = 2**18  # bytes of the largest tensor up to which one thread is faster than two, even on idle cores
CALL = 16 * 2**10  # bytes written in the time of one call's overhead
MIB = 2**20

Precision = Literal["full", "tf32", "bf16", "bf16-unsafe"]


class Estimate(NamedTuple):
    """The memory of one task's meta-step, in bytes."""

    peak: int
    largest: int  # single tensor
    folds: bool = False  # it has convolutions with shared weights, for which several tasks are copied into one batch
    calls: int = 1  # number of torch operations
    written: int = 0  # by all of them

    @property
    def alone(self) -> bool:
        """Whether one task at a time is faster: it copies nothing, but needs more calls."""
        return self.folds and self.largest > LARGE and self.written > CALL * self.calls


@dataclass(frozen=True)
class Plan:
    """How a meta-step runs, decided once for each shape of tasks. Printed, it is a sentence for each decision."""

    tasks: int
    chunk: int  # tasks at a time
    recompute: bool  # inner steps are recomputed in the backward pass, one by one
    differentiate: Differentiation | None  # None: the learner's own choice
    precision: Precision
    whole: bool  # only tasks of equal size together: batch statistics would count padding
    running: bool  # torch's batch norms gather running statistics
    one_thread: bool  # all tensors are so small that one thread is faster than several
    blocks: Literal["returned", "reused", ""]  # large freed blocks: returned to the system, or reused
    budget: int  # bytes
    one: Estimate  # the meta-step of one task

    @property
    def bytes(self) -> int:
        """The estimated peak, without the parameters and the tasks themselves."""
        return self.one.peak * self.chunk

    def __str__(self) -> str:
        text = (
            f"{self.tasks} tasks, {self.chunk} at a time, inner steps "
            f"{'computed again one by one' if self.recompute else 'unrolled'}: about {self.bytes / MIB:,.0f} MiB of a "
            f"budget of {self.budget / MIB:,.0f} MiB (one task: {self.one.peak / MIB:,.1f} MiB, its largest tensor "
            f"{self.one.largest / MIB:,.1f} MiB){', in one thread' if self.one_thread else ''}"
        )
        over = self.bytes > self.budget
        return text + "; that is more than the budget: one task alone needs it" * over


@exclusive
def plan(
    learner: Learner, tasks: Task, *, memory: int | str | None = None, chunk: int | None = None,
    recompute: bool | None = None, differentiate: Differentiation | None = None, precision: Precision = "full",
) -> Plan:  # fmt: skip
    """Decides how many tasks run at a time, and whether inner steps are unrolled or recomputed; nothing is run.

    Args:
        memory: the budget in bytes, or as "2 GiB"; None: half of the machine's.
        chunk, recompute: fix this decision; None: it is planned.
        differentiate, precision: as for `meta_backward`.

    Raises:
        UpstairsError: `memory` cannot be read as an amount, or a precision that ruins second derivatives.
    """
    if precision == "bf16" and learner.second_order and not isinstance(differentiate, FirstOrder):
        raise UpstairsError(
            f"`precision` is bf16 and {type(learner).__name__} takes second derivatives, which bf16 ruins (50 to 70% "
            'error): use "full", differentiate=FirstOrder(), or "bf16-unsafe" to do it all the same'
        )
    budget = parse_bytes(memory) if memory is not None else memory_of(tasks.query.x.device) // 2
    count, on_cpu = len(tasks.query.mask), tasks.query.x.device.type == "cpu"
    with executing(differentiate=differentiate):
        one = estimate(learner, tasks, recompute=bool(recompute))
        if recompute is None and one.peak > budget:
            other = estimate(learner, tasks, recompute=True)
            if other.peak < one.peak:
                recompute, one = True, other
    if chunk is None:
        cliff = LARGEST_BLOCK // max(one.largest, 1) if on_cpu else count
        if on_cpu and one.alone:
            cliff = 1
        chunk = max(1, min(count, budget // max(one.peak, 1), cliff))
        chunk = -(-count // -(-count // chunk))  # of even size
    blocks = "reused" if on_cpu and one.largest > LARGEST_BLOCK else ""
    return Plan(
        count, min(chunk, count), bool(recompute), differentiate, precision, depends_on_the_batch(learner),
        any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in learner.modules()),
        on_cpu and one.largest * chunk <= SMALL, "returned" if recompute and one.largest > LARGE else blocks, budget,
        one,
    )  # fmt: skip


@dataclass(frozen=True)
class Known:
    """Estimates, plans and programs of a learner's steps, by `signature`."""

    estimates: dict[Any, Estimate] = field(default_factory=dict)
    plans: dict[Any, Plan] = field(default_factory=dict)  # for steps that ran once, and wrote to no module
    programs: dict[Any, Any] = field(default_factory=dict)  # compiled steps, see `compile`


_KNOWN: WeakKeyDictionary[Learner, Known] = WeakKeyDictionary()


def known_of(learner: Learner) -> Known:
    """Returns the record of a learner, which is deleted with it."""
    return _KNOWN.get(learner) or _KNOWN.setdefault(learner, Known())


def signature(
    learner: Learner, tasks: Task, modules: list[nn.Module] | None = None, parameters: list[nn.Parameter] | None = None
) -> tuple[Any, ...]:
    """Returns a key of all that an estimate or a compiled step depends on: shapes, types, parameters, modes, options.

    Args:
        modules: the learner's modules, if they are at hand.
        parameters: the modules' parameters, if they are at hand.
    """
    modules = modules or modules_of(learner)
    parameters = parameters_of(modules) if parameters is None else parameters
    leaves = tuple([v for x, y, _ in tasks for v in (x.shape, x.dtype, x.device, y.shape, y.dtype)])
    learned = (*map(id, parameters), *[p.requires_grad for p in parameters])
    own = [v for v in vars(learner).values() if type(v) not in _CONTAINERS]
    inside = [w for v in own if hasattr(v, "__dict__") for w in vars(v).values()]
    plain = tuple([v if type(v) in _NUMBERS else _plain(v) for v in own + inside])
    how = (NOW.differentiate, torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda"))
    numbers = torch.get_float32_matmul_precision()
    modes = tuple([m.training for m in modules])
    return leaves, learned, plain, how, numbers, modes, torch.is_grad_enabled()


_CONTAINERS = {type(v) for v in vars(nn.Module()).values()} - {bool, NoneType}  # of modules, parameters, hooks
_NUMBERS = {bool, int, float, str}  # the usual ones
_BY_VALUE = (bool, int, float, str, Exact, FirstOrder, Implicit)  # a tuple, which is faster than a union


def _plain(value: Any) -> Any:
    """Returns a number or string by its value, a function by its identity; the rest is in the modules."""
    if isinstance(value, _BY_VALUE):
        return value
    return id(value) if callable(value) else None


@exclusive
def estimate(learner: Learner, tasks: Task, *, recompute: bool = False) -> Estimate:
    """Estimates the memory of one task's meta-step, by running it on tensors without storage."""
    key = (signature(learner, index(tasks, slice(0, 1))), recompute)
    seen = known_of(learner).estimates
    if key not in seen:
        with explained(learner, tasks):
            seen[key] = _measure(learner, tasks, recompute)
    return seen[key]


def _measure(learner: Learner, tasks: Task, recompute: bool) -> Estimate:
    parameters = [p for p in learner.parameters() if p.requires_grad]

    def run(mode: Any) -> Estimate:
        with mode, generators_kept():
            one = tree_map(lambda t: torch.zeros(1, *t.shape[1:], dtype=t.dtype, device=t.device), tasks)
            FOLDS.append([])
            # inner steps that are computed again in the backward pass would count their batches
            with untracked(learner), Tracker() as tracker, executing(recompute=recompute):
                losses, _ = learner(one)
                check_differentiable(losses)
                if losses.requires_grad:
                    torch.autograd.grad(losses.sum(), parameters, allow_unused=True)
        return Estimate(tracker.peak, tracker.largest, bool(FOLDS[-1]), tracker.calls, tracker.written)

    known, before = chosen(learner, "meta_loss"), snapshot(learner)
    try:
        with silent_tracing():
            return run(FakeTensorMode(allow_non_fake_inputs=True))
    except UpstairsError:
        raise
    except Exception:  # a network that reads values: measured on one real task
        return run(nullcontext())
    finally:
        FOLDS.clear()
        put_back(before)  # a plan leaves no trace: the first real pass finds the network as the user gave it
        if known is None:  # the way that works on these tensors may not work on real ones
            forget(learner)


@contextmanager
def silent_tracing() -> Iterator[None]:
    """A context in which torch logs no errors of tensors without storage: what fails on them runs on real ones."""
    noise = logging.getLogger("torch._subclasses.fake_tensor")
    level = noise.level
    noise.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        noise.setLevel(level)


@contextmanager
def generators_kept() -> Iterator[None]:
    """A context after which the generators of torch, NumPy and Python are as before."""
    plain, arrays = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(plain)
        np.random.set_state(arrays)


class Tracker(TorchDispatchMode):
    """Counts the bytes of tensors that are made inside and alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.largest = self.calls = self.written = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls += 1
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.device.type != "meta" and tensor.layout == torch.strided:
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.live += size
        self.written += size
        self.peak, self.largest = max(self.peak, self.live), max(self.largest, size)
        finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def memory_of(device: torch.device) -> int:
    """Returns the device's total memory in bytes; with free memory, plans and the order of sums would be random."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    with suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(AttributeError, OSError):  # Windows
        kilobytes = ctypes.c_ulonglong()
        if getattr(ctypes, "windll").kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kilobytes)):  # noqa: B009
            return kilobytes.value * 1024
    return 8 * 2**30


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
