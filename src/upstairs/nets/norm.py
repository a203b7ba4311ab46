"""Normalisation as a named setting, with a batch norm that is exact under vmap and twice differentiable.

`batch`       statistics of the batch at hand, always: the published MAML; predictions are transductive.
`population`  statistics of the batch while training, and of the training tasks afterwards (see `calibrate`): inductive.
`per_step`    the same, with statistics of its own for each inner step and for the queries: weights that adapt see other
              activations in each step (Antoniou, Edwards and Storkey 2019, section 4, BNRS).
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

from upstairs.functional.batching.kernels import affine, batch_norm, group_norm
from upstairs.functional.batching.tensor import BatchedTensor, front
from upstairs.functional.differentiate import inner_step
from upstairs.settings import Norm


class BatchNorm(nn.Module):
    """Batch norm of [n, c], [n, c, l] or [n, c, h, w] that never writes to itself.

    With `statistics="population"` it uses the batch in training mode and, in evaluation mode, the mean and variance
    that `calibrate` measured; with `per_step` those of the inner step that runs, of `steps`.
    """

    def __init__(
        self,
        features: int,
        *,
        statistics: Literal["batch", "population", "per_step"] = "batch",
        steps: int = 1,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.statistics, self.eps = statistics, eps
        self.weight, self.bias = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))
        if statistics != "batch":
            shape = (features,) if statistics == "population" else (steps + 1, features)
            self.register_buffer("mean", torch.zeros(shape))
            self.register_buffer("variance", torch.ones(shape))

    def forward(self, x: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *space"]:
        if self.training or self.statistics == "batch":
            return batch_norm(x, self.weight, self.bias, self.eps)
        mean, variance = self.mean, self.variance
        if self.statistics == "per_step":
            mean, variance = mean[self.row], variance[self.row]
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return affine(x, scale, self.bias - mean * scale)

    @property
    def row(self) -> int:
        """Which statistics the inner step at hand has: the last row is that of the queries, and of all later steps."""
        return min(inner_step(), len(self.mean) - 1) if self.statistics == "per_step" else 0


class Centre(nn.Module):
    """x less the mean that `calibrate` measured of it; in training mode x as it is."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))

    def forward(self, x: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        return x if self.training else x - self.mean


class GroupNorm(nn.Module):
    """Group norm (Wu and He 2018) of [n, c, *space], exact to the second derivative."""

    def __init__(self, groups: int, features: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight, self.bias = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))

    def forward(self, x: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *space"]:
        return group_norm(x, self.groups, self.weight, self.bias, self.eps)


def make_norm(norm: Norm, features: int, *, steps: int = 1) -> nn.Module:
    """The layer that a setting names; `steps` of the inner loop matter to `per_step` alone."""
    if norm == "none":
        return nn.Identity()
    if norm == "group":
        return GroupNorm(max(1, features // 8), features)
    return BatchNorm(features, statistics=norm, steps=steps)


def is_transductive(net: nn.Module) -> bool:
    """Does a prediction of `net`, in evaluation mode, depend on the rest of the batch?"""

    def on_the_batch(m: nn.Module) -> bool:
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            return m.running_mean is None
        return isinstance(m, BatchNorm) and m.statistics == "batch"

    return any(on_the_batch(m) for m in net.modules())


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
    layers = [m for m in net.modules() if isinstance(m, BatchNorm | Centre) and "mean" in m._buffers]
    if not layers:
        return
    moments: dict[tuple[nn.Module, int], list[tuple[int, Tensor, Tensor]]] = {}

    def record(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0]
        if isinstance(x, BatchedTensor):
            x = front(x).flatten(0, 1)
        variance, mean = torch.var_mean(x, [a for a in range(x.ndim) if a != 1], correction=0)
        row = layer.row if isinstance(layer, BatchNorm) else 0
        moments.setdefault((layer, row), []).append((len(x), mean, variance))

    modes = {m: m.training for m in net.modules()}
    hooks: list[RemovableHandle] = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        net.train()
        for module in net.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):  # statistics are those of the whole network
                module.eval()
        for _ in run():
            pass
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    for (layer, row), seen in moments.items():
        sizes, means, variances = zip(*seen, strict=True)
        for name, column in (("mean", means), ("variance", variances)):
            if name not in layer._buffers:
                continue
            whole = torch.stack([n / sum(sizes) * values for n, values in zip(sizes, column, strict=True)]).sum(0)
            layer.get_buffer(name).view(-1, len(whole))[row].copy_(whole)
