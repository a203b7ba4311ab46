"""Features of a frozen pretrained transformer, computed once for a data set and cached."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from upstairs.data.cache import Progress, memory_mapped
from upstairs.data.source import InputFormat
from upstairs.data.text.hashed import as_text, cut_note
from upstairs.errors import UpstairsError

BATCH = 64
ROWS = 3  # feature vectors per text
EARLIER = 2  # distance of the earlier layer from the last


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


def frozen_format(model: str) -> FrozenFormat:
    """Returns the format of a pretrained encoder.

    Args:
        model: a folder with config.json, or a name that `transformers` can fetch.

    Raises:
        UpstairsError: `transformers` is not installed, or there is no such model.
    """
    encoder = load_encoder(model)
    return FrozenFormat(encoder.path, int(encoder.network.config.hidden_size))


def stamp(model: str) -> list[Any]:
    """Returns values that change when the model does."""
    path = Path(model)
    files = sorted(path.glob("*.safetensors")) + sorted(path.glob("*.bin")) if path.is_dir() else []
    return [model, *((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files)]


class Encoder(NamedTuple):
    """A pretrained transformer with its tokenizer.

    Attributes:
        path: its absolute folder, or its name.
        by_first: the first token represents the text; otherwise the mean over all tokens.
        most: the largest number of tokens.
    """

    path: str
    tokenizer: Any
    network: Any
    by_first: bool
    most: int


def load_encoder(model: str) -> Encoder:
    """Loads a pretrained transformer by its folder or its name.

    Raises:
        UpstairsError: `transformers` is not installed, or there is no such model.
    """
    path = Path(model)
    return _load(str(path.resolve()) if path.is_dir() else model)


@lru_cache(maxsize=1)
def _load(model: str) -> Encoder:
    try:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging
    except ImportError as error:
        raise UpstairsError(f"`encoder` {model} needs transformers: pip install 'upstairs[text]'") from error
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        network = AutoModel.from_pretrained(model, attn_implementation="eager")  # has all derivatives
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UpstairsError(
            f"`encoder` {model} is no model that can be loaded ({first}): give a folder with config.json, or a name "
            "on the Hugging Face hub while there is a connection"
        ) from error
    pooling, length = Path(model) / "1_Pooling" / "config.json", Path(model) / "sentence_bert_config.json"
    by_first = pooling.is_file() and bool(json.loads(pooling.read_text()).get("pooling_mode_cls_token"))
    most = json.loads(length.read_text()).get("max_seq_length") if length.is_file() else None
    return Encoder(model, tokenizer, network.eval(), by_first, most or min(512, tokenizer.model_max_length))


def encode_layers(model: str, texts: Sequence[str]) -> Float32[np.ndarray, "n rows size"]:
    """Returns three feature vectors of norm 1 for each text; long texts are truncated.

    The first is the model's own pooling: the mean over tokens, or the first token if its configuration says so. The
    others are means without special tokens, of the last layer and of the layer two before, closer to the words.
    """
    _, tokenizer, network, by_first, most = load_encoder(model)
    how = {"padding": True, "truncation": True, "max_length": most, "return_special_tokens_mask": True}
    words = tokenizer(list(texts), return_tensors="pt", **how)
    marks = words.pop("special_tokens_mask") > 0
    with torch.inference_mode():
        found = network(**words, output_hidden_states=True)
        last, layers = found.last_hidden_state, found.hidden_states
        tokens = words["attention_mask"] > 0
        inner = tokens & ~marks
        inner = torch.where(inner.any(1, keepdim=True), inner, tokens)
        pooled = [
            last[:, 0] if by_first else mean_over(last, tokens),
            mean_over(last, inner),
            mean_over(layers[max(-1 - EARLIER, -len(layers))], inner),
        ]
        return F.normalize(torch.stack(pooled, 1), dim=-1).float().numpy()


def mean_over(hidden: Float[Tensor, "n length size"], which: Bool[Tensor, "n length"]) -> Float[Tensor, "n size"]:
    """Returns the mean over the masked tokens of each text."""
    mask = which[..., None].to(hidden)
    return (hidden * mask).sum(1) / mask.sum(1)
