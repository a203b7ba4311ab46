"""Features of a frozen pretrained transformer, computed once for a data set and cached."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from upstairs.data.cache import Progress, memory_mapped
from upstairs.data.encoded.format import encoded_format
from upstairs.data.source import InputFormat
from upstairs.data.text.hashed import as_text, cut_note
from upstairs.encoders.open import open_encoder
from upstairs.encoders.texts import encode_layers, load_encoder

BATCH = 64
ROWS = 3  # feature vectors per text


@dataclass(frozen=True)
class FrozenFormat(InputFormat):
    """Reads a text as features of a pretrained transformer: float32 [rows, size], each row of norm 1.

    Attributes:
        model: a folder, or a name that `transformers` knows.
        size: the number of features.
        rows: the number of rows of `encode_layers`; 1 (in old runs) is the first alone, of shape [size].
    """

    kind = "frozen"
    net = "projection"
    is_text = True

    model: str
    size: int
    rows: int = ROWS

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size,) if self.rows == 1 else (self.rows, self.size)

    def cut(self, texts: Sequence[str], among: int | None = None) -> str:
        encoder = load_encoder(self.model)
        ids = encoder.tokenizer(list(texts), truncation=True, max_length=encoder.most + 1)["input_ids"]
        return cut_note([len(own) > encoder.most for own in ids], f"{encoder.most} tokens", None, among)

    def read(self, item: Any, *, name: str | None = None) -> Float32[np.ndarray, "*rows size"]:
        return encode_layers(self.model, [as_text(item, name)])[0, : self.rows].reshape(self.shape)

    def read_many(self, items: Sequence[str], progress: Progress | None = None) -> Float32[np.ndarray, "n *rows size"]:
        """Returns the features of all texts from the cache, where they are computed once."""
        key = hashlib.sha256(json.dumps([stamp(self.model), self.shape, *items]).encode())

        def rows() -> Iterator[np.ndarray]:
            order = sorted(range(len(items)), key=lambda i: len(items[i]))  # similar lengths need little padding
            found = np.zeros((len(items), *self.shape), np.float32)
            for start in range(0, len(order), BATCH):
                here = order[start : start + BATCH]
                own = encode_layers(self.model, [items[i] for i in here])
                found[here] = own[:, : self.rows].reshape(-1, *self.shape)
                if progress:
                    progress(min(start + BATCH, len(order)), len(order))
            yield from found

        return memory_mapped(key.hexdigest(), rows, (len(items), *self.shape), dtype=np.float32)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> InputFormat:
        return super().from_json({"rows": 1, **value})  # old runs have one row


def frozen_format(model: str) -> InputFormat:
    """Returns the format of a pretrained encoder of texts; of one that `transformers` does not know, one row.

    Args:
        model: what `upstairs.encoder` opens.

    Raises:
        UpstairsError: `transformers` is not installed, there is no such model, or it reads no texts.
    """
    encoder = open_encoder(model, modality="text")
    if ":" in encoder.name and not Path(encoder.name).is_dir():
        return encoded_format(model, "text")
    return FrozenFormat(encoder.name, encoder.size)


def stamp(model: str) -> list[Any]:
    """Returns values that change when the model does."""
    path = Path(model)
    files = sorted(path.glob("*.safetensors")) + sorted(path.glob("*.bin")) if path.is_dir() else []
    return [model, *((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files)]
