"""Normalisation as a named setting, with a batch norm that is exact under vmap and twice differentiable.

`batch`       statistics of the batch at hand, always: the published MAML; predictions are transductive.
`population`  statistics of the batch while training, and of the training tasks afterwards (see `calibrate`): inductive.
`group`       statistics of each example alone: inductive, and the same in training and use.
`none`        no normalisation.
"""

import copy
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from upstairs.settings import Norm

aten = torch.ops.aten


def batch_norm(
    x: Float[Tensor, "n c *space"], weight: Float[Tensor, " c"], bias: Float[Tensor, " c"], eps: float
) -> Tensor:
    """Batch norm with the statistics of `x`, exact to any derivative, under vmap too.

    torch's own is silently wrong in vmap(grad(grad(...))). Here the second derivative is written by hand (one native
    call and a few broadcasts, where autograd takes some 25 operations), and vmap folds tasks into channels.
    """
    flat = x.reshape(*x.shape[:2], -1, 1) if x.ndim != 4 else x
    return _Forward.apply(flat, weight, bias, eps)[0].reshape(x.shape)


def _fold(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """[..., task at `dim`] to tasks folded into channels: [n, task * c, h, w] or [task * c]."""
    tensor = tensor.unsqueeze(0).expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return tensor.flatten(0, 1) if tensor.ndim == 2 else tensor.transpose(0, 1).flatten(1, 2)


def _unfold(tensor: Tensor, size: int) -> Tensor:
    """The inverse: tasks at axis 0 (vectors) or axis 1 (images)."""
    return tensor.unflatten(0, (size, -1)) if tensor.ndim == 1 else tensor.unflatten(1, (size, -1))


def _vmapped(
    function: Any, info: Any, in_dims: tuple[int | None, ...], *args: Any
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    size = info.batch_size
    folded = [_fold(a, d, size) if isinstance(a, Tensor) else a for a, d in zip(args, in_dims, strict=True)]
    out = tuple(_unfold(o, size) for o in function.apply(*folded))
    return out, tuple(0 if o.ndim == 2 else 1 for o in out)


def _row(vector: Tensor) -> Tensor:
    return vector.reshape(1, -1, 1, 1)


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        return torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, weight, _, ctx.eps = inputs
        _, mean, scale = output
        ctx.mark_non_differentiable(mean, scale)
        ctx.save_for_backward(x, weight, mean, scale)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        x, weight, mean, scale = ctx.saved_tensors
        return *_Backward.apply(grad_outputs[0], x, weight, mean, scale, ctx.eps), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return _vmapped(_Forward, info, in_dims, *args)


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(
        grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        return aten.native_batch_norm_backward(grad, x, weight, None, None, mean, scale, True, eps, [True, True, True])

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        grad, x, weight, mean, scale, ctx.eps = inputs
        ctx.save_for_backward(grad, x, weight, mean, scale, output[1], output[2])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        # y = w * xhat + b, xhat = s (x - mean). The first backward is g -> (dx, dw, db); this is its transpose in
        # (g, x, w), given the cotangents u of dx, u_weight of dw and u_bias of db. p, q, A are means over the batch.
        u, u_weight, u_bias = grad_outputs
        g, x, w, mean, s, dw, db = ctx.saved_tensors
        m = x.numel() // x.shape[1]
        if torch.is_grad_enabled():  # a third derivative: the saved statistics must depend on x and g again
            variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
            s = torch.rsqrt(variance + ctx.eps)
            dw, db = (g * (x - _row(mean)) * _row(s)).sum((0, 2, 3)), g.sum((0, 2, 3))
        q, mean_g = dw / m, db / m
        du, u_xhat, u_sum = _Backward.apply(u, x, w, mean, s, ctx.eps)
        p, mean_u = u_xhat / m, u_sum / m
        c = u_weight * s
        grad_g = torch.addcmul(du, x, _row(c)) + _row(u_bias - c * mean)
        a = (u * g).sum((0, 2, 3)) - m * mean_u * mean_g
        grad_w = s * (a - m * p * q)
        ws = w * s
        on_g, on_u = u_weight - ws * p, -ws * q
        mean_h, h_xhat = on_g * mean_g + on_u * mean_u, q * u_weight - 2 * ws * p * q
        c = (-s * h_xhat - (w * (a - m * p * q)) * s * s / m) * s
        grad_x = torch.addcmul(_row(-s * mean_h - c * mean), x, _row(c)) + g * _row(s * on_g) + u * _row(s * on_u)
        return grad_g, grad_x, grad_w, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return _vmapped(_Backward, info, in_dims, *args)


class BatchNorm(nn.Module):
    """Batch norm of [n, c], [n, c, l] or [n, c, h, w] that never writes to itself.

    With `statistics="population"` it uses the batch in training mode and, in evaluation mode, the mean and variance
    that `calibrate` measured.
    """

    def __init__(
        self, features: int, *, statistics: Literal["batch", "population"] = "batch", eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.statistics, self.eps = statistics, eps
        self.weight, self.bias = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))
        if statistics == "population":
            self.register_buffer("mean", torch.zeros(features))
            self.register_buffer("variance", torch.ones(features))

    def forward(self, x: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *space"]:
        if self.training or self.statistics == "batch":
            return batch_norm(x, self.weight, self.bias, self.eps)
        scale = self.weight * torch.rsqrt(self.variance + self.eps)
        shape = (1, -1, *(1,) * (x.ndim - 2))
        return torch.addcmul((self.bias - self.mean * scale).view(shape), x, scale.view(shape))


class GroupNorm(nn.Module):
    """Group norm (Wu and He 2018) of [n, c, *space] through `batch_norm`: exact to the second derivative under vmap.

    torch's own has no vmap rule for channels-last weights.
    """

    def __init__(self, groups: int, features: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight, self.bias = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))

    def forward(self, x: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *space"]:
        one = x.new_ones(len(x) * self.groups)
        normal = batch_norm(x.reshape(1, len(one), -1), one, torch.zeros_like(one), self.eps).reshape(x.shape)
        shape = (1, -1, *(1,) * (x.ndim - 2))
        return torch.addcmul(self.bias.view(shape), normal, self.weight.view(shape))


def make_norm(norm: Norm, features: int) -> nn.Module:
    """The layer that a setting names."""
    if norm == "none":
        return nn.Identity()
    if norm == "group":
        return GroupNorm(max(1, features // 8), features)
    return BatchNorm(features, statistics=norm)


def is_transductive(net: nn.Module) -> bool:
    """Does a prediction of `net`, in evaluation mode, depend on the rest of the batch?"""
    return any(isinstance(m, BatchNorm) and m.statistics == "batch" for m in net.modules())


def convert_batch_norm(net: nn.Module) -> nn.Module:
    """A copy of `net` with every torch batch norm replaced by the one of this library, weights kept.

    One with running statistics becomes `population` (mean and variance kept), one without becomes `batch`.
    """
    if isinstance(net, nn.modules.batchnorm._BatchNorm):
        statistics = "batch" if net.running_mean is None else "population"
        own = BatchNorm(net.num_features, statistics=statistics, eps=net.eps)
        like = next((t for t in (net.weight, net.running_mean) if t is not None), own.weight)
        own.to(device=like.device, dtype=like.dtype)
        with torch.no_grad():
            if net.affine:
                own.weight.copy_(net.weight), own.bias.copy_(net.bias)
            else:
                own.weight.requires_grad_(False), own.bias.requires_grad_(False)
            if net.running_mean is not None and net.running_var is not None:
                own.mean.copy_(net.running_mean), own.variance.copy_(net.running_var)
        return own.train(net.training)
    other = copy.copy(net)
    other._modules = {name: child and convert_batch_norm(child) for name, child in net._modules.items()}
    return other


@torch.no_grad()
def calibrate(net: nn.Module, run: Callable[[], Iterable[Any]]) -> None:
    """Measure the population statistics: the mean over batches of each layer's batch mean and variance.

    `run` yields after each pass of data through `net`, which is in training mode meanwhile. This is precise batch norm
    (Wu and Johnson 2021, section 3): no running average, so the result depends on the weights and the data alone.
    """
    layers = [m for m in net.modules() if isinstance(m, BatchNorm) and m.statistics == "population"]
    if not layers:
        return
    moments: dict[nn.Module, list[tuple[int, Tensor, Tensor]]] = {layer: [] for layer in layers}

    def record(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        axes = [a for a in range(args[0].ndim) if a != 1]
        variance, mean = torch.var_mean(args[0], axes, correction=0)
        moments[layer].append((len(args[0]), mean, variance))

    modes = {m: m.training for m in net.modules()}
    hooks: list[RemovableHandle] = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        net.train()
        for _ in run():
            pass
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    for layer in layers:
        if seen := moments[layer]:
            count = sum(n for n, _, _ in seen)
            layer.mean.copy_(torch.stack([n / count * mean for n, mean, _ in seen]).sum(0))
            layer.variance.copy_(torch.stack([n / count * variance for n, _, variance in seen]).sum(0))
