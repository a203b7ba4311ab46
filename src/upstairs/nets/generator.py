"""Networks that write an input: from a vector of numbers to a picture, or to another vector."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

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
