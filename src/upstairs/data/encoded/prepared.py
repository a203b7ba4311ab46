"""Formats whose rows are what an encoder's network takes, for a network that is trained further."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped, UInt8
from PIL import Image

from upstairs.data.encoded.format import EncoderFormat, picture_for, samples_for
from upstairs.encoders.base import Modality, forward_of
from upstairs.encoders.open import open_encoder
from upstairs.errors import UpstairsError

SHAPES = (64, 48), (48, 64)  # of pictures that must become inputs of one shape


@dataclass(frozen=True)
class PreparedFormat(EncoderFormat):
    """Reads an input as the encoder prepares it for its network.

    Attributes:
        size: the shape of a row.
    """

    net = "pretrained"

    size: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.size

    def checked(self, row: np.ndarray, name: str | None) -> np.ndarray:
        """Returns the row; raises UpstairsError if it has another shape than the others."""
        if row.shape != self.size:
            raise UpstairsError(
                f"{name or 'the input'} becomes {list(row.shape)} by the preprocessing of `encoder` {self.encoder} and "
                f"others {list(self.size)}: training its network needs inputs of one shape, so leave it out"
            )
        return np.ascontiguousarray(row, self.dtype)


@dataclass(frozen=True)
class PixelFormat(PreparedFormat):
    """Reads a picture as bytes, resized and cropped by the encoder; its network begins with the normalisation."""

    kind = "pixels"
    modality = "image"
    dtype = np.uint8

    def read(self, item: Any, *, name: str | None = None) -> UInt8[np.ndarray, "3 h w"]:
        encoder = self.opened()
        assert encoder.pixels is not None  # of the encoder with this digest
        return self.checked(encoder.pixels.read(picture_for(encoder, item, name)), name)


@dataclass(frozen=True)
class PreparedImageFormat(PreparedFormat):
    """Reads a picture as the numbers that the encoder makes of it."""

    kind = "prepared_image"
    modality = "image"

    def read(self, item: Any, *, name: str | None = None) -> Float32[np.ndarray, "*shape"]:
        encoder = self.opened()
        return self.checked(encoder.prepare(picture_for(encoder, item, name)), name)


@dataclass(frozen=True)
class PreparedSoundFormat(PreparedFormat):
    """Reads a recording as the numbers that the encoder makes of it: samples, or a spectrogram.

    Attributes:
        seconds: the length that is heard, as for `AudioFormat`.
    """

    kind = "prepared_sound"
    modality = "audio"

    seconds: float

    def read(self, item: Any, *, name: str | None = None) -> Float32[np.ndarray, "*shape"]:
        encoder = self.opened()
        return self.checked(encoder.prepare(samples_for(encoder, item, name, self.seconds)), name)


def prepared_format(name: str, modality: Modality, seconds: float = 1.0) -> PreparedFormat:
    """Returns the format of the inputs of an encoder's network.

    Args:
        name: what `upstairs.encoder` opens.
        modality: what the data is, image or audio.
        seconds: see `PreparedSoundFormat`; for sounds only.

    Raises:
        UpstairsError: as `upstairs.encoder`; an encoder of another modality, one whose network cannot be trained, or
            one that makes inputs of several shapes.
    """
    encoder = open_encoder(name, modality=modality)
    forward_of(encoder)  # an error before any data is read
    own = (encoder.name, encoder.pooling, encoder.digest)
    if modality == "audio":
        if not 0.2 <= seconds <= 60:
            raise UpstairsError(f"`seconds` is {seconds}: give 0.2 to 60")
        noise = np.random.default_rng(0).normal(0, 0.1, round(seconds * encoder.rate)).astype(np.float32)
        return PreparedSoundFormat(*own, encoder.prepare(noise).shape, seconds)
    read = encoder.pixels.read if encoder.pixels else encoder.prepare
    shapes = {read(Image.new("RGB", sides)).shape for sides in SHAPES}
    if len(shapes) > 1:
        raise UpstairsError(
            f"`encoder` {name} makes inputs of several shapes of pictures and training it needs one: set a crop in its "
            "preprocessor_config.json"
        )
    return (PixelFormat if encoder.pixels else PreparedImageFormat)(*own, *shapes)


class PreparedRows:
    """Rows of small pictures in memory, prepared when they are read: at the encoder's size they would not fit.

    Args:
        inputs: the pictures [rows, channels, height, width].
        name: that of the data, in errors.
    """

    def __init__(self, inputs: np.ndarray, format: PreparedFormat, name: str) -> None:
        self.inputs, self.format, self.name = inputs, format, name

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.inputs), *self.format.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.format.dtype)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, rows: Any) -> Shaped[np.ndarray, "n *shape"]:
        read = [self.format.read(np.array(self.inputs[row]), name=self.name) for row in np.asarray(rows)]
        return np.stack(read) if read else np.zeros((0, *self.format.shape), self.format.dtype)
