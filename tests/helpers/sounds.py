"""Tones, as files and as folders of words."""

import io
from pathlib import Path

import numpy as np

from upstairs.data.audio.format import RATE


def tone(hertz: float, *, rate: int = RATE, seconds: float = 1.0, channels: int = 1) -> np.ndarray:
    time = np.arange(round(rate * seconds)) / rate
    wave = 0.5 * np.sin(2 * np.pi * hertz * time).astype(np.float32)
    return wave if channels == 1 else np.stack([wave, 0.5 * wave], 1)[:, :channels]


def bytes_of(samples: np.ndarray, kind: str, rate: int = RATE) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind)
    return buffer.getvalue()


def folder(path: Path, words: int = 6, speakers: int = 5) -> Path:
    """Each word is a pair of tones, each speaker shifts them."""
    for w in range(words):
        (path / f"word{w}").mkdir(parents=True)
        for s in range(speakers):
            wave = np.concatenate([tone(300 + 200 * w + 9 * s, seconds=0.3), tone(900 + 150 * w, seconds=0.3)])
            (path / f"word{w}" / f"{s}.flac").write_bytes(bytes_of(wave, "FLAC"))
    return path
