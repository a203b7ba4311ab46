"""Converts texts to token ids of a pretrained transformer, for a network that is trained further."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int32

from upstairs.data.cache import Progress
from upstairs.data.source import InputFormat
from upstairs.data.text.hashed import as_text, cut_note
from upstairs.encoders.texts import load_encoder
from upstairs.errors import UpstairsError


@dataclass(frozen=True)
class PieceFormat(InputFormat):
    """Reads a text as token ids, each the tokenizer's id plus 1: int32 [length], padded with 0.

    Attributes:
        model: a folder, or a name that `transformers` knows.
        length: the number of tokens, with special tokens; longer texts are truncated.
    """

    kind = "pieces"
    is_text = is_tokens = True

    model: str
    length: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)

    def cut(self, texts: Sequence[str], among: int | None = None) -> str:
        most = load_encoder(self.model).most
        long = [len(ids) > self.length for ids in _ids(self.model, texts, self.length + 1)]
        return cut_note(long, f"{self.length} tokens", most if most > self.length else None, among)

    def read(self, item: Any, *, name: str | None = None) -> Int32[np.ndarray, " length"]:
        return self.read_many([as_text(item, name)])[0]

    def read_many(self, items: Sequence[str], progress: Progress | None = None) -> Int32[np.ndarray, "n length"]:
        rows = np.zeros((len(items), self.length), np.int32)
        for row, ids in zip(rows, _ids(self.model, items, self.length), strict=True):
            row[: len(ids)] = np.array(ids) + 1
        return rows


def piece_format(model: str, texts: Sequence[str], most: int | None = None) -> PieceFormat:
    """Returns the format that holds the longest of these texts, up to `most` tokens and the limit of the model.

    Raises:
        UpstairsError: `transformers` is not installed, or there is no such model.
    """
    encoder = load_encoder(model)
    most = min(most or encoder.most, encoder.most)
    return PieceFormat(encoder.path, max(len(ids) for ids in _ids(model, texts, most)))


def _ids(model: str, texts: Sequence[str], length: int) -> list[list[int]]:
    if not texts:
        raise UpstairsError("no texts were given")
    return load_encoder(model).tokenizer(list(texts), truncation=True, max_length=length)["input_ids"]
