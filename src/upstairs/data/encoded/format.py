"""Formats whose rows are the features of a frozen pretrained encoder."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

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
class EncodedFormat(InputFormat):
    """Reads an input as the features of a frozen encoder: float32 [size].

    Attributes:
        encoder: what `upstairs.encoder` opens.
        size: the number of features.
        pooling: see `Encoder`.
        digest: that of the encoder when the format was made; another one is refused.
        given: the encoder itself where it was given as an object; it is not saved.
    """

    net = "projection"
    dtype = np.float32

    encoder: str
    size: int
    pooling: str
    digest: str
    given: Encoder | None = field(default=None, compare=False, repr=False, kw_only=True)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size,)

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
            f"`encoder` {self.encoder} has other weights or another preprocessing than when these features were made "
            "(its digest differs): give back the earlier files, or train anew"
        )

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

    def to_json(self) -> dict[str, Any]:
        own = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "given"}
        return {"kind": self.kind, **own}

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
        return encoder.prepare(read_picture(item, name=name, least=encoder.side).convert("RGB"))


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
        samples = read_sound(item, name=name, rate=encoder.rate)
        if self.seconds is not None or len(samples) > LONGEST * encoder.rate:
            samples = heard(samples, round((self.seconds or LONGEST) * encoder.rate))
        return encoder.prepare(samples)

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
    own = (found.name, found.size, found.pooling, found.digest)
    if found.modality == "audio":
        return EncodedSoundFormat(*own, seconds, given=given)
    return _KINDS[found.modality](*own, given=given)
