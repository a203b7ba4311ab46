"""Normalisation layers by name, with a batch norm that is exact under vmap and twice differentiable.

`batch`       always the statistics of the current batch, as in the published MAML; predictions are transductive.
`population`  statistics of the batch in training, of the training tasks in evaluation: inductive. `upstairs.calibrate`
              must measure them before evaluation; `evaluate` raises an error otherwise.
`per_step`    as `population`, with separate statistics for each inner step and for the queries, since activations
              change as the weights adapt (Antoniou, Edwards and Storkey 2019, section 4, BNRS).
`group`       statistics of each example alone: inductive, and the same in training and evaluation.
`none`        no normalisation.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.functional.batching.kernels import affine, batch_norm, group_norm
from upstairs.functional.batching.tensor import BatchedTensor, front
from upstairs.functional.differentiate import inner_step
from upstairs.settings import Norm


class BatchNorm(nn.Module):
    """Batch norm of [n, c], [n, c, l] or [n, c, h, w] whose `forward` never writes to its buffers.

    With `statistics="population"` it uses the batch in training mode and, in evaluation mode, the mean and variance
    that `calibrate` measured; with `per_step` those of the current inner step, out of `steps`. The buffer `measured`
    says whether they were measured: before, they are 0 and 1.
    """

    mean: Tensor
    variance: Tensor
    measured: Tensor

    def __init__(
        self, features: int, *, statistics: Literal["batch", "population", "per_step"] = "batch", steps: int = 1,
        eps: float = 1e-5,
    ) -> None:  # fmt: skip
        super().__init__()
        self.statistics, self.eps = statistics, eps
        self.weight, self.bias = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))
        if statistics != "batch":
            shape = (features,) if statistics == "population" else (steps + 1, features)
            self.register_buffer("mean", torch.zeros(shape))
            self.register_buffer("variance", torch.ones(shape))
            measurable(self)

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
        """The row of statistics of the current inner step; the last row is for the queries and all later steps."""
        return min(inner_step(), len(self.mean) - 1) if self.statistics == "per_step" else 0


class Centre(nn.Module):
    """Subtracts the mean that `calibrate` measured; in training mode it returns x unchanged."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        measurable(self)

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
    """Returns the normalisation layer of this name; only `per_step` uses `steps`, the number of inner steps."""
    if norm == "none":
        return nn.Identity()
    if norm == "group":
        return GroupNorm(max(1, features // 8), features)
    return BatchNorm(features, statistics=norm, steps=steps)


def is_transductive(net: nn.Module) -> bool:
    """Returns whether a prediction of `net`, in evaluation mode, depends on the rest of the batch."""

    def on_the_batch(m: nn.Module) -> bool:
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            return m.running_mean is None
        return isinstance(m, BatchNorm) and m.statistics == "batch"

    return any(on_the_batch(m) for m in net.modules())


def convert_batch_norm(net: nn.Module) -> nn.Module:
    """Returns a copy of `net` with every torch batch norm replaced by `BatchNorm`, weights kept.

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
                own.measured.fill_(net.num_batches_tracked is None or bool(net.num_batches_tracked > 0))
        return own.train(net.training)
    other = copy.copy(net)
    other._modules = {name: child and convert_batch_norm(child) for name, child in net._modules.items()}
    return other


def measurable(layer: nn.Module, *, measured: bool = False) -> None:
    """Registers the buffer `measured` of a layer; older checkpoints, which lack it, count as measured.

    It has the shape of `mean`, so that code which copies tensors of equal shape copies both or neither.
    """
    layer.register_buffer("measured", torch.full_like(layer.get_buffer("mean"), measured, dtype=torch.bool))
    layer.register_load_state_dict_pre_hook(_measured_before)


def _measured_before(layer: nn.Module, tensors: dict[str, Tensor], prefix: str, *_: object) -> None:
    if f"{prefix}mean" in tensors:
        tensors.setdefault(f"{prefix}measured", torch.ones_like(tensors[f"{prefix}mean"], dtype=torch.bool))


def measurable_layers(net: nn.Module) -> list[nn.Module]:
    """Returns the layers of `net` whose population statistics `measuring` measures."""
    return [m for m in net.modules() if isinstance(m, BatchNorm | Centre) and "measured" in m._buffers]


@contextmanager
def measuring(net: nn.Module) -> Iterator[None]:
    """Measures the population statistics of `net` on the data that passes through it while the context is open.

    They are the mean over passes of each layer's batch mean and variance: precise batch norm (Wu and Johnson 2021,
    section 3). Without a running average they depend on the weights and the data alone. Meanwhile `net` is in training
    mode, except for dropout, which is off. A layer that no pass reaches, such as an operation that a search did not
    choose, keeps its statistics.
    """
    layers, moments = measurable_layers(net), dict[tuple[nn.Module, int], list[tuple[int, Tensor, Tensor]]]()

    def record(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0]
        if isinstance(x, BatchedTensor):
            x = front(x).flatten(0, 1)
        variance, mean = torch.var_mean(x, [a for a in range(x.ndim) if a != 1], correction=0)
        row = layer.row if isinstance(layer, BatchNorm) else 0
        moments.setdefault((layer, row), []).append((len(x), mean, variance))

    modes = {m: m.training for m in net.modules()}
    hooks = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        net.train()
        for module in modes:
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.eval()
        with torch.no_grad():
            yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    for (layer, row), seen in moments.items():
        sizes, *columns = zip(*seen, strict=True)
        for name, column in zip(("mean", "variance"), columns, strict=True):
            if name in layer._buffers:
                whole = torch.stack([n / sum(sizes) * values for n, values in zip(sizes, column, strict=True)]).sum(0)
                layer.get_buffer(name).view(-1, len(whole))[row].copy_(whole)
    for layer in layers if moments else ():
        layer.get_buffer("measured").fill_(True)
