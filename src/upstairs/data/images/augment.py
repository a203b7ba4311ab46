"""Augmentation of pictures: random in training, and fixed views in evaluation."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from upstairs.data.images.format import ImageFormat
from upstairs.data.images.warp import Warp
from upstairs.data.source import Source
from upstairs.errors import UpstairsError

SMALL_WARP = Warp(rotation=10.0, shear=0.15, scale=(0.85, 1.05), shift=1 / 28, elastic=0.6 / 28)


@dataclass(frozen=True)
class Jitter:
    """Mirrors half of the pictures left to right and shifts each (He et al. 2016, section 4.2), with reflected borders.

    Attributes:
        shift: the largest shift along each axis, as a share of the side: 4 pixels of 32.

    Raises:
        UpstairsError: a shift outside [0, 1).
    """

    shift: float = 4 / 32

    def __post_init__(self) -> None:
        if not 0 <= self.shift < 1:
            raise UpstairsError(f"Jitter: shift is {self.shift}: give a share of the picture's side, from 0 to below 1")

    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, "count 3"]:
        """Draws for each picture whether it is mirrored, and its shifts down and right; uniform from 0 to 1."""
        return torch.rand(count, 3, generator=generator)

    def apply(self, x: Float[Tensor, "n c h w"], drawn: Float[Tensor, "n 3"]) -> Float[Tensor, "n c h w"]:
        n, _, height, width = x.shape
        most = [int(self.shift * side) for side in (height, width)]
        padded = F.pad(x, (most[1], most[1], most[0], most[0]), mode="reflect")
        down, right = ((drawn[:, i + 1] * (2 * most[i] + 1)).long() for i in (0, 1))
        rows = down[:, None] + torch.arange(height)
        columns = right[:, None] + torch.arange(width)
        columns = torch.where(drawn[:, :1] < 0.5, columns.flip(-1), columns)
        moved = padded.permute(0, 2, 3, 1)[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
        return moved.permute(0, 3, 1, 2)


def crops(x: Float[Tensor, "n c h w"], views: int, *, shift: float = 2 / 32) -> list[Tensor]:
    """Returns the pictures unchanged (1 view), mirrored (2 views), and both shifted to the four corners (10 views).

    This is ten-crop testing (Krizhevsky, Sutskever and Hinton 2012, section 4.1) with reflected borders.

    Args:
        views: 1, 2 or 10.
        shift: along each axis, as a share of the side: 2 pixels of 32.
    """
    seen = [x, x.flip(-1)][: min(views, 2)]
    if views <= 2:
        return seen
    high, wide = (max(1, round(shift * side)) for side in x.shape[-2:])
    corners = [(down, right) for down in (0, 2 * high) for right in (0, 2 * wide)]
    for one in tuple(seen):
        padded = F.pad(one, (wide, wide, high, high), mode="reflect")
        seen += [padded[..., d : d + x.shape[-2], r : r + x.shape[-1]] for d, r in corners]
    return seen


def jittered(source: Source) -> Source:
    """Returns the source with random augmentation: `Jitter` for photos, a small `Warp` for drawings.

    Raises:
        UpstairsError: the examples are not pictures, or are augmented already.
    """
    if len(source.feature_shape) != 3 or source.augment is not None:
        why = "is changed at random already" if source.augment else f"has inputs of shape {source.feature_shape}"
        raise UpstairsError(f"`jitter` is for pictures and {source.name} {why}: leave it out")
    ink = isinstance(source.format, ImageFormat) and source.format.ink
    return replace(source, augment=SMALL_WARP if ink else Jitter())
