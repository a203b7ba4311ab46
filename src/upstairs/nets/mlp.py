"""Multi-layer perceptrons."""

from collections import OrderedDict
from math import prod

from torch import nn


def mlp(shape: tuple[int, ...], *, widths: tuple[int, ...] = (40, 40), out: int | None = None) -> nn.Sequential:
    """Linear layers with ReLU between (Finn et al. 2017, section 5.1, for the sinusoids: 40, 40).

    Args:
        shape: of one input; it is flattened.
        widths: of the hidden layers.
        out: outputs of a last linear layer named `head`; None leaves the last hidden layer's activations.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    size = prod(shape)
    for i, width in enumerate(widths):
        layers[f"linear{i}"], layers[f"relu{i}"] = nn.Linear(size, width), nn.ReLU()
        size = width
    if out is not None:
        layers["head"] = nn.Linear(size, out)
    return nn.Sequential(layers)
