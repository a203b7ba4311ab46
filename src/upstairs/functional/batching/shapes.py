"""Functions with axes: axis `d` of one task is axis `d + 1` of all tasks, and a negative axis stays the same."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

from upstairs.functional.batching.tensor import BatchedTensor, NotBatchable, batching_rule, front, named, pad_axes, wrap


def _sizes(args: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(args[0]) if len(args) == 1 and isinstance(args[0], tuple | list) else args


@batching_rule("reshape", torch.Tensor.view)
def reshape(x: BatchedTensor, *size: Any, **kwargs: Any) -> Any:
    size = _sizes(size or tuple(kwargs.values()))
    if not all(isinstance(s, int) for s in size):  # view(dtype)
        return NotImplemented
    if x.folded and len(size) == 2 and size[0] in (x.shape[0], -1) and size[1] in (-1, x.shape[1:].numel()):
        return flatten(x, 1)
    raw = front(x)
    try:
        return wrap(raw.view(x.count, *_complete(size, x.shape)))
    except (RuntimeError, ValueError):  # the latter from fake tensors
        return _copy(x, raw.reshape(x.count, *_complete(size, x.shape)))


def _copy(x: BatchedTensor, raw: Tensor) -> BatchedTensor:
    """Wraps a copy of x where torch may return a view: from now on neither may change in place."""
    out = wrap(raw)
    out.copied = x.copied = True
    return out


def _complete(size: tuple[int, ...], shape: torch.Size) -> tuple[int, ...]:
    """Returns the sizes with -1 filled in, without the axis of tasks."""
    known = prod(s for s in size if s != -1)
    return tuple((shape.numel() // known if known else 0) if s == -1 else s for s in size)


@batching_rule("flatten")
def flatten(x: BatchedTensor, start_dim: int = 0, end_dim: int = -1) -> BatchedTensor:
    if x.folded and start_dim == 1 and end_dim in (-1, x.ndim - 1):
        n = x.shape[0]
        return _copy(x, x.raw.reshape(n, x.count, -1).transpose(0, 1))
    rank = max(x.ndim, 1)
    start, end = start_dim % rank, end_dim % rank
    shape = x.shape
    return reshape(x, *shape[:start], shape[start : end + 1].numel(), *shape[end + 1 :])


def _axis(dim: int) -> int:
    return dim + 1 if dim >= 0 else dim


def _moves(*places: int) -> Callable[[Any], Callable[..., Any]]:
    """Returns a rule for a function whose positional arguments at `places` are axes."""

    def lift(function: Any) -> Callable[..., Any]:
        def apply(x: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(x, BatchedTensor) or any(isinstance(a, Tensor) for a in (*args, *kwargs.values())):
                return NotImplemented
            moved = [_shift(a) if i + 1 in places else a for i, a in enumerate(args)]
            named = {k: _shift(v) if k in _AXES else v for k, v in kwargs.items()}
            if len(args) < max(places) and not any(k in _AXES for k in kwargs):
                return NotImplemented  # over all axes
            return _wrap_all(function(front(x), *moved, **named))

        return apply

    return lift


_AXES = {"dim", "dim0", "dim1", "axis", "axis0", "axis1", "source", "destination"}


def _shift(dim: Any) -> Any:
    if isinstance(dim, int):
        return _axis(dim)
    return tuple(_axis(d) for d in dim) if isinstance(dim, tuple | list) else dim


def _wrap_all(out: Any) -> Any:
    if isinstance(out, Tensor):
        return wrap(out)
    return type(out)(wrap(t) for t in out) if type(out) in (tuple, list) else tuple(wrap(t) for t in out)


_BY_PLACE = {
    1: "softmax log_softmax unsqueeze squeeze select narrow cumsum cumprod argmax argmin unbind amax "
    "amin logsumexp var std unflatten flip glu sort argsort softmin",
    2: "chunk split tensor_split split_with_sizes unsafe_chunk unsafe_split",
}
for _place, _names in _BY_PLACE.items():
    for _name in _names.split():
        for _function in named(_name):
            batching_rule(_function)(_moves(_place)(_function))
for _name in ("transpose", "swapaxes", "movedim", "swapdims"):
    for _function in named(_name):
        batching_rule(_function)(_moves(1, 2)(_function))


def _cut(name: str) -> None:
    function = getattr(torch.Tensor, name)

    def apply(x: BatchedTensor, size: Any, dim: int = 0) -> Any:
        return tuple(wrap(t) for t in function(front(x), size, _axis(dim)))

    batching_rule(name)(apply)


for _name in ("chunk", "split"):
    _cut(_name)


def _reduce(name: str) -> None:
    """Registers sum() or mean(), over all axes or some."""
    function = getattr(torch.Tensor, name)

    def apply(x: BatchedTensor, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
        raw = front(x)
        if dim is None or (isinstance(dim, tuple | list) and not dim):
            return wrap(function(raw if raw.ndim == 2 else raw.reshape(x.count, -1), 1, **kwargs))
        return wrap(function(raw, _shift(dim), keepdim, **kwargs))

    batching_rule(name)(apply)


for _name in ("sum", "mean"):
    _reduce(_name)


@batching_rule("permute")
def permute(x: BatchedTensor, *dims: Any, **kwargs: Any) -> BatchedTensor:
    dims = _sizes(dims or tuple(kwargs.values()))
    return wrap(front(x).permute(0, *(d % x.ndim + 1 for d in dims)))


# getters, as in pointwise.py
@batching_rule(torch.Tensor.t, torch.t, torch.Tensor.T.__get__, torch.Tensor.mT.__get__)  # type: ignore[attr-defined]
def swap(x: BatchedTensor) -> Any:
    return wrap(front(x).transpose(-1, -2)) if x.ndim == 2 else (x if x.ndim < 2 else NotImplemented)


@batching_rule("squeeze")
def squeeze(x: BatchedTensor, dim: Any = None) -> BatchedTensor:
    dims = range(x.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    keep = {d % x.ndim for d in dims}
    return reshape(x, *(s for d, s in enumerate(x.shape) if d not in keep or s != 1))


@batching_rule("expand")
def expand(x: BatchedTensor, *size: Any, **_: Any) -> BatchedTensor:
    size = _sizes(size)
    raw = front(x)
    return wrap(raw.reshape(x.count, *(1,) * (len(size) - x.ndim), *raw.shape[1:]).expand(x.count, *size))


@batching_rule(torch.Tensor.expand_as, torch.Tensor.view_as, torch.Tensor.reshape_as)
def like(x: Any, other: Any) -> Any:
    if not isinstance(x, BatchedTensor):
        return NotImplemented
    return expand(x, *other.shape) if x.numel() != other.numel() else reshape(x, *other.shape)


@batching_rule("cat", "concat", "concatenate")
def cat(tensors: Any, dim: int = 0, **kwargs: Any) -> Any:
    dim = kwargs.get("axis", dim)
    first = next(t for t in tensors if isinstance(t, BatchedTensor))
    whole = [front(t) if isinstance(t, BatchedTensor) else t.expand(first.count, *t.shape) for t in tensors]
    return wrap(torch.cat(whole, _axis(dim)))


@batching_rule("stack")
def pile(tensors: Any, dim: int = 0) -> Any:
    first = next(t for t in tensors if isinstance(t, BatchedTensor))
    whole = [front(t) if isinstance(t, BatchedTensor) else t.expand(first.count, *t.shape) for t in tensors]
    return wrap(torch.stack(whole, _axis(dim)))


@batching_rule(torch.Tensor.__getitem__)
def getitem(x: Any, index: Any) -> Any:
    """Indexes by slices, numbers, None and ..., after the axis of tasks."""
    if not isinstance(x, BatchedTensor):
        return NotImplemented
    index = index if isinstance(index, tuple) else (index,)
    lists = [i for i in index if isinstance(i, Tensor | list)]
    chosen = [i for i in index if not isinstance(i, slice) and i is not None and i is not ...]
    if any(isinstance(i, BatchedTensor) for i in lists) or (lists and len(chosen) > 1):  # torch moves several axes
        return NotImplemented
    return wrap(front(x)[(slice(None), *index)])


@batching_rule(torch.Tensor.__setitem__)
def setitem(x: Any, index: Any, value: Any) -> None:
    if not isinstance(x, BatchedTensor) or isinstance(value, Tensor) or x.folded or x.copied:
        raise NotBatchable("a tensor is written to by index")
    index = index if isinstance(index, tuple) else (index,)
    if any(isinstance(i, Tensor | list) for i in index):
        raise NotBatchable("a tensor is written to by an index of tensors")
    x.raw[(slice(None), *index)] = value


@batching_rule(torch.Tensor.__iter__)
def iterate(x: BatchedTensor) -> Any:
    return iter([wrap(row) for row in front(x).unbind(1)])


@batching_rule("matmul", torch.Tensor.__matmul__, torch.Tensor.__rmatmul__, "mm", "bmm")
def matmul(a: Any, b: Any) -> Any:
    """Multiplies tensors of two or more axes; vectors have no rule."""
    if a.ndim < 2 or b.ndim < 2:
        return NotImplemented
    rank = max(a.ndim, b.ndim)
    return wrap(torch.matmul(pad_axes(a, rank), pad_axes(b, rank)))
