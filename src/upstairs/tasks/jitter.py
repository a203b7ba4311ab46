"""Jitter: photos mirrored and shifted at random, so that a network does not learn the training pictures by heart."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from upstairs.errors import UpstairsError
from upstairs.tasks.sources import Source


@dataclass(frozen=True)
class Jitter:
    """Half of the pictures are mirrored left to right, and each is shifted (He et al. 2016, section 4.2).

    What comes in from outside is the picture's own border, reflected.

    Attributes:
        shift: the largest shift along each axis, as a share of the side: 4 pixels of 32.

    Raises:
        UpstairsError: a shift that is not from 0 to below 1.
    """

    shift: float = 4 / 32

    def __post_init__(self) -> None:
        if not 0 <= self.shift < 1:
            raise UpstairsError(f"Jitter: shift is {self.shift}: give a share of the picture's side, from 0 to below 1")

    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, "count 3"]:
        """For each picture: is it mirrored, and its shifts down and right; uniform from 0 to 1."""
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


def jittered(source: Source) -> Source:
    """The same classes, each picture mirrored and shifted at random whenever it is drawn.

    Raises:
        UpstairsError: its examples are no pictures, or are changed at random already.
    """
    if len(source.feature_shape) != 3 or source.augment is not None:
        why = "is changed at random already" if source.augment else f"has inputs of shape {source.feature_shape}"
        raise UpstairsError(f"--jitter is for photos and {source.name} {why}: leave it out")
    return replace(source, augment=Jitter())
