"""Converts sounds of any rate, length and number of channels to log-mel spectrograms."""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8

from upstairs.data.files import content_of
from upstairs.data.source import InputFormat
from upstairs.errors import UpstairsError, reason

RATE = 16_000  # samples per second, to which all sounds are resampled
WINDOW, HOP = 512, 160  # samples: 32 ms, every 10 ms
LOWEST = 50.0  # Hz; lower frequencies are hum
RANGE = 50.0  # decibels below the maximum; fainter sounds are clipped
READING = 2  # raise it when decoding changes: rows in the cache are then computed again
FASTEST = 400_000  # samples a second; a filter for more would be too long
LOUDEST = 1e6  # of full scale; the squares of more overflow
LONGEST = 600.0  # seconds; a longer file is refused
MOST_CHANNELS = 8  # of samples [channel, n]
FAINTEST = 1e-5  # of full scale, below which a recording is silent


@dataclass(frozen=True)
class AudioFormat(InputFormat):
    """Reads a recording as a row: uint8 [1, bands, frames], decibels below its maximum scaled to 255 to 0.

    Attributes:
        seconds: the length, centred at the energy: the loudest part of a longer recording; a shorter one is padded.
        bands: the number of mel bands.

    Raises:
        UpstairsError: a length or a number of bands out of range.
    """

    kind = modality = "audio"
    net = "sound"

    seconds: float = 1.0
    bands: int = 64

    def __post_init__(self) -> None:
        if not 0.2 <= self.seconds <= 60 or not 16 <= self.bands <= 128:
            raise UpstairsError(
                f"`seconds` is {self.seconds} and there are {self.bands} bands: give 0.2 to 60 seconds, 16 to 128 bands"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return 1, self.bands, round(self.seconds * RATE / HOP)

    def read(self, item: Any, *, name: str | None = None) -> UInt8[np.ndarray, "1 bands frames"]:
        """Reads one recording as a row.

        Args:
            item: a path, the bytes of a file, or (samples, rate) with samples [n], [n, channel] or [channel, n].

        Raises:
            UpstairsError: a missing, broken or silent file, or one of more than ten minutes.
        """
        samples = np.pad(heard(read_sound(item, name=name), round(self.seconds * RATE)), WINDOW // 2)
        frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP][: self.shape[2]]
        power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW + 1)[:-1])) ** 2
        bands = power @ mel_bands(self.bands).T
        decibels = 10 * np.log10(np.maximum(bands / bands.max(), 10 ** (-RANGE / 10)))
        return ((decibels.T / RANGE + 1) * 255).round().astype(np.uint8)[None]

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "reading": READING, **asdict(self)}


def heard(samples: Float32[np.ndarray, " n"], size: int) -> Float32[np.ndarray, " size"]:
    """Returns this number of samples, centred at the energy: the loudest part of more; fewer are padded."""
    energy = np.concatenate([[0.0], np.cumsum(samples.astype(np.float64) ** 2)])
    start = int((energy[size:] - energy[:-size]).argmax()) if len(samples) > size else 0
    power = np.diff(energy[start : start + size + 1])
    centre = start + round(float(power @ np.arange(len(power)) / power.sum()))
    return np.pad(samples, size)[centre + size - size // 2 :][:size]


def read_sound(
    item: Any, *, name: str | None = None, longest: float = LONGEST, rate: int = RATE
) -> Float32[np.ndarray, " n"]:
    """Reads a recording as samples from -1 to 1, its channels averaged.

    Args:
        item, name: as for `AudioFormat.read`.
        longest: seconds; a longer file is refused.
        rate: samples per second of the result.
    """
    name = name or (str(item) if isinstance(item, str | Path) else "the recording")
    if isinstance(item, dict) and {"array", "sampling_rate"} <= item.keys():  # as Hugging Face datasets have them
        item = item["array"], item["sampling_rate"]
    samples, own = _given(item, name) if isinstance(item, tuple) else _decode(item, name, longest)
    if samples.size == 0:
        raise UpstairsError(f"{name} has no samples: replace or remove it")
    if not np.isfinite(samples).all() or np.abs(samples).max() > LOUDEST:
        raise UpstairsError(f"{name} has samples that are no finite or usual numbers: replace or remove it")
    if samples.ndim == 2:
        mean, loudest = samples.mean(1), samples[:, np.abs(samples).max(0).argmax()]
        samples = mean if np.abs(mean).max() > 0.01 * np.abs(loudest).max() else loudest  # opposite channels cancel
    if samples.ndim != 1 or not 1000 <= own <= FASTEST:
        raise UpstairsError(
            f"{name} has shape {samples.shape} at {own} Hz: give [n] or [n, channel] at 1000 to {FASTEST} Hz"
        )
    if np.abs(samples).max() < FAINTEST:
        raise UpstairsError(f"{name} is silent: replace or remove it")
    if own != rate:
        from scipy.signal import resample_poly  # late: a second, which a model of pictures need not wait for

        common = gcd(own, rate)
        samples = resample_poly(samples, rate // common, own // common)
    return np.ascontiguousarray(samples, np.float32)


def _given(item: tuple[Any, ...], name: str) -> tuple[np.ndarray, int]:
    """Returns samples [n] or [n, channel] from -1 to 1, and their rate, of a pair in either order."""
    try:
        samples, rate = item if np.ndim(item[1]) == 0 else item[::-1]
        samples, rate = np.asarray(samples), int(rate)
        if samples.dtype.kind in "iu":
            middle = (np.iinfo(samples.dtype).max + 1) // 2 if samples.dtype.kind == "u" else 0
            samples = (samples.astype(np.float64) - middle) / (middle or np.iinfo(samples.dtype).max)
        samples = samples.astype(np.float32)
    except (TypeError, ValueError, IndexError, OverflowError, RuntimeError) as error:
        raise UpstairsError(f"{name} is a tuple that holds no sound ({reason(error)}): give (samples, rate)") from error
    few = samples.ndim == 2 and samples.shape[0] < samples.shape[1] and samples.shape[0] <= MOST_CHANNELS
    return samples.T if few else samples, rate


def _decode(item: Any, name: str, longest: float) -> tuple[np.ndarray, int]:
    try:
        import soundfile
    except ImportError as error:
        raise UpstairsError("sounds need soundfile: pip install 'upstairs[audio]'") from error
    if isinstance(item, bytes):
        item = io.BytesIO(item)
    elif not isinstance(item, str | Path):
        raise UpstairsError(f"{name} is a {type(item).__name__}: give a path, bytes, or (samples, rate)")
    elif not Path(item).is_file():
        raise UpstairsError(f"{name} does not exist, or is no file: give the path of a recording")
    try:
        with soundfile.SoundFile(item) as file:
            if file.frames == 0 and file.format == "WAV" and (whole := _with_length(item)):
                return _decode(whole, name, longest)
            if file.frames > longest * file.samplerate:
                minutes = file.frames / file.samplerate / 60
                raise UpstairsError(f"{name} is {minutes:.0f} minutes long: cut out the seconds that are meant")
            return file.read(dtype="float32", always_2d=True), file.samplerate
    except (soundfile.SoundFileError, RuntimeError, OSError, TypeError, ValueError) as error:
        why = content_of(item.getvalue() if isinstance(item, io.BytesIO) else item) or str(error)
        why = str(error) if why.endswith("sound") else why
        raise UpstairsError(
            f"{name} is no sound that can be read ({why}): give a whole WAV, FLAC, OGG or MP3 file, or remove it"
        ) from error


def _with_length(item: io.BytesIO | str | Path) -> bytes | None:
    """Returns a WAV file whose header says that it has no samples, as programs that write to a pipe leave it, with the
    length that it has; None if it has none."""
    whole = item.getvalue() if isinstance(item, io.BytesIO) else Path(item).read_bytes()
    place = whole.find(b"data", 12)
    size = len(whole) - place - 8
    if place < 0 or size <= 0 or whole[place + 4 : place + 8] != bytes(4):
        return None
    return whole[: place + 4] + size.to_bytes(4, "little") + whole[place + 8 :]


@lru_cache
def mel_bands(count: int) -> Float[np.ndarray, "count lines"]:
    """Returns the mel filter bank: triangles, evenly spaced in m = 2595 log10(1 + f / 700)."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(2595 * np.log10(1 + LOWEST / 700), top, count + 2) / 2595) - 1)
    lines = np.fft.rfftfreq(WINDOW, 1 / RATE)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return np.clip(np.minimum((lines - low) / (middle - low), (high - lines) / (high - middle)), 0, None)


def usual_length(seconds: Sequence[float]) -> float:
    """Returns the 90th percentile of the lengths, rounded up to a tenth of a second; from 0.5 to 4."""
    return float(np.clip(np.ceil(10 * sorted(seconds)[int(0.9 * (len(seconds) - 1))]) / 10, 0.5, 4.0))
