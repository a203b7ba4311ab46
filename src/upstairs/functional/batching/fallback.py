"""Functions without a rule run under vmap, else one task after another; a record notes how each ran."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from upstairs.functional.batching.tensor import HOLLOW, HOOKS, RECORDS, BatchedTensor, NotBatchable, front, wrap


@contextmanager
def recording() -> Iterator[dict[tuple[str, str, str], str]]:
    """A context that yields a record of how each function runs in it."""
    RECORDS.append({})
    try:
        yield RECORDS[-1]
    finally:
        RECORDS.pop()


def _note(func: Any, how: str, why: str) -> None:
    for record in RECORDS:
        record[(_name(func), how, _module_running())] = why


def watch(func: Any, rule: Any) -> None:
    if rule is not None:
        _note(func, "stacked", "")
    if not torch.is_grad_enabled():  # inside an autograd function, whose graph would be lost
        frame = sys._getframe(2)
        while frame is not None:
            code = frame.f_code
            if code.co_name == "apply" and code.co_filename.endswith("autograd/function.py"):
                raise NotBatchable(f"a custom autograd function computes {_name(func)}")
            frame = frame.f_back


def _name(func: Any) -> str:
    name = getattr(func, "__name__", str(func))
    return f"Tensor.{func.__self__.__name__}" if name == "__get__" else name


def _module_running() -> str:
    """Returns the type of the innermost module whose method is running."""
    frame = sys._getframe(2)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module):
            return type(owner).__name__
        frame = frame.f_back
    return ""


_READS = {
    "item", "tolist", "__bool__", "__float__", "__int__", "__index__", "numpy", "__array__", "is_nonzero", "equal",
}  # fmt: skip


def fall_back(func: Any, args: Any, kwargs: Any) -> Any:
    """Runs a function without a rule under vmap, else one task after another."""
    name = _name(func)
    if name in _READS:
        raise NotBatchable(f"{_module_running() or 'the code'} reads values with {name}()")
    if name.startswith("Tensor.") and not isinstance(getattr(HOLLOW, name[7:], None), Tensor):
        flag = getattr(next(a for a in args if isinstance(a, BatchedTensor))._raw, name[7:])
        if not isinstance(flag, Tensor):
            return flag
    if name in ("__setitem__", "__delitem__") or (name.endswith("_") and not name.endswith("__")) or name[:3] == "__i":
        raise NotBatchable(f"{_module_running() or 'the code'} changes a tensor in place with {name}")
    leaves, structure = tree_flatten((args, kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, BatchedTensor)]
    raws = [front(leaves[i]) for i in places]

    def call(*tensors: Tensor) -> Any:
        filled = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        args, kwargs = tree_unflatten(filled, structure)
        return func(*args, **kwargs)

    try:
        out = torch.vmap(call, randomness="different")(*raws)
        _note(func, "vmap", "it has no rule")
    except Exception as error:
        why = str(error).split("\n")[0]
        each = [call(*tensors) for tensors in zip(*raws, strict=True)]
        out = _together(each, name)
        _note(func, "loop", f"vmap: {why}")
    return tree_map(lambda t: wrap(t) if isinstance(t, Tensor) else t, out)


def _together(each: list[Any], name: str) -> Any:
    """Stacks the results of all tasks into one tree of tensors."""
    flat = [tree_flatten(result) for result in each]
    columns = []
    for column in zip(*(leaves for leaves, _ in flat), strict=True):
        if isinstance(column[0], Tensor):
            columns.append(torch.stack(list(column)))
        elif all(value == column[0] for value in column):
            columns.append(column[0])
        else:
            raise NotBatchable(f"{name} gives values that differ between tasks")
    return tree_unflatten(columns, flat[0][1])


HOOKS.update(watch=watch, fall_back=fall_back)
