"""Windows of a long recording: cut before they are classified, and joined afterwards."""

from collections.abc import Iterable
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from upstairs.data.audio.format import FAINTEST, RATE, read_sound
from upstairs.errors import UpstairsError, check_type

LONGEST_STREAM = 4 * 3600.0  # seconds of a recording that is read in windows


class SoundWindow(NamedTuple):
    """The answer for a part of a recording; times in seconds."""

    start: float
    end: float
    label: str
    probability: float


def read_windows(
    recording: Any, *, seconds: float, hop: float | None = None, name: str | None = None
) -> tuple[Float32[np.ndarray, " n"], list[slice]]:
    """Reads a recording (see `read_sound`); returns its samples and the places of its windows that are not silent.

    Args:
        seconds: the length of a window; the last one may be shorter.
        hop: seconds from one window to the next; None: half a window.
        name: names the recording in errors.

    Raises:
        UpstairsError: a recording that cannot be read, or a length that is no length.
    """
    for argument, value in (("seconds", seconds), ("hop", hop)):
        check_type(argument, value, (int, float, NoneType), "a number of seconds, such as 1.0")
        if value is not None and not 0.01 <= value <= 600:
            raise UpstairsError(f"`{argument}` is {value}: give a number of seconds from 0.01 to 600")
    samples = read_sound(recording, name=name, longest=LONGEST_STREAM)
    size, step = round(seconds * RATE), round((seconds / 2 if hop is None else hop) * RATE)
    starts = range(0, min(max(len(samples) - size, 0) + step, len(samples)), step)
    places = [slice(start, min(start + size, len(samples))) for start in starts]
    return samples, [place for place in places if np.abs(samples[place]).max() >= FAINTEST]


def join_windows(windows: Iterable[SoundWindow]) -> list[SoundWindow]:
    """Joins windows in order that touch and have the same label; the probability is the largest of the parts."""
    found: list[SoundWindow] = []
    for own in windows:
        last = found[-1] if found else None
        if last and last.label == own.label and own.start <= last.end + 1e-9:
            found[-1] = SoundWindow(last.start, own.end, own.label, max(last.probability, own.probability))
        else:
            found.append(own)
    return found
