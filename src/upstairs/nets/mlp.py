"""Multi-layer perceptrons, and a projection of features that are good already."""

from collections import OrderedDict
from collections.abc import Iterable
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

EARLIER = 0.6  # weight of an earlier layer beside the last


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
    """A linear map of features that starts as none, and a length of sqrt(size), so that a number is of size 1.

    Args:
        shape: of the features: (size,), or (3, size) as `FrozenFormat` has them: then the two readings behind the first
            are mapped together, the earlier layer's with a weight of `EARLIER`.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.size = shape[0] if len(shape) == 1 else 2 * shape[1]
        self.linear = nn.Linear(self.size, self.size)
        nn.init.eye_(self.linear.weight), nn.init.zeros_(self.linear.bias)

    def read(self, x: Float[Tensor, "n *feature"]) -> Float[Tensor, "n size"]:
        """The features as one vector."""
        if x.ndim == 2:
            return x
        return F.normalize(torch.cat([x[:, 1], EARLIER * x[:, 2]], -1), dim=-1)

    def forward(self, x: Float[Tensor, "n *feature"]) -> Float[Tensor, "n size"]:
        return F.normalize(self.linear(self.read(x)), dim=-1) * self.size**0.5


def projection(shape: tuple[int, ...], *, out: int | None = None) -> nn.Sequential:
    """`Projection` of features, with a last linear layer named `head` where `out` is given."""
    body = Projection(shape)
    layers: OrderedDict[str, nn.Module] = OrderedDict(projection=body)
    if out is not None:
        layers["head"] = nn.Linear(body.size, out)
    return nn.Sequential(layers)


@torch.no_grad()
def begin_centred(net: nn.Module, inputs: Iterable[np.ndarray]) -> None:
    """Let every `Projection` of the network take away the mean of these features (several arrays of them)."""
    if own := [module for module in net.modules() if isinstance(module, Projection)]:
        x = torch.cat([torch.from_numpy(np.ascontiguousarray(rows, np.float32)) for rows in inputs])
        for module in own:
            module.linear.bias.copy_(-module.read(x).mean(0))
