"""A module as a pure function of its parameters, for inner and outer losses."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from upstairs.errors import UpstairsError
from upstairs.functional.call import Params, functional_call
from upstairs.functional.purity import check_unchanged, snapshot

HARM = "by its own forward, so that it is no function of its parameters"
TorchNorm = nn.modules.batchnorm._BatchNorm


class _BatchNorm(nn.Module):
    """A torch batch norm with all derivatives, in forward mode too; it updates no running statistics."""

    def __init__(self, norm: TorchNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.register_buffer("running_mean", norm.running_mean)
        self.register_buffer("running_var", norm.running_var)
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.running_mean, self.running_var
        if self.training or mean is None or variance is None:
            variance, mean = torch.var_mean(x, [a for a in range(x.ndim) if a != 1], correction=0)
        scale = torch.rsqrt(variance + self.eps)
        scale = scale if self.weight is None else scale * self.weight
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return x * scale.view(shape) + shift.view(shape)


class Pure:
    """A pure function of parameters: `pure(net)(parameters, x)` is `net(x)` with these parameters; `net` is unchanged.

    - Tied weights are one parameter, under the first of their names.
    - Batch norm uses batch statistics in training mode, the running ones in evaluation mode, and updates neither.
    - Dropout draws from torch's global generator.
    - A module that writes to itself (spectral norm, your own running mean) is refused by name at the first call.
    - A lazy module, whose parameters have no shape before its first call, is refused by name.

    Attributes:
        parameters: copies of those of `net`, a start for an inner loop.
    """

    def __init__(self, net: nn.Module) -> None:
        for name, p in net.named_parameters():
            if isinstance(p, UninitializedParameter):
                raise UpstairsError(
                    f"parameter '{name}' has no shape yet, its layer being lazy: call the network once on a batch of "
                    "its inputs before pure(net)"
                )
        home = nn.ModuleList([copy.deepcopy(net)])  # a parent, so that a batch norm that is all of `net` has one too
        for module in list(home.modules()):
            norms = {n: m for n, m in module._modules.items() if isinstance(m, TorchNorm)}
            module._modules.update({n: _BatchNorm(m) for n, m in norms.items()})
        self.net = home[0]
        self.parameters: Params = {n: p.detach().clone() for n, p in self.net.named_parameters()}
        self._checked = False

    def __call__(self, parameters: Params, *args: Any) -> Tensor:
        if self._checked:
            return functional_call(self.net, parameters, *args)
        before = snapshot(self.net)
        value = functional_call(self.net, parameters, *args)
        check_unchanged(before, HARM)
        self._checked = True
        return value


def pure(net: nn.Module) -> Pure:
    """Returns `net` as a pure function of its parameters; see `Pure`."""
    return Pure(net)
