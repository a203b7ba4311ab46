"""Random affine and elastic warps of ink pictures."""

from dataclasses import dataclass
from math import radians

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from upstairs.errors import UpstairsError

AFFINE = 5  # random numbers of the affine part: rotation, shear, size, shift along x and y


@dataclass(frozen=True)
class Warp:
    """Rotates, shears, scales, shifts and bends square pictures whose background is 0.

    All random numbers are uniform. Distances are shares of the picture's side, so that one warp suits any size. Borders
    are filled with background.

    Attributes:
        rotation: the largest rotation either way, in degrees.
        shear: the largest horizontal shear either way: how far a point moves for each unit it is off the centre.
        scale: the smallest and the largest size, as a multiple.
        shift: the largest shift along each axis.
        elastic: the largest displacement of a control point along each axis, interpolated smoothly.
        grid: control points along each side.

    Raises:
        UpstairsError: a strength below 0, a scale that is not 0 < low <= high, a grid below 2.
    """

    rotation: float = 20.0
    shear: float = 0.3
    scale: tuple[float, float] = (0.7, 1.1)
    shift: float = 2 / 28
    elastic: float = 1.25 / 28
    grid: int = 4

    def __post_init__(self) -> None:
        for name in ("rotation", "shear", "shift", "elastic"):
            if not getattr(self, name) >= 0:
                raise UpstairsError(f"Warp: {name} is {getattr(self, name)}: it must be 0 or more")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise UpstairsError(
                f"Warp: scale is {self.scale}: give the smallest and the largest size, such as (0.7, 1.1)"
            )
        if self.grid < 2:
            raise UpstairsError(f"Warp: grid is {self.grid}: it must be at least 2")

    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, "count k"]:
        """Draws the random numbers for `count` pictures: [count, 5 + 2 grid**2], uniform from -1 to 1."""
        return torch.rand(count, AFFINE + 2 * self.grid**2, generator=generator) * 2 - 1

    def apply(self, x: Tensor, drawn: Float[Tensor, "n k"]) -> Float[Tensor, "n c s s"]:
        """Warps the pictures `x`, [n, c, s, s], by the numbers `drawn`.

        Raises:
            UpstairsError: `x` is not a batch of square pictures.
        """
        if x.ndim != 4 or x.shape[2] != x.shape[3]:
            raise UpstairsError(f"Warp: inputs of shape {tuple(x.shape)}: it needs square pictures, [n, channel, s, s]")
        # this order is four times as fast as a product of shape [n, points, 2]
        points = (self._coefficients(drawn.to(x)).mT @ _basis(x, self.grid)).mT.unflatten(1, x.shape[2:])
        return F.grid_sample(x, points, mode="bilinear", padding_mode="zeros", align_corners=False)

    def _coefficients(self, drawn: Float[Tensor, "n k"]) -> Float[Tensor, "n basis 2"]:
        """Returns the coefficient of each basis function. Coordinates run from -1 to 1, twice the shares."""
        turn, shear, size = radians(self.rotation) * drawn[:, 0], self.shear * drawn[:, 1], drawn[:, 2]
        low, high = self.scale
        shrink = 1 / ((high + low) / 2 + (high - low) / 2 * size)
        cos, sin = turn.cos() * shrink, turn.sin() * shrink
        # grid_sample needs where each point comes from: the inverse of shift(rotate(shear(scale(x))))
        inverse = torch.stack((cos + shear * sin, -sin, sin - shear * cos, cos), 1).view(-1, 2, 2)
        origin = -(2 * self.shift * drawn[:, None, 3:AFFINE]) @ inverse
        bend = 2 * self.elastic * drawn[:, AFFINE:].unflatten(1, (-1, 2))
        return torch.cat((inverse, origin, bend), 1)


def _basis(like: Tensor, grid: int) -> Float[Tensor, "basis points"]:
    """Returns for each pixel its x, its y, 1, and the weight of each control point in its displacement."""
    side = like.shape[-1]
    centres = (torch.arange(side, dtype=like.dtype, device=like.device) * 2 + 1) / side - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    controls = torch.eye(grid**2, dtype=like.dtype, device=like.device).view(1, -1, grid, grid)
    shares = F.interpolate(controls, (side, side), mode="bicubic", align_corners=True)
    return torch.cat((torch.stack((x, y, torch.ones_like(x))), shares[0])).flatten(1)
