"""Networks that read pictures and draw them: to a vector, from a vector, and by bending another picture."""

from collections import OrderedDict
from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.nets.conv import channels_last

CONTROLS = 7  # control points of a bend along each side


def halved(side: int, times: int) -> int:
    """A side after convolutions of stride 2."""
    for _ in range(times):
        side = (side + 1) // 2
    return side


def double(x: Float[Tensor, "n c h w"], size: tuple[int, int]) -> Float[Tensor, "n c h2 w2"]:
    """Each pixel as four, cut to `size`: the inverse of `halved`."""
    return F.interpolate(x, scale_factor=2)[:, :, : size[0], : size[1]]


def picture_reader(shape: tuple[int, ...], *, width: int, out: int) -> nn.Sequential:
    """Pictures as vectors: three convolutions of stride 2, of width, 2 width and 2 width channels, and two layers."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before = shape[0]
    for i, channels in enumerate((width, 2 * width, 2 * width)):
        layers[f"conv{i}"] = nn.Conv2d(before, channels, 3, stride=2, padding=1)
        layers[f"relu{i}"] = nn.ReLU()
        before = channels
    size = before * halved(shape[1], 3) * halved(shape[2], 3)
    layers |= {"flatten": nn.Flatten(), "linear": nn.Linear(size, 4 * width), "relu": nn.ReLU()}
    layers["head"] = nn.Linear(4 * width, out)
    return channels_last(nn.Sequential(layers))


class PictureWriter(nn.Module):
    """Pictures from vectors: a quarter of the size, then doubled twice, with convolutions between.

    Args:
        size: of a vector.
        shape: of a picture, (channels, height, width).
        width: channels at full size; twice as many below it.
    """

    def __init__(self, size: int, shape: tuple[int, ...], *, width: int) -> None:
        super().__init__()
        self.sides = [(halved(shape[1], k), halved(shape[2], k)) for k in (0, 1, 2)]
        self.width = width
        self.start = nn.Linear(size, 4 * width * prod(self.sides[2]))
        self.at_quarter = nn.Conv2d(4 * width, 2 * width, 3, padding=1)
        self.at_half = nn.Conv2d(2 * width, width, 3, padding=1)
        self.at_full = nn.Conv2d(width, shape[0], 3, padding=1)

    def forward(self, v: Float[Tensor, "n d"]) -> Float[Tensor, "n c h w"]:
        x = self.start(v).relu().reshape(-1, 4 * self.width, *self.sides[2])
        x = double(self.at_quarter(x).relu(), self.sides[1])
        return self.at_full(double(self.at_half(x).relu(), self.sides[0]))


def pair_reader(shape: tuple[int, ...], *, width: int, out: int) -> nn.Sequential:
    """Two pictures, one above the other in channels, as a vector that tells how one becomes the other."""
    layers: list[nn.Module] = []
    before = 2 * shape[0]
    for channels, stride in ((2 * width, 2), (2 * width, 1), (4 * width, 2), (4 * width, 1)):
        layers += [nn.Conv2d(before, channels, 3, stride=stride, padding=1), nn.ReLU()]
        before = channels
    size = before * halved(shape[1], 2) * halved(shape[2], 2)
    layers += [nn.Flatten(), nn.Linear(size, 16 * width), nn.ReLU(), nn.Linear(16 * width, out)]
    return channels_last(nn.Sequential(*layers))


class Bender(nn.Module):
    """Another drawing of what a picture shows: the picture is moved and bent as a vector says, and its strokes redrawn.

        out = a (w - 1/2) + r(w, z),   w(p) = s(A p + b + sum over k of B_k(p) d_k),   (A, b, d) = g(z, h)

    Each pixel takes its value from where an affine map and smooth displacements d of 7x7 control points (bicubic B_k)
    send it. What z can say to the small network r, which redraws the strokes, is a scale and a shift of each of its
    channels: thicker or thinner, but no stroke that s has not. So a picture of a class that was never seen stays one.

    Args:
        size: of the vector z.
        summary: of the vector h, which tells what s is like.
        shape: of a picture, (channels, height, width).
        width: channels of r.
    """

    def __init__(self, size: int, summary: int, shape: tuple[int, ...], *, width: int) -> None:
        super().__init__()
        c, numbers = shape[0], 2 * (3 + CONTROLS**2)
        self.bend = nn.Linear(size, numbers)
        self.bend_more = nn.Sequential(nn.Linear(size + summary, 128), nn.ReLU(), last := nn.Linear(128, numbers))
        self.style = nn.Linear(size, 2 * width)
        with torch.no_grad():  # at the start it bends little
            for layer in (self.bend, last, self.style):
                layer.weight.mul_(0.1), layer.bias.zero_()
        self.read = nn.Conv2d(c, width, 3, padding=1)
        self.redraw = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, c, 3, padding=1)
        self.contrast = nn.Parameter(torch.tensor(6.0))
        self.register_buffer("basis", bend_basis(*shape[1:]), persistent=False)
        channels_last(self)

    def forward(
        self, z: Float[Tensor, "n d"], s: Float[Tensor, "n c h w"], h: Float[Tensor, "n e"]
    ) -> Float[Tensor, "n c h w"]:
        """Drawings as logits."""
        w = self.moved(s, self.bend(z) + self.bend_more(torch.cat([z, h], 1)))
        scale, shift = self.style(z)[:, :, None, None].chunk(2, 1)
        x = (self.read(w) * (1 + scale) + shift).relu()
        return self.contrast * (w - 0.5) + self.out(self.redraw(x).relu())

    def moved(self, s: Float[Tensor, "n c h w"], numbers: Float[Tensor, "n k"]) -> Float[Tensor, "n c h w"]:
        """Pictures whose pixels come from where the numbers send them, 0 from outside."""
        shift = numbers.reshape(len(numbers), 2, -1) @ self.basis
        points = (shift + self.basis[:2]).transpose(1, 2).reshape(len(s), *s.shape[2:], 2)
        return F.grid_sample(s, points, mode="bilinear", padding_mode="zeros", align_corners=False)


def bend_basis(height: int, width: int) -> Float[Tensor, "basis points"]:
    """For each pixel its x, its y (-1 to 1), 1, and the share of each control point in its displacement."""
    x, y = ((torch.arange(side) * 2 + 1) / side - 1 for side in (width, height))
    controls = torch.eye(CONTROLS**2).view(1, -1, CONTROLS, CONTROLS)
    shares = F.interpolate(controls, (height, width), mode="bicubic", align_corners=True)[0]
    plain = torch.stack([x.expand(height, width), y[:, None].expand(height, width), torch.ones(height, width)])
    return torch.cat([plain, shares]).flatten(1)


def critic(shape: tuple[int, ...], *, width: int) -> nn.Sequential:
    """One number for each picture of 16 pixels or more: higher for a real one.

    Three 3x3 convolutions of stride 2, of width, 2 width and 4 width channels. No normalisation, so that a penalty on
    its gradient is of each input alone (Gulrajani 2017), and SiLU, whose second derivative is not zero, so that it
    reaches all layers. The last layer has no bias: losses are of differences.
    """
    channels = [shape[0], width, 2 * width, 4 * width]
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.SiLU()]
    rows, columns = (halved(side, 3) for side in shape[1:])
    return channels_last(nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width * rows * columns, 1, bias=False)))
