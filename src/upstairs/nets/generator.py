"""Networks that write an input: from a vector of numbers to a picture, or to another vector."""

from itertools import pairwise
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.nets.conv import channels_last
from upstairs.nets.drawing import halved
from upstairs.nets.norm import GroupNorm


class Doubled(nn.Module):
    """Each pixel becomes four: nearest-neighbour upsampling, as copies, which any transform of torch.func knows."""

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
        n, c, h, w = x.shape
        return x[:, :, :, None, :, None].expand(n, c, h, 2, w, 2).reshape(n, c, 2 * h, 2 * w)


class Cut(nn.Module):
    """The first rows and columns, as many as a picture has."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
        return x[:, :, : self.height, : self.width]


def writer(size: int, shape: tuple[int, ...], *, width: int = 32) -> nn.Sequential:
    """From vectors of `size` numbers to inputs of `shape`: pictures in [0, 1], or vectors.

    Pictures: a linear layer to 2 width channels at a quarter of the side, then twice upsampling and a 3x3 convolution
    with group norm, and a last convolution with a sigmoid (upsampling leaves no chequered pattern: Odena, Dumoulin and
    Olah 2016). Vectors: one hidden layer.
    """
    if len(shape) != 3:
        numbers = torch.Size(shape).numel()
        return nn.Sequential(
            nn.Linear(size, 4 * width), nn.ReLU(), nn.Linear(4 * width, numbers), nn.Unflatten(1, shape)
        )
    channels, height, breadth = shape
    rows, columns = -(-height // 4), -(-breadth // 4)
    return nn.Sequential(
        nn.Linear(size, 2 * width * rows * columns), nn.Unflatten(1, (2 * width, rows, columns)),
        GroupNorm(max(1, width // 4), 2 * width), nn.ReLU(), Doubled(),
        nn.Conv2d(2 * width, width, 3, padding=1), GroupNorm(max(1, width // 8), width), nn.ReLU(), Doubled(),
        nn.Conv2d(width, channels, 3, padding=1), Cut(height, breadth), nn.Sigmoid(),
    )  # fmt: skip


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
