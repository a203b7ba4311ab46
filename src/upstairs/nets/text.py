"""Networks that read rows of hashed tokens: [n, words, tokens of a word], as `upstairs.tasks.text` makes them."""

from collections import OrderedDict

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt16
from torch import Tensor, nn

from upstairs.tasks.text import BUCKETS


class Tokens(nn.Module):
    """Each word as the weighted mean of its tokens' vectors: [n, words, tokens] -> [n, words, width].

    A token's weight is learned (it starts at 1), so that words which say nothing fall silent. Ids come as floats,
    which hold them exactly.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(BUCKETS, width)
        self.loudness = nn.Embedding(BUCKETS, 1)
        nn.init.normal_(self.vectors.weight, std=width**-0.5)
        nn.init.zeros_(self.loudness.weight)

    def weights(self, ids: Float[Tensor, "n words tokens"]) -> Float[Tensor, "n words tokens"]:
        return torch.where(ids > 0, self.loudness(ids.long())[..., 0].exp(), 0.0)

    def forward(self, ids: Float[Tensor, "n words tokens"]) -> Float[Tensor, "n words width"]:
        weight = self.weights(ids)
        bags = F.embedding_bag(
            ids.long().flatten(0, 1), self.vectors.weight, mode="sum", per_sample_weights=weight.flatten(0, 1)
        )
        return bags.unflatten(0, ids.shape[:2])


class Bag(nn.Module):
    """The sum of a text's tokens, whatever their order: a learned and compressed TF-IDF.

    Its length is the square root of its width, so that a number is of size 1.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tokens = Tokens(width)

    def forward(self, ids: Float[Tensor, "n words tokens"]) -> Float[Tensor, "n width"]:
        total = self.tokens(ids).sum(1)
        return F.normalize(total, dim=-1) * total.shape[-1] ** 0.5


def bag(width: int, *, out: int | None = None) -> nn.Sequential:
    """`Bag`, with a last linear layer named `head` where `out` is given."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(bag=Bag(width))
    if out is not None:
        layers["head"] = nn.Linear(width, out)
    return nn.Sequential(layers)


class TfIdf(nn.Module):
    """(1 + log count) * idf of each of a text's tokens, at unit length; nothing is learned.

    Args:
        inputs: the rows of all texts (several arrays of them), from which
            idf = 1 + log((1 + texts) / (1 + texts with the token)).
    """

    idf: Tensor

    def __init__(self, *inputs: UInt16[np.ndarray, "rows words tokens"]) -> None:
        super().__init__()
        found = np.zeros(BUCKETS)
        for rows in inputs:
            for start in range(0, len(rows), 4096):
                ids = np.sort(rows[start : start + 4096].reshape(-1, rows[0].size), axis=1)
                first = np.diff(ids, axis=1, prepend=0) > 0  # a token counts once for each text
                found += np.bincount(ids[first], minlength=BUCKETS)
        idf = 1 + np.log((1 + sum(map(len, inputs))) / (1 + found))
        idf[0] = 0
        self.register_buffer("idf", torch.from_numpy(idf).float())

    def forward(self, ids: Float[Tensor, "n words tokens"]) -> Float[Tensor, "n buckets"]:
        flat = ids.long().flatten(1)
        count = torch.zeros(len(flat), BUCKETS, device=ids.device).scatter_add(1, flat, torch.ones_like(ids).flatten(1))
        return F.normalize(torch.where(count > 0, 1 + count.clamp(min=1).log(), 0.0) * self.idf, dim=-1)
