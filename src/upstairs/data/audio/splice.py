"""Spliced training classes of sounds: the first half of one word and the second half of another."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8

from upstairs.data.audio.format import AudioFormat
from upstairs.data.source import Source
from upstairs.errors import UpstairsError


@dataclass(frozen=True)
class Spliced:
    """Rows of log-mel spectrograms followed by spliced rows, which are computed when they are read.

    Attributes:
        inputs: [rows, 1, bands, frames], as in `Source`.
        first, second: for each spliced row, the rows of its first half and of its second half.
    """

    inputs: np.ndarray
    first: Int[np.ndarray, " made"]
    second: Int[np.ndarray, " made"]

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self), *self.inputs.shape[1:]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.inputs.dtype

    def __len__(self) -> int:
        return len(self.inputs) + len(self.first)

    def __getitem__(self, rows: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 1 bands frames"]:
        """Returns rows; spliced ones are cut in the middle, where `AudioFormat` centres the energy."""
        place, made = np.asarray(rows) - len(self.inputs), np.asarray(rows) >= len(self.inputs)
        x = self.inputs[np.where(made, self.first[np.where(made, place, 0)], rows)] if made.any() else self.inputs[rows]
        half = x.shape[-1] // 2
        x[made, ..., half:] = self.inputs[self.second[place[made]]][..., half:]
        return x


def spliced(source: Source, count: int, *, seed: int = 0) -> Source:
    """Adds `count` classes, each spliced from two random classes: task augmentation for sounds.

    Both halves of an example are by the same speaker, if speakers are known (`Source.speakers`).

    Raises:
        UpstairsError: the inputs are not sounds, or the source has fewer than two classes.
    """
    if not isinstance(source.format, AudioFormat) or len(source) < 2:
        raise UpstairsError(
            f"`splice` joins halves of sounds of two classes and {source.name} has {len(source)} classes of inputs of "
            f"shape {source.feature_shape}: leave it out"
        )
    generator = torch.Generator().manual_seed(seed)
    own = [_by_speaker(source, rows) for rows in source.rows]
    labels, rows, first, second = [], [], [], []
    for _ in range(count):
        a, b = torch.randperm(len(source), generator=generator)[:2].tolist()
        both = [(own[a][key], own[b][key]) for key in own[a] if key in own[b]]
        start = len(source.inputs) + len(first)
        first += [pair[0] for pair in both]
        second += [pair[1] for pair in both]
        labels.append(f"{source.labels[a]}+{source.labels[b]}")
        rows.append(np.arange(start, start + len(both)))
    return replace(
        source,
        inputs=Spliced(source.inputs, np.array(first), np.array(second)),
        labels=(*source.labels, *labels),
        rows=(*source.rows, *rows),
        groups=(*source.groups, *[""] * count) if source.groups else (),
        speakers=(*source.speakers, *[source.speakers[row] for row in first]) if source.speakers else (),
    )


def _by_speaker(source: Source, rows: np.ndarray) -> dict[Any, int]:
    """Returns a row for each speaker, or for each place if speakers are unknown."""
    names = [source.speakers[row] for row in rows] if source.speakers else range(len(rows))
    return dict(zip(names, rows.tolist(), strict=True))
