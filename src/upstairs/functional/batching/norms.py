"""Normalisation with the batch statistics of each task.

torch's batch norm writes its running statistics in every pass. Here they are gathered, and nothing is written while
tasks adapt: `meta_backward` writes the mean over tasks and passes once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upstairs.functional.batching import kernels
from upstairs.functional.batching.tensor import HOOKS, BatchedTensor, batching_rule, fold, front, wrap

Moments = dict[int, list[tuple[Tensor, Tensor, float]]]  # id of running_mean -> (mean, unbiased variance, momentum)
GATHERING: list[Moments] = []


@contextmanager
def running_statistics() -> Iterator[Moments]:
    """A context that yields the batch statistics of every pass through layers with running statistics."""
    GATHERING.append({})
    try:
        yield GATHERING[-1]
    finally:
        GATHERING.pop()


def tracks_statistics(module: nn.Module) -> bool:
    """Returns whether a batch norm of torch in the module has running statistics."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats for m in module.modules())


def gather(running: Tensor | None, mean: Tensor, variance: Tensor, n: int, momentum: float) -> None:
    """Records the statistics [channels] of one pass, the mean over tasks."""
    for moments in GATHERING:
        if running is not None:
            unbiased = variance.detach() * (n / max(n - 1, 1))
            moments.setdefault(id(running), []).append((mean.detach(), unbiased, momentum))


@torch.no_grad()
def write_running_statistics(learner: nn.Module, moments: Moments) -> None:
    """Updates the running statistics of torch's batch norms once, by the mean over this step's tasks and passes."""
    for m in learner.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and (seen := moments.get(id(m.running_mean))):
            if m.running_mean is None or m.running_var is None:
                continue
            if m.num_batches_tracked is not None:
                m.num_batches_tracked.add_(1)
            number = 1.0 if m.num_batches_tracked is None else float(m.num_batches_tracked)
            rate = 1 / number if m.momentum is None else m.momentum
            m.running_mean.lerp_(torch.stack([mean for mean, _, _ in seen]).mean(0), rate)
            m.running_var.lerp_(torch.stack([variance for _, variance, _ in seen]).mean(0), rate)


def _vector(v: Any, x: BatchedTensor, default: float) -> Tensor:
    """Returns a layer's weight or bias as [task * channels]."""
    if isinstance(v, BatchedTensor):
        return front(v).reshape(-1)
    channels = x.shape[1]
    whole = x._raw.new_full((channels,), default) if v is None else v
    return whole.expand(x.count, channels).reshape(-1)


def _unfold(out: Tensor, x: BatchedTensor) -> BatchedTensor:
    """Returns vectors in the front layout; images stay folded."""
    return wrap(out.unflatten(1, (x.count, -1)).transpose(0, 1)) if x.ndim == 2 else wrap(out, x.count, folded=True)


@batching_rule(F.batch_norm)
def torch_batch_norm(
    x: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,
) -> Any:  # fmt: skip
    if not isinstance(x, BatchedTensor):
        x = wrap(x.expand(next(v.count for v in (weight, bias) if isinstance(v, BatchedTensor)), *x.shape))
    if training:
        if running_mean is not None and GATHERING:
            raw = fold(x)
            axes = [a for a in range(raw.ndim) if a != 1]
            variance, mean = torch.var_mean(raw.detach(), axes, correction=0)
            n = raw.numel() // raw.shape[1]
            mean, variance = (m.view(x.count, -1).mean(0) for m in (mean, variance))
            gather(running_mean, mean, variance, n, momentum)
        return own_batch_norm(x, weight, bias, eps)
    scale = torch.rsqrt(running_var + eps) if weight is None else weight * torch.rsqrt(running_var + eps)
    shift = -running_mean * scale if bias is None else bias - running_mean * scale
    return affine_rule(x, scale, shift)


@batching_rule(kernels.batch_norm)
def own_batch_norm(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    if not isinstance(x, BatchedTensor):
        x = wrap(x.expand(next(v.count for v in (weight, bias) if isinstance(v, BatchedTensor)), *x.shape))
    if x.shift is not None and not x.late_relu:  # batch norm subtracts a constant with the mean
        x = wrap(x._raw, x.count, folded=True)  # x itself keeps it for other readers
    w, b = _vector(weight, x, 1.0), _vector(bias, x, 0.0)
    if x.folded and x.ndim == 4 and type(x._raw) is Tensor and x._raw.is_cpu:
        out = wrap(x.raw, x.count, folded=True)
        out.late_norm, x.copied = (w, b, eps), True  # x must not change until then
        return out
    return _unfold(kernels.batch_norm(fold(x), w, b, eps), x)


def pooled(x: BatchedTensor, pool: Any) -> BatchedTensor | None:
    """Applies `pool` before a deferred batch norm, which then normalises a quarter of the values; None if it cannot.

    Batch norm is increasing where its weight is positive, so that the maximum is the same.
    """
    if x.late_norm is None or x.late_relu or x.shift is not None:
        return None
    weight, bias, eps = x.late_norm
    if not bool((weight > 0).all()):
        return None
    mean, variance = kernels.moments(x._raw)
    scale = weight * torch.rsqrt(variance + eps)
    return wrap(kernels.affine(pool(x._raw), scale, bias - mean * scale), x.count, folded=True)


HOOKS["normalise"] = kernels.batch_norm


@batching_rule(kernels.affine)
def affine_rule(x: BatchedTensor, scale: Any, shift: Any) -> BatchedTensor:
    """Computes x * scale + shift for each channel."""
    if x.folded:
        shape = (1, -1, *(1,) * (x.ndim - 2))
        s, b = (_vector(v, x, 0.0).view(shape) for v in (scale, shift))
        return wrap(torch.addcmul(b, x.raw, s), x.count, folded=True)
    s, b = (
        (front(v) if isinstance(v, BatchedTensor) else v[None]).unflatten(1, (1, -1, *(1,) * (x.ndim - 2)))
        for v in (scale, shift)
    )
    return wrap(torch.addcmul(b, x.raw, s))


@batching_rule(F.group_norm, torch.group_norm, kernels.group_norm)
def group_norm_rule(x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any) -> Any:
    """Computes group norm; where tasks are folded into channels there are tasks * groups groups."""
    if not isinstance(x, BatchedTensor):
        return NotImplemented
    if x.folded:
        normal = wrap(F.group_norm(x.raw, x.count * num_groups, None, None, eps), x.count, folded=True)
    else:
        raw = x.raw
        normal = wrap(F.group_norm(raw.flatten(0, 1), num_groups, None, None, eps).view(raw.shape))
    return normal if weight is None else affine_rule(normal, weight, bias)


@batching_rule(F.layer_norm, torch.layer_norm)
def layer_norm(x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any) -> Any:
    if not isinstance(x, BatchedTensor):
        return NotImplemented
    if not isinstance(weight, BatchedTensor) and not isinstance(bias, BatchedTensor):
        return wrap(F.layer_norm(front(x), normalized_shape, weight, bias, eps))
    normal = wrap(F.layer_norm(front(x), normalized_shape, None, None, eps))
    out = normal if weight is None else normal * weight
    return out if bias is None else out + bias


@batching_rule(F.instance_norm)
def instance_norm(
    x: Any, running_mean: Any = None, running_var: Any = None, weight: Any = None, bias: Any = None,
    use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> Any:  # fmt: skip
    """Computes group norm with one group for each channel."""
    if running_mean is not None or not isinstance(x, BatchedTensor):
        return NotImplemented
    return group_norm_rule(x, x.shape[1], weight, bias, eps)
