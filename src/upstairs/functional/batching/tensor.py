"""`BatchedTensor`: it looks like the tensor of one task and holds a raw tensor of all tasks.

A raw tensor has one of two layouts. `front` is [task, *shape]. `folded`, for images and sequences between convolutions,
is [n, task * channels, *space], as in a grouped convolution. Autograd works on the raw tensors, so the gradient of the
summed losses is the gradient of every task.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from upstairs.tree import map_tensors

RULES: dict[Any, Callable[..., Any]] = {}
HOOKS: dict[str, Callable[..., Any]] = {}  # functions of modules that import this one
RECORDS: list[dict[tuple[str, str, str], str]] = []  # (function, how it ran, module) -> why, recorded for `explain`
FOLDS: list[list[str]] = []  # convolutions with shared weights, recorded for `plan`
HOLLOW = torch.empty(0, device="meta")  # the storage of a BatchedTensor for code that ignores __torch_function__
_SPACES = (torch, torch.Tensor, torch.nn.functional, torch._C._nn, torch.special)


class NotBatchable(Exception):
    """Raised by code that cannot run on all tasks at once."""


class BatchedTensor(Tensor):
    """The tensors of all tasks, seen by code for one task as one tensor."""

    _raw: Tensor
    folded: bool
    count: int  # tasks
    late_relu: bool = False  # ReLU is deferred until after pooling: the same values for a quarter of the work
    shift: Tensor | None = None  # a deferred bias [task * channels], which batch statistics cancel
    late_norm: tuple[Tensor, Tensor, float] | None = None  # a deferred batch norm: weight, bias, eps
    folding: Tensor | None = None  # the folded copy of an input, made once
    true: int = -1  # the version of `raw` that was True everywhere: a mask without padding
    copied: bool = False  # does not share memory where torch's own tensor would

    @property
    def raw(self) -> Tensor:
        if self.shift is not None:
            self._raw = self._raw + self.shift.view(1, -1, *(1,) * (self._raw.ndim - 2))
            self.shift = None
        if self.late_norm is not None:
            self._raw, self.late_norm = HOOKS["normalise"](self._raw, *self.late_norm), None
        if self.late_relu:
            self._raw, self.late_relu = torch.relu(self._raw), False
        return self._raw

    # Attributes of a tensor, in torch's types, are properties here: those of one task.
    @property
    def shape(self) -> torch.Size:  # type: ignore[override]
        size = self._raw.shape
        return torch.Size((size[0], size[1] // self.count, *size[2:])) if self.folded else size[1:]

    @property
    def ndim(self) -> int:  # type: ignore[override]
        return self._raw.ndim - (not self.folded)

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        return self._raw.dtype

    @property
    def device(self) -> torch.device:
        return self._raw.device

    @property
    def requires_grad(self) -> bool:  # type: ignore[override]
        return self._raw.requires_grad

    def dim(self) -> int:
        return self.ndim

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        return self.shape.numel()

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self, **_: Any) -> str:
        return f"BatchedTensor({self.count} tasks of {tuple(self.shape)})"

    def __hash__(self) -> int:
        return id(self)

    def __bool__(self) -> bool:
        raise NotBatchable("a branch depends on the values of one task")

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        batching_rule = RULES.get(func)
        if RECORDS or not torch.is_grad_enabled():
            HOOKS["watch"](func, batching_rule)
        if batching_rule is not None:
            result = batching_rule(*args, **kwargs) if kwargs else batching_rule(*args)
            if result is not NotImplemented:
                return result
        return HOOKS["fall_back"](func, args, kwargs or {})


def wrap(raw: Tensor, count: int = 0, *, folded: bool = False) -> BatchedTensor:
    """Returns a raw tensor as the tensor of one task; `count` is needed where it is folded."""
    batched = torch.Tensor._make_subclass(BatchedTensor, HOLLOW)
    batched._raw, batched.folded, batched.count = raw, folded, count or raw.shape[0]
    return batched


def front(x: BatchedTensor) -> Tensor:
    """Returns the raw tensor as [task, *shape]."""
    raw = x.raw
    return raw.unflatten(1, (x.count, -1)).movedim(1, 0) if x.folded else raw


def pad_axes(x: Any, rank: int) -> Any:
    """Returns [task, 1, ..., *shape] with `rank` axes after the first, for broadcasting; other values unchanged."""
    if not isinstance(x, BatchedTensor):
        return x
    raw, missing = front(x), rank - x.ndim
    return raw.reshape(raw.shape[0], *(1,) * missing, *raw.shape[1:]) if missing else raw


def fold(x: BatchedTensor) -> Tensor:
    """Returns [n, task * channels, *space], images channels-last (in which pooling is 9 times as fast on a CPU)."""
    raw = x.raw
    if x.folded:
        return raw
    if x.folding is None:
        task, n, channels, *space = raw.shape
        last = raw.movedim(2, -1).movedim(0, -2).reshape(n, *space, task * channels).contiguous()
        folding = last.movedim(-1, 1)
        if len(space) != 2:
            folding = folding.contiguous()
        if raw.requires_grad:
            return folding
        x.folding = folding  # an input, met again in every inner step
    return x.folding


def as_channels_last(images: Tensor) -> Tensor:
    """Returns images [n, channels, height, width] channels-last, in which pooling is 9 times as fast.

    One channel fits both layouts, and torch takes it for channels-first unless strides say otherwise.
    """
    if images.shape[1] != 1 or images.requires_grad:
        return images.contiguous(memory_format=torch.channels_last)
    height, width = images.shape[2:]
    return images.contiguous().as_strided(images.shape, (height * width, 1, width, 1))


def stack(tree: Any) -> Any:
    """Wraps every tensor of a tree, with a leading task axis, as the tensor of one task."""
    return map_tensors(_stack, tree)


def _stack(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    batched = wrap(leaf)
    if leaf.dtype == torch.bool and not leaf.is_inference() and known_true(leaf):
        batched.true = leaf._version
    return batched


def known_true(mask: Tensor) -> bool:
    """Returns whether a mask is not empty and all True; False where a device would have to be waited for."""
    if isinstance(mask, BatchedTensor):  # it was, and was not written to since
        return mask.true >= 0 and mask.true == mask._raw._version
    plain = type(mask) is Tensor and mask.is_cpu and not torch._C._are_functorch_transforms_active()
    return plain and mask.numel() > 0 and bool(mask.all())


def unstack(tree: Any, count: int) -> Any:
    """Inverts `stack`; a tensor that is not batched is repeated for each task."""

    def one(leaf: Any) -> Any:
        if isinstance(leaf, BatchedTensor):
            return front(leaf)
        return leaf.expand(count, *leaf.shape) if isinstance(leaf, Tensor) else leaf

    return map_tensors(one, tree)


def batching_rule(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers the rule of functions, given as objects or by their name in torch's modules."""

    def register(one: Callable[..., Any]) -> Callable[..., Any]:
        for function in functions:
            RULES.update(dict.fromkeys(named(function) if isinstance(function, str) else [function], one))
        return one

    return register


def named(name: str) -> list[Any]:
    """Returns the functions of a name: torch.relu, Tensor.relu, torch.nn.functional.relu, ..."""
    return [getattr(space, name) for space in _SPACES if hasattr(space, name)]
