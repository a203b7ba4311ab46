"""Networks whose structure is chosen: cells of mixed operations, and a chain of stages that can be left early."""

import copy
from collections import OrderedDict
from functools import reduce
from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.nets.conv import channels_last
from upstairs.nets.norm import Norm, make_norm

SHARPNESS = 10.0  # of the softmax over operations: with the outer loop's rate a choice is made in some hundred steps


class Mixed(nn.Module):
    """A choice between operations (DARTS, Liu, Simonyan and Yang 2019, equation 2), or the one that is chosen.

        y = sum over k of p_k o_k(x),   p = softmax(SHARPNESS a / temperature)

    `architecture` is a. In evaluation, and after `choose`, y is that of the operation with the largest a alone, and the
    others are not computed. The start is even.
    """

    temperature: Tensor

    def __init__(self, operations: OrderedDict[str, nn.Module]) -> None:
        super().__init__()
        self.operations = nn.ModuleDict(operations)
        self.architecture = nn.Parameter(torch.zeros(len(operations)))
        self.register_buffer("temperature", torch.ones(()), persistent=False)
        self.soft, self.chosen = False, next(iter(operations))
        self.register_load_state_dict_post_hook(_choose_again)

    def forward(self, x: Float[Tensor, "n *d"]) -> Float[Tensor, "n *d"]:
        if not (self.soft and self.training):
            return self.operations[self.chosen](x)
        share = (SHARPNESS * self.architecture / self.temperature).softmax(-1)
        return reduce(torch.add, [share[k] * operation(x) for k, operation in enumerate(self.operations.values())])

    def choose(self) -> None:
        """The operation with the largest weight alone from now on."""
        self.soft = False
        self.chosen = list(self.operations)[int(self.architecture.detach().argmax())]

    def soften(self, temperature: float) -> None:
        """The mixture, in training mode; what evaluation sees is the choice as it now stands."""
        self.choose()
        self.soft = True
        self.temperature.fill_(temperature)


def _choose_again(mixed: Mixed, keys: object) -> None:
    """Weights were loaded: the choice is theirs."""
    soft = mixed.soft
    mixed.choose()
    mixed.soft = soft


class Cell(nn.Module):
    """Two nodes and three edges: h = a(x), y = ReLU(b(x) + c(h))."""

    def __init__(self, a: nn.Module, b: nn.Module, c: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.c = a, b, c

    def forward(self, x: Float[Tensor, "n *d"]) -> Float[Tensor, "n *d"]:
        return F.relu(self.b(x) + self.c(self.a(x)))


def cells(shape: tuple[int, ...], *, width: int = 32, norm: Norm = "population", count: int = 3) -> nn.Sequential:
    """An encoder of `count` cells whose every edge is `Mixed`: of pictures after a convolution that halves them, with a
    2x2 max-pool between cells; of anything else after a linear layer.

    Operations: a 3x3 convolution, a depthwise separable one, a 1x1 convolution, or none (the input as it is); on
    vectors a linear layer after ReLU or after tanh, or none.
    """
    pictures = len(shape) == 3 and min(shape[1:]) >= 16
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if pictures:
        stem = nn.Conv2d(shape[0], width, 3, padding=1, bias=norm == "none")
        layers["stem"] = nn.Sequential(stem, make_norm(norm, width), nn.MaxPool2d(2), nn.ReLU())
    else:
        layers["flatten"], layers["stem"] = nn.Flatten(), nn.Linear(prod(shape), width)
    operations = _on_maps if pictures else _on_vectors
    for i in range(count):
        layers[f"cell{i}"] = Cell(*(Mixed(operations(width, norm)) for _ in range(3)))
        if pictures and i < count - 1:
            layers[f"pool{i}"] = nn.MaxPool2d(2)
    if pictures:
        layers["end"] = nn.Flatten()
    return channels_last(nn.Sequential(layers))


def _on_maps(width: int, norm: Norm) -> OrderedDict[str, nn.Module]:
    def convolution(size: int, groups: int = 1) -> nn.Conv2d:
        return nn.Conv2d(width, width, size, padding=size // 2, groups=groups, bias=norm == "none")

    return OrderedDict(
        conv3=nn.Sequential(nn.ReLU(), convolution(3), make_norm(norm, width)),
        separable=nn.Sequential(nn.ReLU(), convolution(3, groups=width), convolution(1), make_norm(norm, width)),
        conv1=nn.Sequential(nn.ReLU(), convolution(1), make_norm(norm, width)),
        skip=nn.Identity(),
    )


def _on_vectors(width: int, norm: Norm) -> OrderedDict[str, nn.Module]:
    return OrderedDict(
        relu=nn.Sequential(nn.ReLU(), nn.Linear(width, width)),
        tanh=nn.Sequential(nn.Tanh(), nn.Linear(width, width)),
        skip=nn.Identity(),
    )


def mixtures(net: nn.Module) -> dict[str, Mixed]:
    """The choices of a network, by name."""
    return {name: m for name, m in net.named_modules() if isinstance(m, Mixed)}


def discretise(net: nn.Module) -> nn.Module:
    """A copy of `net` that has only the chosen operations: an ordinary module, to train, save and export."""
    if isinstance(net, Mixed):
        return copy.deepcopy(net.operations[net.chosen])
    other = copy.deepcopy(net)
    for name, m in mixtures(net).items():
        parent, _, own = name.rpartition(".")
        setattr(other.get_submodule(parent), own, discretise(m))
    return other


class Residual(nn.Module):
    """ReLU(x + f(x))."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Float[Tensor, "n *d"]) -> Float[Tensor, "n *d"]:
        return F.relu(x + self.inner(x))


class Exit(nn.Module):
    """Maps are max-pooled 2x2, and all of an example is one vector."""

    def forward(self, x: Float[Tensor, "n *d"]) -> Float[Tensor, "n d"]:
        return (F.max_pool2d(x, 2) if x.ndim == 4 else x).flatten(1)


def chain(shape: tuple[int, ...], *, width: int = 64, norm: Norm = "population", depth: int = 3) -> nn.Sequential:
    """Stages of like cost, each of which has the same shape of outputs, so that a network may end after any.

    Of pictures: two convolutions of stride 2, then `depth` residual convolutions of `width` channels (He et al. 2016);
    of anything else a linear layer, then residual linear layers. No stage has large maps: normalising and pooling them
    would take most of the time, and no exit could save it.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if len(shape) != 3 or min(shape[1:]) < 16:
        layers["stage0"] = nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), width), nn.ReLU())
        for i in range(1, depth + 1):
            layers[f"stage{i}"] = Residual(nn.Linear(width, width))
        return nn.Sequential(layers)

    half = max(1, width // 2)
    layers["stage0"] = nn.Sequential(
        nn.Conv2d(shape[0], half, 3, stride=2, padding=1, bias=norm == "none"), make_norm(norm, half), nn.ReLU(),
        nn.Conv2d(half, width, 3, stride=2, padding=1, bias=norm == "none"), make_norm(norm, width), nn.ReLU(),
    )  # fmt: skip
    for i in range(1, depth + 1):
        inner = nn.Conv2d(width, width, 3, padding=1, bias=norm == "none")
        layers[f"stage{i}"] = Residual(nn.Sequential(inner, make_norm(norm, width)))
    return channels_last(nn.Sequential(layers))
