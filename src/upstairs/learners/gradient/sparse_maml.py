"""Gradient learners that learn which weights adapt, or the geometry of their steps: sparse-MAML, T-Net."""

import copy
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from upstairs.errors import UpstairsError
from upstairs.functional.call import functional_call
from upstairs.functional.rules import SGD, Params
from upstairs.learners.gradient.maml import GradientLearner, Options, adapting, trained_names


class _Threshold(torch.autograd.Function):
    """1 where a number is 0 or more, else 0; its backward is the identity (straight-through, Bengio et al. 2013)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(score: Tensor) -> Tensor:
        return (score >= 0).to(score.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod  # torch's types have *args here, which a function of one argument narrows
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad


class SparseSGD(nn.Module):
    """Gradient descent with a learned binary mask ("Learning where to learn", von Oswald et al. 2021).

        theta <- theta - lr * 1[m >= 0] * gradient,   d 1[m >= 0] / d m taken as 1 (straight-through)

    Args:
        params: the parameters that adapt.
        lr: learning rate of the inner steps.
        start: initial value of every score m; above 0 all weights adapt at first, as in MAML.
    """

    def __init__(self, params: Params, lr: float, *, start: float = 0.01) -> None:
        super().__init__()
        self.names, self.lr = list(params), lr
        self.scores = nn.ParameterList(torch.full_like(p, start, requires_grad=False) for p in params.values())

    def init(self, params: Params) -> tuple[()]:
        return ()

    def update(self, grads: Params, state: tuple[()], params: Params) -> tuple[Params, tuple[()]]:
        masks = zip(self.names, self.scores, strict=True)
        return {n: -self.lr * (_Threshold.apply(m) * grads[n]) for n, m in masks}, state

    @torch.no_grad()
    def adapting(self) -> dict[str, float]:
        """Returns the share of the weights of each tensor that adapt."""
        return {n: float((m >= 0).float().mean()) for n, m in zip(self.names, self.scores, strict=True)}


def sparse_maml(
    net: nn.Module, *, way: int | None = None, inner_lr: float = 0.4, **options: Unpack[Options]
) -> GradientLearner:
    """sparse-MAML: MAML that learns which weights adapt (von Oswald et al. 2021); see `SparseSGD`."""
    return GradientLearner(net, SparseSGD(adapting(net), inner_lr), way=way, **options)


class Transformed(nn.Module):
    """A linear layer or convolution followed by a linear map T that does not adapt: y = T (W x + b).

    It is computed as (T W) x + T b, in one pass over the inputs. T starts as the identity.
    """

    def __init__(self, layer: nn.Linear | nn.Conv1d | nn.Conv2d) -> None:
        super().__init__()
        weight = layer.weight
        self.layer: nn.Linear | nn.Conv1d | nn.Conv2d = layer
        self.transform = nn.Parameter(torch.eye(len(weight), dtype=weight.dtype, device=weight.device))

    @property
    def weight(self) -> Tensor:
        return self.layer.weight  # transformers ask for its type

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.layer.weight, self.layer.bias
        params = {"weight": (self.transform @ weight.flatten(1)).reshape(weight.shape)}
        if bias is not None:
            params["bias"] = self.transform @ bias
        return functional_call(self.layer, params, x)


def transformed(net: nn.Module) -> nn.Module:
    """Returns a copy of `net` whose linear layers and convolutions are each `Transformed`, but for frozen ones.

    Raises:
        UpstairsError: `net` has none.
    """
    other, frozen = copy.deepcopy(net), any(p.requires_grad for p in net.parameters())
    for parent in list(other.modules()):
        for name, child in parent.named_children():
            plain = isinstance(child, nn.Linear | nn.Conv1d | nn.Conv2d) and getattr(child, "groups", 1) == 1
            if plain and (child.weight.requires_grad or not frozen):
                setattr(parent, name, Transformed(child))
    if not any(isinstance(m, Transformed) for m in other.modules()):
        raise UpstairsError(f"{type(net).__name__} has no linear layer or convolution inside to transform: use maml")
    return other


def t_net(
    net: nn.Module, *, way: int | None = None, inner_lr: float = 0.4, **options: Unpack[Options]
) -> GradientLearner:
    """T-Net: MAML in a learned geometry (Lee and Choi 2018, section 4.1).

        y = T W x;  W adapts, T is learned across tasks:   T W <- T W - inner_lr * T T' dL/d(T W)

    so that a step is gradient descent in the metric (T T')^-1.

    Args:
        net: other nets than those of `transformed` are transformed; parameters named `transform` do not adapt.
    """
    net = net if any(isinstance(m, Transformed) for m in net.modules()) else transformed(net)
    able = {name for name in trained_names(net) if not name.endswith("transform")}
    return GradientLearner(net, SGD(inner_lr), way=way, fast=able.__contains__, **options)
