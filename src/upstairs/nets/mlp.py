"""Multi-layer perceptrons, and a projection of features that are good already."""

from collections import OrderedDict
from math import prod

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def mlp(
    shape: tuple[int, ...], *, widths: tuple[int, ...] = (40, 40), out: int | None = None, dropout: float = 0.0
) -> nn.Sequential:
    """Linear layers with ReLU between (Finn et al. 2017, section 5.1, for the sinusoids: 40, 40).

    Args:
        shape: of one input; it is flattened.
        widths: of the hidden layers.
        out: outputs of a last linear layer named `head`; None leaves the last hidden layer's activations.
        dropout: share of the hidden units that training leaves out (Srivastava et al. 2014).
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    size = prod(shape)
    for i, width in enumerate(widths):
        layers[f"linear{i}"], layers[f"relu{i}"] = nn.Linear(size, width), nn.ReLU()
        if dropout:
            layers[f"dropout{i}"] = nn.Dropout(dropout)
        size = width
    if out is not None:
        layers["head"] = nn.Linear(size, out)
    return nn.Sequential(layers)


class Projection(nn.Module):
    """A linear map that starts as none, and a length of sqrt(size), so that a number is of size 1."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)
        nn.init.eye_(self.linear.weight), nn.init.zeros_(self.linear.bias)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return F.normalize(self.linear(x), dim=-1) * x.shape[-1] ** 0.5


def projection(shape: tuple[int, ...], *, out: int | None = None) -> nn.Sequential:
    """`Projection` of features, with a last linear layer named `head` where `out` is given."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten(), projection=Projection(prod(shape)))
    if out is not None:
        layers["head"] = nn.Linear(prod(shape), out)
    return nn.Sequential(layers)
