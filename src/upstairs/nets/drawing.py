"""Networks that encode pictures, decode them from a vector, or draw them by bending another picture."""

from collections import OrderedDict
from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.nets.conv import channels_last

CONTROLS = 7  # control points of a displacement along each side


def halved(side: int, times: int) -> int:
    """Returns the length of a side after this number of convolutions of stride 2."""
    for _ in range(times):
        side = (side + 1) // 2
    return side


def double(x: Float[Tensor, "n c h w"], size: tuple[int, int]) -> Float[Tensor, "n c h2 w2"]:
    """Repeats each pixel 2x2 and crops to `size`: the inverse of `halved`."""
    return F.interpolate(x, scale_factor=2)[:, :, : size[0], : size[1]]


def picture_reader(shape: tuple[int, ...], *, width: int, out: int) -> nn.Sequential:
    """Returns an encoder: three convolutions of stride 2 (width, 2 width, 2 width channels) and two linear layers."""
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
    """A decoder from vectors to pictures: it starts at a quarter of the size and doubles it twice, with convolutions.

    Args:
        size: length of a vector.
        shape: shape of a picture, (channels, height, width).
        width: channels at full size; twice as many at half the size.
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
    """Returns an encoder of two pictures, concatenated in channels, to one vector."""
    layers: list[nn.Module] = []
    before = 2 * shape[0]
    for channels, stride in ((2 * width, 2), (2 * width, 1), (4 * width, 2), (4 * width, 1)):
        layers += [nn.Conv2d(before, channels, 3, stride=stride, padding=1), nn.ReLU()]
        before = channels
    size = before * halved(shape[1], 2) * halved(shape[2], 2)
    layers += [nn.Flatten(), nn.Linear(size, 16 * width), nn.ReLU(), nn.Linear(16 * width, out)]
    return channels_last(nn.Sequential(*layers))


class Bender(nn.Module):
    """A decoder that draws a picture s again: it warps s as a vector z says and redraws its strokes.

        out = a (w - 1/2) + r(w, z),   w(p) = s(A p + b + sum over k of B_k(p) d_k),   (A, b, d) = g(z, h)

    Each pixel takes its value from where an affine map (A, b) and smooth displacements d of 7x7 control points (bicubic
    B_k) send it. z changes the small network r, which redraws the strokes, only by a scale and a shift of each channel:
    strokes become thicker or thinner, but none is added. So a picture of an unseen class stays in its class.

    Args:
        size: length of the vector z.
        summary: length of the vector h, an encoding of s.
        shape: shape of a picture, (channels, height, width).
        width: channels of r.
    """

    def __init__(self, size: int, summary: int, shape: tuple[int, ...], *, width: int) -> None:
        super().__init__()
        c, numbers = shape[0], 2 * (3 + CONTROLS**2)
        self.bend = nn.Linear(size, numbers)
        self.bend_more = nn.Sequential(nn.Linear(size + summary, 128), nn.ReLU(), last := nn.Linear(128, numbers))
        self.style = nn.Linear(size, 2 * width)
        with torch.no_grad():  # small displacements at the start
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
        """Returns the drawings as logits."""
        w = self.moved(s, self.bend(z) + self.bend_more(torch.cat([z, h], 1)))
        scale, shift = self.style(z)[:, :, None, None].chunk(2, 1)
        x = (self.read(w) * (1 + scale) + shift).relu()
        return self.contrast * (w - 0.5) + self.out(self.redraw(x).relu())

    def moved(self, s: Float[Tensor, "n c h w"], numbers: Float[Tensor, "n k"]) -> Float[Tensor, "n c h w"]:
        """Returns the warped pictures; pixels from outside are 0."""
        shift = numbers.reshape(len(numbers), 2, -1) @ self.basis
        points = (shift + self.basis[:2]).transpose(1, 2).reshape(len(s), *s.shape[2:], 2)
        return F.grid_sample(s, points, mode="bilinear", padding_mode="zeros", align_corners=False)


def bend_basis(height: int, width: int) -> Float[Tensor, "basis points"]:
    """Returns for each pixel its x, its y (-1 to 1), 1, and the weight of each control point in its displacement."""
    x, y = ((torch.arange(side) * 2 + 1) / side - 1 for side in (width, height))
    controls = torch.eye(CONTROLS**2).view(1, -1, CONTROLS, CONTROLS)
    shares = F.interpolate(controls, (height, width), mode="bicubic", align_corners=True)[0]
    plain = torch.stack([x.expand(height, width), y[:, None].expand(height, width), torch.ones(height, width)])
    return torch.cat([plain, shares]).flatten(1)


def critic(shape: tuple[int, ...], *, width: int) -> nn.Sequential:
    """Returns a critic of pictures of 16 pixels or more: one number each, higher for a real one.

    Three 3x3 convolutions of stride 2, of width, 2 width and 4 width channels. Without normalisation, so that a
    gradient penalty depends on each input alone (Gulrajani 2017); with SiLU, whose second derivative is not zero, so
    that the penalty reaches all layers. The last layer has no bias: the losses use differences.
    """
    channels = [shape[0], width, 2 * width, 4 * width]
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.SiLU()]
    rows, columns = (halved(side, 3) for side in shape[1:])
    return channels_last(nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width * rows * columns, 1, bias=False)))
