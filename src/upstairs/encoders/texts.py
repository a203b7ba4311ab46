"""Pretrained text transformers: three feature vectors of a text, and the model's own pooling as an `Encoder`."""

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from upstairs.encoders.base import Encoder, check_pooling, digest_of
from upstairs.encoders.hub import cannot_load, folder_of, quietly
from upstairs.errors import UpstairsError

EARLIER = 2  # distance of the earlier layer from the last


class TextTransformer(NamedTuple):
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


def load_encoder(model: str) -> TextTransformer:
    """Loads a pretrained transformer by its folder or its name.

    Raises:
        UpstairsError: `transformers` is not installed, or there is no such model.
    """
    path = Path(model)
    return _load(str(path.resolve()) if path.is_dir() else model)


@lru_cache(maxsize=1)
def _load(model: str) -> TextTransformer:
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise UpstairsError(f"`encoder` {model} needs transformers: pip install 'upstairs[text]'") from error
    folder = folder_of(model)
    try:
        with quietly():
            tokenizer: Any = AutoTokenizer.from_pretrained(folder)
            network = AutoModel.from_pretrained(folder, attn_implementation="eager")  # has all derivatives
    except Exception as error:
        raise cannot_load(model, error) from error
    pooling, length = Path(model) / "1_Pooling" / "config.json", Path(model) / "sentence_bert_config.json"
    by_first = pooling.is_file() and bool(json.loads(pooling.read_text()).get("pooling_mode_cls_token"))
    most = json.loads(length.read_text()).get("max_seq_length") if length.is_file() else None
    return TextTransformer(model, tokenizer, network.eval(), by_first, most or min(512, tokenizer.model_max_length))


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


def text_encoder(model: str, files: Iterable[Path], *, pooling: str | None = None) -> Encoder:
    """Returns the model's own pooling of a text, of norm 1, as an encoder."""
    found = load_encoder(model)
    own = "class token" if found.by_first else "mean"
    check_pooling(pooling, [own], model)

    def embed(prepared: Sequence[np.ndarray]) -> Float32[np.ndarray, "n size"]:
        return encode_layers(model, [str(text) for text in prepared])[:, 0]

    size, digest = int(found.network.config.hidden_size), digest_of(files, own, found.most)
    return Encoder(found.path, "text", size, own, digest, np.array, embed, network=found.network)
