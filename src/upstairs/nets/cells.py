"""Networks for learning structure: cells of mixed operations to search, and a chain of stages for early exits."""

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

SHARPNESS = 10.0  # of the softmax over operations: at the outer learning rate one of them wins in some hundred steps


class Mixed(nn.Module):
    """A weighted mixture of operations, or the chosen one alone (DARTS, Liu, Simonyan and Yang 2019, equation 2).

        y = sum over k of p_k o_k(x),   p = softmax(SHARPNESS a / temperature)

    `architecture` is a, which starts at zero: all weights equal. In evaluation, and after `choose`, only the operation
    with the largest a is computed.
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
        """Computes only the operation with the largest weight from now on."""
        self.soft = False
        self.chosen = list(self.operations)[int(self.architecture.detach().argmax())]

    def soften(self, temperature: float) -> None:
        """Computes the mixture in training mode; evaluation computes the operation that is now the largest."""
        self.choose()
        self.soft = True
        self.temperature.fill_(temperature)


def _choose_again(mixed: Mixed, keys: object) -> None:
    """Chooses again after weights were loaded."""
    soft = mixed.soft
    mixed.choose()
    mixed.soft = soft


class SearchCell(nn.Module):
    """A cell of two nodes and three edges: h = a(x), y = ReLU(b(x) + c(h))."""

    def __init__(self, a: nn.Module, b: nn.Module, c: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.c = a, b, c

    def forward(self, x: Float[Tensor, "n *d"]) -> Float[Tensor, "n *d"]:
        return F.relu(self.b(x) + self.c(self.a(x)))


def cells(shape: tuple[int, ...], *, width: int = 32, norm: Norm = "population", count: int = 3) -> nn.Sequential:
    """Returns an encoder of `count` cells in which every edge is `Mixed`.

    For pictures the cells follow a convolution that halves the size, with a 2x2 max-pool between cells; for other
    inputs they follow a linear layer. Operations on pictures: a 3x3 convolution, a depthwise separable one, a 1x1
    convolution, the identity. Operations on vectors: a linear layer after ReLU, one after tanh, the identity.
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
        layers[f"cell{i}"] = SearchCell(*(Mixed(operations(width, norm)) for _ in range(3)))
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
    """Returns the `Mixed` modules of a network, by name."""
    return {name: m for name, m in net.named_modules() if isinstance(m, Mixed)}


def discretise(net: nn.Module) -> nn.Module:
    """Returns a copy of `net` with only the chosen operations: an ordinary module to train, save and export."""
    if isinstance(net, Mixed):
        return copy.deepcopy(net.operations[net.chosen])
    other = copy.deepcopy(net)
    for name, m in mixtures(net).items():
        parent, _, own = name.rpartition(".")
        setattr(other.get_submodule(parent), own, discretise(m))
    return other


class Residual(nn.Module):
    """A residual connection: ReLU(x + f(x))."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Float[Tensor, "n *d"]) -> Float[Tensor, "n *d"]:
        return F.relu(x + self.inner(x))


class Exit(nn.Module):
    """Flattens each example to one vector, maps after a 2x2 max-pool."""

    def forward(self, x: Float[Tensor, "n *d"]) -> Float[Tensor, "n d"]:
        return (F.max_pool2d(x, 2) if x.ndim == 4 else x).flatten(1)


def chain(shape: tuple[int, ...], *, width: int = 64, norm: Norm = "population", depth: int = 3) -> nn.Sequential:
    """Returns stages of similar cost and equal output shape, so that a network may end after any of them.

    For pictures: two convolutions of stride 2, then `depth` residual convolutions of `width` channels (He et al. 2016).
    For other inputs: a linear layer, then residual linear layers. The first stage already makes the maps small, because
    normalising and pooling large ones would take most of the time before the first exit.
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
