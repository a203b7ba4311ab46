"""Formats whose rows are the features of a frozen pretrained encoder, and what all formats of encoders share."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from PIL import Image

from upstairs.data.audio.format import heard, read_sound
from upstairs.data.cache import Progress
from upstairs.data.encoded.store import FeatureStore
from upstairs.data.images.format import read_picture
from upstairs.data.source import InputFormat
from upstairs.data.text.hashed import as_text
from upstairs.encoders.base import Encoder, Modality, check_modality
from upstairs.encoders.open import open_encoder
from upstairs.errors import UpstairsError

READING = 1  # raise it when decoding changes: features in the cache are then computed again
LONGEST = 30.0  # seconds of a recording that are heard, where `seconds` says nothing


@dataclass(frozen=True)
class EncoderFormat(InputFormat):
    """Reads an input as an encoder does.

    Attributes:
        encoder: what `upstairs.encoder` opens.
        pooling: see `Encoder`.
        digest: that of the encoder when the format was made; another one is refused.
        given: the encoder itself where it was given as an object; it is not saved.
    """

    dtype = np.float32

    encoder: str
    pooling: str
    digest: str
    given: Encoder | None = field(default=None, compare=False, repr=False, kw_only=True)

    def opened(self) -> Encoder:
        """Returns the encoder.

        Raises:
            UpstairsError: it cannot be opened, or its weights or preprocessing have changed.
        """
        if self.given is not None:
            return self.given
        found = open_encoder(self.encoder, pooling=None if self.pooling == "own" else self.pooling)
        if found.digest == self.digest:
            return found
        raise UpstairsError(
            f"`encoder` {self.encoder} has other weights or another preprocessing than when the data was read (its "
            "digest differs): give back the earlier files, or train anew"
        )

    def to_json(self) -> dict[str, Any]:
        own = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "given"}
        return {"kind": self.kind, **own}


@dataclass(frozen=True)
class EncodedFormat(EncoderFormat):
    """Reads an input as the features of a frozen encoder: float32 [size].

    Attributes:
        size: the number of features.
    """

    net = "projection"

    size: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size,)

    @abstractmethod
    def prepare(self, item: Any, *, name: str | None = None) -> np.ndarray:
        """Returns the encoder's input for a raw input."""

    def rows_of(self, prepared: Sequence[np.ndarray]) -> Float32[np.ndarray, "n size"]:
        return self.opened().embed(prepared)

    def read(self, item: Any, *, name: str | None = None) -> Float32[np.ndarray, " size"]:
        return self.rows_of([self.prepare(item, name=name)])[0]

    def read_many(self, items: Sequence[Any], progress: Progress | None = None) -> Float32[np.ndarray, "n size"]:
        """Reads all inputs in batches; features of what has been read before come from the cache."""
        with FeatureStore(self.reading, self.size) as store:
            items = [Path(item) if isinstance(item, str) and not self.is_text else item for item in items]
            contents = [store.content(item) for item in items]
            return np.stack([*store.rows(contents, lambda place: self.prepare(items[place]), self.rows_of, progress)])

    @property
    def reading(self) -> str:
        """What the rows of an input depend on."""
        return f"{READING} {self.kind} {self.digest} {self.size}"


@dataclass(frozen=True)
class EncodedImageFormat(EncodedFormat):
    """Reads a picture (path, bytes, PIL, array): RGB, upright, at the encoder's own size."""

    kind = "encoded_image"
    modality = "image"

    def prepare(self, item: Any, *, name: str | None = None) -> np.ndarray:
        encoder = self.opened()
        return encoder.prepare(picture_for(encoder, item, name))


@dataclass(frozen=True)
class EncodedSoundFormat(EncodedFormat):
    """Reads a recording (path, bytes, (samples, rate)) at the encoder's own sampling rate.

    Attributes:
        seconds: the length that is heard, as for `AudioFormat`; None is all of it, up to half a minute.
    """

    kind = "encoded_sound"
    modality = "audio"

    seconds: float | None = None

    def prepare(self, item: Any, *, name: str | None = None) -> np.ndarray:
        encoder = self.opened()
        return encoder.prepare(samples_for(encoder, item, name, self.seconds))

    @property
    def reading(self) -> str:
        return f"{super().reading} {self.seconds}"


@dataclass(frozen=True)
class EncodedTextFormat(EncodedFormat):
    """Reads a text as the encoder's own pooling of it, one row."""

    kind = "encoded_text"
    modality = "text"
    is_text = True

    def prepare(self, item: Any, *, name: str | None = None) -> np.ndarray:
        return self.opened().prepare(as_text(item, name))


def picture_for(encoder: Encoder, item: Any, name: str | None) -> Image.Image:
    """Returns a picture as an encoder takes it."""
    return read_picture(item, name=name, least=encoder.side).convert("RGB")


def samples_for(encoder: Encoder, item: Any, name: str | None, seconds: float | None) -> Float32[np.ndarray, " n"]:
    """Returns the samples of a recording as an encoder takes them; see `EncodedSoundFormat`."""
    samples = read_sound(item, name=name, rate=encoder.rate)
    if seconds is None and len(samples) <= LONGEST * encoder.rate:
        return samples
    return heard(samples, round((seconds or LONGEST) * encoder.rate))


_KINDS: dict[Modality, type[EncodedFormat]] = {
    "image": EncodedImageFormat, "audio": EncodedSoundFormat, "text": EncodedTextFormat
}  # fmt: skip


def encoded_format(
    encoder: str | Encoder, modality: Modality | None = None, *, pooling: str | None = None,
    seconds: float | None = None,
) -> EncodedFormat:  # fmt: skip
    """Returns the format of the features of an encoder.

    Args:
        encoder: what `upstairs.encoder` opens, or an `Encoder`.
        modality: what the data is; None accepts all.
        pooling: see `upstairs.encoder`.
        seconds: see `EncodedSoundFormat`; for sounds only.

    Raises:
        UpstairsError: as `upstairs.encoder`, and for an encoder of another modality than the data.
    """
    if isinstance(encoder, Encoder):
        check_modality(encoder, modality)
        found, given = encoder, encoder
    else:
        found, given = open_encoder(encoder, pooling=pooling, modality=modality), None
    own = (found.name, found.pooling, found.digest, found.size)
    if found.modality == "audio":
        return EncodedSoundFormat(*own, seconds, given=given)
    return _KINDS[found.modality](*own, given=given)
