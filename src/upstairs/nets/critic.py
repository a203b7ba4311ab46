"""Networks that say how real an input looks."""

from itertools import pairwise
from math import prod

from torch import nn

from upstairs.nets.conv import channels_last
from upstairs.nets.drawing import halved


def critic(shape: tuple[int, ...], *, width: int) -> nn.Sequential:
    """One number for each input: higher for a real one.

    Pictures of 16 pixels or more: three 3x3 convolutions of stride 2, of width, 2 width and 4 width channels. All else:
    two hidden layers. No normalisation, so that a penalty on its gradient is of each input alone (Gulrajani 2017), and
    SiLU, whose second derivative is not zero, so that it reaches all layers. The last layer has no bias: losses are of
    differences.
    """
    if len(shape) != 3 or min(shape[1:]) < 16:
        hidden = 4 * width
        first = [nn.Flatten(), nn.Linear(prod(shape), hidden), nn.SiLU()]
        return nn.Sequential(*first, nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1, bias=False))
    channels = [shape[0], width, 2 * width, 4 * width]
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.SiLU()]
    rows, columns = (halved(side, 3) for side in shape[1:])
    return channels_last(nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width * rows * columns, 1, bias=False)))
