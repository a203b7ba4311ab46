"""Augmentation of log-mel spectrograms: another tempo, moment, voice, microphone and noise at every draw."""

from dataclasses import dataclass
from functools import lru_cache
from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from upstairs.data.audio.format import RANGE

COLOURS = 5  # points along the bands whose gain is drawn; between them it is interpolated
NUMBERS = 10 + COLOURS  # random numbers for each sound
ROUGHNESS = 4.0  # standard deviation of noise in decibels
VOICES = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))  # pitch and vocal tract, as shares of the largest change
QUIET = 0.4  # share of the noise's range that is inaudible


@dataclass(frozen=True)
class Hearing:
    """Augments sounds: tempo, shift, pitch, vocal tract, colour and noise, then a masked band and a masked stretch.

    The masks are SpecAugment (Park et al. 2019); the vocal tract follows Jaitly and Hinton (2013), on the mel axis. All
    numbers are uniform. Borders are filled with silence. With all strengths 0 nothing changes.

    Attributes:
        tempo: the largest change of speed: exp(-tempo) to exp(tempo).
        shift: the largest shift in time either way, as a share of the frames.
        pitch: the largest shift along the bands either way, as a share of them.
        tract: the largest stretch of the bands either way, from the lowest.
        colour: the largest gain of a band either way (microphone, room), as a share of the range.
        noise: the loudest noise, as a share of the range; three in ten sounds have none.
        bands, frames: the widest mask, as a share of all.
    """

    tempo: float = 0.12
    shift: float = 0.1
    pitch: float = 0.03
    tract: float = 0.06
    colour: float = 0.08
    noise: float = 0.25
    bands: float = 0.2
    frames: float = 0.15

    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, "count k"]:
        """Draws the random numbers for `count` sounds: [count, 15], uniform from 0 to 1."""
        return torch.rand(count, NUMBERS, generator=generator)

    def apply(self, x: Float[Tensor, "n 1 b t"], drawn: Float[Tensor, "n k"]) -> Float[Tensor, "n 1 b t"]:
        """Returns the sounds `x` (decibels as shares of the range) augmented by the numbers `drawn`."""
        u = drawn.to(x)
        x = self._said(x, 2 * u[:, :4] - 1)
        x = self._heard(x, 2 * u[:, 4 : 4 + COLOURS] - 1, u[:, 4 + COLOURS :])
        last = u[:, -4:]
        gap_b = _gap(last[:, 0], last[:, 1], x.shape[2], self.bands)[:, None, :, None]
        gap_t = _gap(last[:, 2], last[:, 3], x.shape[3], self.frames)[:, None, None]
        return torch.where(gap_b | gap_t, 0.0, x)

    def voices(self, x: Float[Tensor, "n 1 b t"]) -> Float[Tensor, "voice n 1 b t"]:
        """Returns the sounds unchanged, with a higher and a lower pitch, with a shorter and a longer vocal tract."""
        return torch.stack([self._said(x, x.new_tensor([0, 0, *voice]).expand(len(x), 4)) for voice in VOICES])

    def _said(self, x: Float[Tensor, "n 1 b t"], u: Float[Tensor, "n 4"]) -> Float[Tensor, "n 1 b t"]:
        """Changes tempo, moment and voice. Coordinates run from -1 to 1 along each axis."""
        if not (self.tempo or self.shift or self.pitch or self.tract):
            return x
        bands, frames = (torch.linspace(-1, 1, size, dtype=x.dtype, device=x.device) for size in x.shape[2:])
        time = frames * (self.tempo * u[:, :1]).exp() - 2 * self.shift * u[:, 1:2]
        voice = (bands + 1) * (1 + self.tract * u[:, 3:4]) - 1 - 2 * self.pitch * u[:, 2:3]
        size = (len(x), *x.shape[2:])
        places = torch.stack((time[:, None].expand(size), voice[:, :, None].expand(size)), -1)
        return F.grid_sample(x, places, padding_mode="zeros", align_corners=True)

    def _heard(
        self, x: Float[Tensor, "n 1 b t"], colour: Float[Tensor, "n c"], u: Float[Tensor, "n k"]
    ) -> Float[Tensor, "n 1 b t"]:
        """Changes the colour and adds noise; the maximum is 1 again, as in any recording."""
        if not (self.colour or self.noise):
            return x
        curve = F.interpolate(self.colour * colour[:, None], x.shape[2], mode="linear", align_corners=True)
        x = torch.where(x > 0, x + curve[..., None], 0.0)
        if self.noise:
            level = self.noise * ((1 + QUIET) * u[:, :1, None] - QUIET)
            noise = torch.where(level > 0, level + _texture(x, u[:, 1]), -torch.inf)[:, None]
            nepers = log(10) * RANGE / 10  # powers add up
            x = torch.logaddexp(nepers * x, nepers * noise) / nepers
        return (x - x.amax((2, 3), keepdim=True) + 1).clamp(0, 1)


def _texture(x: Float[Tensor, "n 1 b t"], start: Float[Tensor, " n"]) -> Float[Tensor, "n b t"]:
    """Returns a stretch of noise around 0 for each sound of `x`, as shares of the range."""
    bands, frames = x.shape[2:]
    field = _field(bands, 8 * frames).to(x)
    places = (start * 7 * frames).long()[:, None] + torch.arange(frames, device=x.device)
    return field[:, places].transpose(0, 1)


@lru_cache(maxsize=4)
def _field(bands: int, frames: int) -> Float[Tensor, "b t"]:
    return ROUGHNESS / RANGE * torch.randn(bands, frames, generator=torch.Generator().manual_seed(0))


def _gap(width: Float[Tensor, " n"], start: Float[Tensor, " n"], size: int, most: float) -> Bool[Tensor, "n size"]:
    """Returns a mask of one gap among `size` places, at most the share `most` of them wide."""
    wide = (width * most * size).round()
    first = (start * (size - wide)).round()
    places = torch.arange(size, device=width.device)
    return (places >= first[:, None]) & (places < (first + wide)[:, None])
