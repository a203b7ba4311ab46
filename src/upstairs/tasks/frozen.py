"""Features of a pretrained transformer that stays as it is: computed once for a data set, and kept."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32

from upstairs.errors import UpstairsError
from upstairs.tasks.cache import Progress, memory_mapped
from upstairs.tasks.text import as_text

BATCH = 64


@dataclass(frozen=True)
class FrozenFormat:
    """A text becomes the features of a pretrained transformer: float32 [size], of length 1.

    Attributes:
        model: a folder, or a name that `transformers` knows.
        size: how many features it has.
    """

    model: str
    size: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size,)

    def read(self, item: Any, *, name: str | None = None) -> Float32[np.ndarray, " size"]:
        return encode(self.model, [as_text(item, name)])[0]

    def read_many(self, texts: Sequence[str], progress: Progress | None = None) -> Float32[np.ndarray, "n size"]:
        """The features of all texts, computed once into the cache."""
        key = hashlib.sha256(json.dumps([stamp(self.model), *texts]).encode())

        def rows() -> Iterator[np.ndarray]:
            order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # alike in length: little padding
            found = np.zeros((len(texts), self.size), np.float32)
            for start in range(0, len(order), BATCH):
                here = order[start : start + BATCH]
                found[here] = encode(self.model, [texts[i] for i in here])
                if progress:
                    progress(min(start + BATCH, len(order)), len(order))
            yield from found

        return memory_mapped(key.hexdigest(), rows, (len(texts), self.size), dtype=np.float32)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "frozen", **asdict(self)}


def frozen_format(model: str) -> FrozenFormat:
    """The format of a pretrained encoder.

    Args:
        model: a folder with config.json, or a name that `transformers` can fetch.

    Raises:
        UpstairsError: `transformers` is not installed, or there is no such model.
    """
    encoder = load_encoder(model)
    return FrozenFormat(encoder.path, int(encoder.network.config.hidden_size))


def stamp(model: str) -> list[Any]:
    """What changes when the model does."""
    path = Path(model)
    files = sorted(path.glob("*.safetensors")) + sorted(path.glob("*.bin")) if path.is_dir() else []
    return [model, *((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files)]


class Encoder(NamedTuple):
    """A pretrained transformer, with its tokenizer.

    Attributes:
        path: its folder from the root, or its name.
        by_first: does the first token stand for the text? Else the mean over all.
        most: tokens that it reads.
    """

    path: str
    tokenizer: Any
    network: Any
    by_first: bool
    most: int


def load_encoder(model: str) -> Encoder:
    """A pretrained transformer, by its folder or its name.

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
        raise UpstairsError(f"--encoder {model} needs transformers: pip install 'upstairs[text]'") from error
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        network = AutoModel.from_pretrained(model, attn_implementation="eager")  # plain functions, for any derivative
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UpstairsError(
            f"--encoder {model} is no model that can be loaded ({first}): give a folder with config.json, or a name "
            "on the Hugging Face hub while there is a connection"
        ) from error
    pooling, length = Path(model) / "1_Pooling" / "config.json", Path(model) / "sentence_bert_config.json"
    by_first = pooling.is_file() and bool(json.loads(pooling.read_text()).get("pooling_mode_cls_token"))
    most = json.loads(length.read_text()).get("max_seq_length") if length.is_file() else None
    return Encoder(model, tokenizer, network.eval(), by_first, most or min(512, tokenizer.model_max_length))


def encode(model: str, texts: Sequence[str]) -> Float32[np.ndarray, "n size"]:
    """The features of these texts: the mean over tokens (or the first), of length 1; long texts are cut off."""
    _, tokenizer, network, by_first, most = load_encoder(model)
    words = tokenizer(list(texts), padding=True, truncation=True, max_length=most, return_tensors="pt")
    with torch.inference_mode():
        hidden = network(**words).last_hidden_state
        mask = words["attention_mask"][..., None].to(hidden)
        pooled = hidden[:, 0] if by_first else (hidden * mask).sum(1) / mask.sum(1)
        return F.normalize(pooled, dim=-1).float().numpy()
