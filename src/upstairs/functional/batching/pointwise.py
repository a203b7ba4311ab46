"""Elementwise functions: the function of torch on raw tensors, once their axes are aligned."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from upstairs.functional.batching.tensor import (
    BatchedTensor,
    NotBatchable,
    batching_rule,
    known_true,
    named,
    pad_axes,
    wrap,
)


def _words(text: str) -> list[str]:
    """Splits one readable string on several lines into words."""
    return text.split()


ONE = _words("""
    relu6 gelu silu elu selu celu leaky_relu softplus mish softsign hardtanh hardswish hardsigmoid logsigmoid
    tanhshrink sigmoid tanh exp expm1 log log1p log2 log10 sqrt rsqrt reciprocal square abs neg sign sin cos tan
    asin acos atan sinh cosh erf erfc floor ceil round trunc clamp clamp_min clamp_max clip isfinite isnan isinf
    logical_not bitwise_not threshold zeros_like ones_like rand_like randn_like empty_like full_like nan_to_num
    float double half bfloat16 long int bool to type clone detach dropout feature_alpha_dropout alpha_dropout
    absolute negative __neg__ __invert__ __abs__ __pos__
""")
MANY = _words("""
    add sub subtract mul multiply div divide true_divide pow minimum maximum where lerp addcmul addcdiv eq ne lt
    le gt ge fmod remainder atan2 logical_and logical_or logical_xor bitwise_and bitwise_or hypot xlogy rsub
    floor_divide __add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __pow__ __rpow__
    __eq__ __ne__ __lt__ __le__ __gt__ __ge__ __and__ __or__ __xor__ __rand__ __ror__ __mod__ __floordiv__
    __div__ __rdiv__
""")
IN_PLACE = _words("""
    relu_ sigmoid_ tanh_ exp_ sqrt_ neg_ abs_ clamp_ clamp_min_ clamp_max_ elu_ leaky_relu_ hardtanh_ add_ sub_
    mul_ div_ pow_ copy_ fill_ zero_ addcmul_ addcdiv_ masked_fill_ __iadd__ __isub__ __imul__ __itruediv__
""")


def align(args: tuple[Any, ...]) -> tuple[list[Any], int, bool]:
    """Returns raw arguments that broadcast against each other, the number of tasks, and whether they are folded."""
    batched = [a for a in args if isinstance(a, BatchedTensor)]
    first = batched[0]
    shared = any(isinstance(a, Tensor) and not isinstance(a, BatchedTensor) and a.ndim for a in args)
    if first.folded and not shared and all(a.folded and a.shape == first.shape for a in batched[1:]):
        return [a.raw if isinstance(a, BatchedTensor) else a for a in args], first.count, True
    rank = max(a.ndim for a in args if isinstance(a, Tensor))
    return [pad_axes(a, rank) for a in args], first.count, False


def _lift(function: Any) -> Callable[..., Any]:
    def apply(*args: Any, **kwargs: Any) -> Any:
        if kwargs and any(isinstance(v, Tensor) for v in kwargs.values()):
            return NotImplemented
        raws, count, folded = align(args)
        return wrap(function(*raws, **kwargs), count, folded=folded)

    return apply


def _lift_one(function: Any) -> Callable[..., Any]:
    def apply(x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, BatchedTensor) or any(isinstance(a, BatchedTensor) for a in args):
            return _lift(function)(x, *args, **kwargs)
        return wrap(function(x.raw, *args, **kwargs), x.count, folded=x.folded)

    return apply


def _lift_in_place(function: Any) -> Callable[..., Any]:
    def apply(x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, BatchedTensor):
            raise NotBatchable(f"a tensor that all tasks share is changed in place with {function.__name__}")
        if x.copied or x.folding is not None:
            raise NotBatchable(f"{function.__name__} changes a view of a tensor in place")
        raws, _, folded = align((x, *args))
        if folded != x.folded or raws[0].ndim != x._raw.ndim:
            raise NotBatchable(f"{function.__name__} changes a tensor in place by one of another shape")
        function(*raws, **kwargs)
        return x

    return apply


for _names, _how in ((ONE, _lift_one), (MANY, _lift), (IN_PLACE, _lift_in_place)):
    for _name in _names:
        for _function in named(_name):
            batching_rule(_function)(_how(_function))


@batching_rule("relu")
def relu(x: BatchedTensor, inplace: bool = False) -> Any:
    """Defers ReLU until after pooling where activations are folded: both are monotone, so the values are the same."""
    if inplace and x.late_norm is not None:  # not computed yet, so there is no view of it
        x.late_relu = True
        return x
    if inplace:
        return _lift_in_place(torch.relu_)(x)
    if not x.folded:
        return wrap(torch.relu(x.raw))
    out = wrap(x.raw if x.late_norm is None else x._raw, x.count, folded=True)
    out.late_norm = x.late_norm
    out.late_relu = x.copied = True  # x must not change until then
    return out


_where = _lift(torch.where)


@batching_rule("where")
def where(condition: Any, *args: Any, **kwargs: Any) -> Any:
    """Returns `x` itself where a mask is known to be all True: half of the cost of a small network's loss."""
    x = args[0] if args else None
    if not (isinstance(condition, BatchedTensor) and isinstance(x, BatchedTensor)):
        return _where(condition, *args, **kwargs)
    scalar = len(args) > 1 and not isinstance(args[1], Tensor)
    if known_true(condition) and scalar and x.shape == condition.shape and x.dtype.is_floating_point:
        out = wrap(x.raw, x.count, folded=x.folded)
        out.copied = x.copied = True
        return out
    return _where(condition, *args, **kwargs)


@batching_rule("contiguous", torch.Tensor.cpu)
def same(x: BatchedTensor, **_: Any) -> BatchedTensor:
    return x


# a getter is the function that reads a tensor's attribute; torch's types do not have it
@batching_rule(torch.Tensor.data.__get__)  # type: ignore[attr-defined]
def data(x: BatchedTensor) -> BatchedTensor:
    return wrap(x.raw.detach(), x.count, folded=x.folded)
