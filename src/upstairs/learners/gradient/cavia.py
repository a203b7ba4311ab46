"""CAVIA: only a small vector, the context, adapts; the network that reads it is shared by all tasks."""

import copy
from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.errors import UpstairsError
from upstairs.functional.rules import SGD
from upstairs.learners.gradient.maml import GradientLearner, Options


class Concatenated(nn.Module):
    """Concatenates a context to the input: f([x, c]); `net` takes `size` more inputs."""

    def __init__(self, net: nn.Module, size: int) -> None:
        super().__init__()
        self.net, self.context = net, nn.Parameter(torch.zeros(size), requires_grad=False)

    def forward(self, x: Float[Tensor, "n d"]) -> Tensor:
        return self.net(torch.cat([x, self.context.expand(len(x), -1)], 1))


class Film(nn.Module):
    """Scales and shifts features by a linear function of a context (Perez et al. 2018): (1 + A c) * z + B c."""

    def __init__(self, features: int, size: int) -> None:
        super().__init__()
        self.context = nn.Parameter(torch.zeros(size), requires_grad=False)
        self.film = nn.Linear(size, 2 * features, bias=False)

    def forward(self, z: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *space"]:
        shape = (-1, *(1,) * (z.ndim - 2))
        gain, shift = self.film(self.context).chunk(2)
        return (1 + gain.reshape(shape)) * z + shift.reshape(shape)


def modulated(net: nn.Module, size: int) -> nn.Module:
    """Returns a copy of `net` with a `Film` before each ReLU, each with its own context of length `size`."""
    other = copy.deepcopy(net)
    for parent in list(other.modules()):
        features = 0
        for name, child in parent.named_children():
            features = next((len(p) for p in child.parameters(recurse=False) if p.ndim > 1), features)
            if isinstance(child, nn.ReLU) and features:
                setattr(parent, name, nn.Sequential(Film(features, size), child))
    return other


def cavia(
    net: nn.Module, *, way: int | None = None, inner_lr: float = 1.0, **options: Unpack[Options]
) -> GradientLearner:
    """CAVIA (Zintgraf et al. 2019): MAML in which only the parameters named `context` adapt, from zero.

        c_0 = 0,  c_{k+1} = c_k - lr * grad_c L_support(c_k, theta),  meta-gradient = d L_query(c_K, theta) / d theta

    Args:
        net: with parameters named `context` (see `Concatenated`, `modulated`); other nets become `modulated(net, 100)`.
    """
    if not any(name.split(".")[-1] == "context" for name, _ in net.named_parameters()):
        net = modulated(net, size=100)
        if not any(isinstance(m, Film) for m in net.modules()):
            raise UpstairsError(
                "CAVIA modulates what goes into a ReLU and this network has none: use `net` conv4 or mlp"
            )
    return GradientLearner(net, SGD(inner_lr), way=way, fast=lambda name: name.split(".")[-1] == "context", **options)
