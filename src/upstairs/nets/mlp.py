"""Multi-layer perceptrons, and a learned projection of pretrained features."""

from collections import OrderedDict
from collections.abc import Iterable
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

EARLIER = 0.6  # weight of an earlier layer's features; that of the last layer is 1


def mlp(
    shape: tuple[int, ...], *, widths: tuple[int, ...] = (40, 40), out: int | None = None, dropout: float = 0.0
) -> nn.Sequential:
    """Returns linear layers with ReLU between (Finn et al. 2017, section 5.1, for the sinusoids: 40, 40).

    Args:
        shape: shape of one input, which is flattened.
        widths: widths of the hidden layers.
        out: outputs of a last linear layer named `head`; None returns the last hidden layer's activations.
        dropout: share of the hidden units that are dropped in training (Srivastava et al. 2014).
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    size = prod(shape)
    for i, width in enumerate(widths):
        layers[f"linear{i}"], layers[f"relu{i}"] = nn.Linear(size, width), nn.ReLU()
        if dropout:
            layers[f"dropout{i}"] = nn.Dropout(dropout)
        size = width
    return with_head(layers, size, out)


def with_head(layers: OrderedDict[str, nn.Module], size: int, out: int | None) -> nn.Sequential:
    """Returns the layers in sequence, with a last linear layer `head` from `size` to `out` unless `out` is None."""
    if out is not None:
        layers["head"] = nn.Linear(size, out)
    return nn.Sequential(layers)


class Projection(nn.Module):
    """A linear map of features, the identity at the start; its outputs are scaled to length sqrt(size).

    Args:
        shape: shape of the features: (size,), or (3, size) as in `FrozenFormat`. Then the second and third reading are
            concatenated, the third (an earlier layer) with the weight `EARLIER`.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.size = shape[0] if len(shape) == 1 else 2 * shape[1]
        self.linear = nn.Linear(self.size, self.size)
        nn.init.eye_(self.linear.weight), nn.init.zeros_(self.linear.bias)

    def read(self, x: Float[Tensor, "n *feature"]) -> Float[Tensor, "n size"]:
        """Returns the features as one vector of length 1."""
        if x.ndim == 2:
            return F.normalize(x, dim=-1)  # centred afterwards, features of photos gain 2 points, and lost 3 without
        return F.normalize(torch.cat([x[:, 1], EARLIER * x[:, 2]], -1), dim=-1)

    def forward(self, x: Float[Tensor, "n *feature"]) -> Float[Tensor, "n size"]:
        return F.normalize(self.linear(self.read(x)), dim=-1) * self.size**0.5


def projection(shape: tuple[int, ...], *, out: int | None = None) -> nn.Sequential:
    """Returns a `Projection` of features, with a last linear layer named `head` where `out` is given."""
    body = Projection(shape)
    return with_head(OrderedDict(projection=body), body.size, out)


@torch.no_grad()
def begin_centred(net: nn.Module, inputs: Iterable[np.ndarray]) -> None:
    """Sets the bias of every `Projection` in the network so that it subtracts the mean of these arrays of features."""
    if own := [module for module in net.modules() if isinstance(module, Projection)]:
        x = torch.cat([torch.from_numpy(np.ascontiguousarray(rows, np.float32)) for rows in inputs])
        for module in own:
            module.linear.bias.copy_(-module.read(x).mean(0))
