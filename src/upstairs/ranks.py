"""The processes that work on one run (torch.distributed): who they are, and what they tell each other.

A process that torchrun, or `--processes`, started has the variables RANK and WORLD_SIZE. `process_group` makes it one
of the group; without them it works alone, and every function here then answers as for a group of one.
"""

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from upstairs.errors import UpstairsError, reason

Value = TypeVar("Value")
PATIENCE = timedelta(seconds=60)  # a process that waits longer in a step leaves: another one is dead or cut off
LONG = timedelta(days=1)  # for what one process does while the others wait, such as reading data
_ALONE: list[bool] = []
_QUICK: list[Any] = []  # groups of the CPU, for values, if `process_group` made any: with PATIENCE
_SLOW: list[Any] = []  # and with LONG


class LostProcessError(UpstairsError):
    """Another process of the run ended or cannot be reached; the run goes on from its last checkpoint."""

    by_all = True  # or nearly: who is lost says nothing, and the first process speaks
    lost = True


def rank() -> int:
    """Returns the number of this process, from 0."""
    return dist.get_rank() if _together() else 0


def world() -> int:
    """Returns the number of processes."""
    return dist.get_world_size() if _together() else 1


def is_first() -> bool:
    """Returns whether this is the process that writes files and talks to the user."""
    return not is_started() or int(os.environ["RANK"]) == 0


def _together() -> bool:
    return dist.is_available() and dist.is_initialized() and not _ALONE


@contextmanager
def by_itself() -> Iterator[None]:
    """A context in which this process works alone, for what `shared` computes."""
    _ALONE.append(True)
    try:
        yield
    finally:
        _ALONE.pop()


def is_started() -> bool:
    """Returns whether torchrun, or `--processes`, started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextmanager
def process_group(device: str = "auto") -> Iterator[None]:
    """A context in which this process works with the others that were started with it; alone otherwise.

    Args:
        device: `cuda` (or `auto` where there is CUDA) takes the GPU of this process's number on its machine, and NCCL.

    Raises:
        LostProcessError: the others cannot be reached.
    """
    if not is_started() or dist.is_initialized():
        yield
        return
    if "MASTER_ADDR" not in os.environ:
        raise UpstairsError(
            "RANK and WORLD_SIZE are set and MASTER_ADDR is not: start the processes with torchrun, or unset RANK"
        )
    on_gpu = device in ("cuda", "auto") and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    with told():
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
        _QUICK[:] = [dist.new_group(backend="gloo", timeout=PATIENCE)]
        _SLOW[:] = [dist.new_group(backend="gloo", timeout=LONG)]
    try:
        yield
    finally:
        _QUICK.clear()
        _SLOW.clear()
        dist.destroy_process_group()


@contextmanager
def told() -> Iterator[None]:
    """A context in which a failure of the network becomes a sentence."""
    try:
        yield
    except (RuntimeError, ValueError) as error:  # torch's DistError is a RuntimeError
        if isinstance(error, UpstairsError):
            raise
        text = str(error)
        if "EADDRINUSE" in text or "address already in use" in text.lower():
            port = os.environ.get("MASTER_PORT")
            raise UpstairsError(
                f"port {port} is in use: give torchrun another --rdzv-endpoint or --master-port"
            ) from error
        if "connectFullMesh" in text:
            raise LostProcessError(
                f"the processes cannot connect to each other, since the name {socket.gethostname()} leads to an "
                "address that the other machines cannot reach: set GLOO_SOCKET_IFNAME (on GPUs also "
                "NCCL_SOCKET_IFNAME) to the network interface, such as eth0"
            ) from error
        raise LostProcessError(
            f"the other processes cannot be reached ({reason(error)}): `resume` goes on from the last checkpoint"
        ) from error


def gathered(row: Tensor) -> list[Tensor]:
    """Returns the rows of all processes in their order; all have the same shape."""
    if world() == 1:
        return [row]
    rows = [torch.empty_like(row) for _ in range(world())]
    with told():
        dist.all_gather(rows, row)
    return rows


def ordered_sum(own: Tensor) -> Tensor:
    """Returns the sum of the rows [rows, n] of all processes, added in order: the same bits for any number of them.

    Each process adds one slice of the columns and receives the other sums: a row travels twice, whatever their number.
    """
    if world() == 1:
        return added(own)
    missing = -own.shape[1] % world()
    padded = torch.nn.functional.pad(own, (0, missing)) if missing else own
    slices = [part.contiguous() for part in padded.chunk(world(), dim=1)]
    theirs = [torch.empty_like(slices[0]) for _ in range(world())]
    with told():
        if dist.get_backend() == "gloo":  # it has the operation for one tensor only
            given, taken = torch.stack(slices), torch.stack(theirs)
            dist.all_to_all_single(taken, given)
            theirs = [*taken]
        else:
            dist.all_to_all(theirs, slices)
    return torch.cat(gathered(added(torch.cat(theirs))))[: own.shape[1]]


def added(rows: Tensor) -> Tensor:
    """Returns the sum of rows [rows, n], added in order."""
    total = rows[0].clone()
    for row in rows[1:]:
        total += row
    return total


def shared(value: Callable[[], Value]) -> Value:
    """Returns what the first process computes by itself, on all of them; the others wait, however long it takes.

    The value must be picklable. All raise the first one's UpstairsError.
    """
    if world() == 1:
        return value()
    found: list[Any] = [None, None]
    if rank() == 0:
        try:
            with by_itself():
                found[0] = value()
        except UpstairsError as error:
            found[1] = str(error)
    with told():
        dist.broadcast_object_list(found, src=0, group=next(iter(_SLOW), None))
    if found[1] is not None:
        raise _for_all(found[1])
    return found[0]


def _for_all(message: str) -> UpstairsError:
    error = UpstairsError(message)
    error.by_all = True
    return error


def on_all(work: Callable[[], Value]) -> Value:
    """Returns what this process computes; where it fails with a sentence on any process, all of them raise that."""
    if world() == 1:
        return work()
    found: tuple[Value, ...] = ()
    said = ""
    try:
        found = (work(),)
    except UpstairsError as error:
        said = str(error)
    for message in all_told(said, long=True):
        if message:
            raise _for_all(message)
    return found[0]


def first_then_others(work: Callable[[], Value]) -> Value:
    """Returns what this process computes, after the first process of its machine, which fills the caches, has."""
    ahead = int(os.environ.get("LOCAL_RANK", 0)) == 0
    if world() == 1:
        return work()
    found = on_all(lambda: [work()] if ahead else [])
    return found[0] if ahead else work()


def all_told(value: Value, *, long: bool = False) -> list[Value]:
    """Returns the picklable values of all processes in their order.

    Args:
        long: wait for as long as it takes.
    """
    if world() == 1:
        return [value]
    found: list[Any] = [None] * world()
    with told():
        dist.all_gather_object(found, value, group=next(iter(_SLOW if long else _QUICK), None))
    return found


def check_alike(**values: Any) -> None:
    """Raises UpstairsError if a value differs between processes; it names all that do."""
    every = all_told(values, long=True)
    differ = {name for own in every for name in own if own[name] != every[0].get(name)}
    lines = []
    for name in sorted(differ):
        first = every[0][name]
        place, other = next((k, own[name]) for k, own in enumerate(every) if own[name] != first)
        if isinstance(first, dict) and isinstance(other, dict):
            keys = [key for key in first if first[key] != other.get(key)]
            first, other = ({key: one.get(key) for key in keys[:3]} for one in (first, other))
        lines.append(f"{name} ({first} on process 0, {other} on process {place})")
    if lines:
        raise _for_all(
            f"the processes of a run must be alike and these differ: {'; '.join(lines)}: give all of them the same"
        )


def assigned(count: int) -> range:
    """Returns the numbers of the parts, of `count` in all, that this process computes: neighbours."""
    return range(rank() * count // world(), (rank() + 1) * count // world())


def joined_parts(own: Sequence[Value]) -> list[Value]:
    """Returns the results of all parts in order, from those of `assigned`."""
    return [one for part in all_told(list(own), long=True) for one in part]
