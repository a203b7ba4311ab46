"""Networks that read hashed tokens [n, words, tokens of a word], as `upstairs.data.text.hashed` makes them.

An embedding starts as TF-IDF, tokens weighted by rarity, with the output of a learned network appended.
"""

from collections import OrderedDict
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt16
from torch import Tensor, nn

from upstairs.data.text.hashed import BUCKETS, TOKENS
from upstairs.nets.mlp import with_head
from upstairs.nets.sequence import Transformer

PLACES = 2**13  # length of a sketch: inner products of two texts have an error of about 1 / sqrt(PLACES)
LENGTH = 10.0  # norm of an embedding
READINGS = ("bag", "cnn", "transformer")


class Tokens(nn.Module):
    """An embedding of tokens, each with a learned vector and a learned weight.

        weight = (1 + log count) / count * exp(loudness of the token) * exp(loudness of its place in a word)

    `count` is the number of times that the token occurs in the text, so the weights of all its occurrences add up to
    TF-IDF where the loudness is log idf (`begin_at_idf`). Ids are floats, which hold them exactly.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(BUCKETS, width)
        self.loudness = nn.Embedding(BUCKETS, 1)
        self.of_place = nn.Parameter(torch.zeros(TOKENS))
        nn.init.normal_(self.vectors.weight, std=width**-0.5)
        nn.init.zeros_(self.loudness.weight)

    def weights(self, ids: Float[Tensor, "n words tokens"]) -> Float[Tensor, "n words tokens"]:
        count = counts(ids.flatten(1)).reshape(ids.shape)
        loud = (self.loudness(ids.long())[..., 0] + self.of_place).exp()
        return torch.where(ids > 0, (1 + count.log()) / count * loud, 0.0)

    def forward(
        self, ids: Float[Tensor, "n words tokens"], weight: Float[Tensor, "n words tokens"]
    ) -> Float[Tensor, "n words width"]:
        """Returns each word as the weighted sum of its tokens' vectors."""
        bags = F.embedding_bag(
            ids.long().flatten(0, 1), self.vectors.weight, mode="sum", per_sample_weights=weight.flatten(0, 1)
        )
        return bags.unflatten(0, ids.shape[:2])


def counts(rows: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """Counts how often each number occurs in its row."""
    ordered = rows.sort(-1)[0]
    first, last = (torch.searchsorted(ordered, rows, right=right) for right in (False, True))
    return (last - first).to(rows.dtype)


class Sketch(nn.Module):
    """Feature hashing (Weinberger et al. 2009): adds each weighted token, with a sign, at its place in a vector.

    Inner products equal in expectation those of vectors with a place for each token. Places and signs are drawn from a
    fixed seed; nothing is learned.
    """

    place: Int[Tensor, " buckets"]
    sign: Float[Tensor, " buckets"]

    def __init__(self) -> None:
        super().__init__()
        drawn = np.random.default_rng(0).integers(0, 2 * PLACES, BUCKETS)
        self.register_buffer("place", torch.from_numpy(drawn // 2), persistent=False)
        self.register_buffer("sign", torch.from_numpy(drawn % 2 * 2.0 - 1.0).float(), persistent=False)

    def forward(
        self, ids: Float[Tensor, "n words tokens"], weight: Float[Tensor, "n words tokens"]
    ) -> Float[Tensor, "n places"]:
        flat = ids.flatten(1).long()
        empty = torch.zeros(PLACES, dtype=weight.dtype, device=ids.device).expand(len(flat), -1)
        return empty.scatter_add(1, self.place[flat], weight.flatten(1) * self.sign[flat])


class TextNet(nn.Module):
    """TF-IDF with learned weights, concatenated with a learned reading of the words.

        f(x) = 10 unit([unit(sketch), share * unit(reading)])

    Args:
        reading: a module from the vectors of words and their mask to a vector for each text.
        width: length of a token's vector.
        share: initial weight of the reading; it is learned.
    """

    def __init__(self, reading: nn.Module, width: int, *, share: float = 0.3) -> None:
        super().__init__()
        self.tokens, self.sketch, self.reading = Tokens(width), Sketch(), reading
        self.log_share = nn.Parameter(torch.tensor(share).log())

    def forward(self, ids: Float[Tensor, "n words tokens"]) -> Float[Tensor, "n d"]:
        weight = self.tokens.weights(ids)
        read = self.reading(self.tokens(ids, weight), (ids > 0).any(-1))
        both = [F.normalize(self.sketch(ids, weight), dim=-1), self.log_share.exp() * F.normalize(read, dim=-1)]
        return LENGTH * F.normalize(torch.cat(both, -1), dim=-1)


class Sum(nn.Module):
    """Sums the words in any order: a compressed TF-IDF with learned vectors."""

    def forward(self, words: Float[Tensor, "n words width"], real: Bool[Tensor, "n words"]) -> Float[Tensor, "n width"]:
        return words.sum(1)


class Convolution(nn.Module):
    """Convolutions over two and three neighbouring words, then the maximum of each filter (Kim 2014).

    They have no bias, so that padding has no effect.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.filters = nn.ModuleList(nn.Conv1d(width, width, k, padding=k - 1, bias=False) for k in (2, 3))

    def forward(self, words: Float[Tensor, "n words width"], real: Bool[Tensor, "n words"]) -> Float[Tensor, "n e"]:
        rows = F.normalize(words, dim=-1).transpose(1, 2) * words.shape[-1] ** 0.5
        return torch.cat([filters(rows).relu().amax(-1) for filters in self.filters], -1)


class Attended(nn.Module):
    """A small transformer over words with learned position embeddings; the sum over its outputs for real words."""

    def __init__(self, width: int, words: int, *, layers: int = 2) -> None:
        super().__init__()
        self.of_place = nn.Parameter(0.1 * torch.randn(words, width))
        self.body = Transformer(width, width=width, layers=layers, heads=4, out=width)

    def forward(self, words: Float[Tensor, "n words width"], real: Bool[Tensor, "n words"]) -> Float[Tensor, "n width"]:
        rows = F.normalize(words, dim=-1) * words.shape[-1] ** 0.5 + self.of_place
        return torch.where(real[..., None], self.body.read(rows, real[:, None]), 0.0).sum(1)


def text_net(name: str, width: int, *, words: int, out: int | None = None) -> nn.Sequential:
    """Returns TF-IDF with one of `READINGS`, and a last linear layer named `head` where `out` is given.

    Args:
        width: length of a token's vector, width of the transformer, number of the CNN's filters of each size.
        words: largest number of words in a text.
    """
    reading = {"bag": Sum, "cnn": lambda: Convolution(width), "transformer": lambda: Attended(width, words)}[name]()
    size = PLACES + (2 if name == "cnn" else 1) * width
    return with_head(OrderedDict({name: TextNet(reading, width)}), size, out)


def idf(inputs: Iterable[UInt16[np.ndarray, "rows words tokens"]]) -> Float[np.ndarray, " buckets"]:
    """Returns 1 + log((1 + texts) / (1 + texts with the token)) of every token, from arrays of texts."""
    found, texts = np.zeros(BUCKETS), 0
    for rows in inputs:
        texts += len(rows)
        for start in range(0, len(rows), 4096):
            ids = np.sort(rows[start : start + 4096].reshape(-1, rows[0].size), axis=1)
            first = np.diff(ids, axis=1, prepend=0) > 0  # a token counts once for each text
            found += np.bincount(ids[first], minlength=BUCKETS)
    return 1 + np.log((1 + texts) / (1 + found))


@torch.no_grad()
def begin_at_idf(net: nn.Module, inputs: Iterable[UInt16[np.ndarray, "rows words tokens"]]) -> None:
    """Sets the loudness of every token in the network to its log idf in these texts."""
    if own := [module for module in net.modules() if isinstance(module, Tokens)]:
        loudness = torch.from_numpy(np.log(idf(inputs))).float()
        for module in own:
            module.loudness.weight.copy_(loudness[:, None])


class TfIdf(nn.Module):
    """TF-IDF vectors of unit length, (1 + log count) * `idf` for each token; nothing is learned."""

    idf: Tensor

    def __init__(self, *inputs: UInt16[np.ndarray, "rows words tokens"]) -> None:
        super().__init__()
        weight = torch.from_numpy(idf(inputs)).float()
        weight[0] = 0
        self.register_buffer("idf", weight)

    def forward(self, ids: Float[Tensor, "n words tokens"]) -> Float[Tensor, "n buckets"]:
        flat = ids.long().flatten(1)
        count = torch.zeros(len(flat), BUCKETS, device=ids.device).scatter_add(1, flat, torch.ones_like(ids).flatten(1))
        return F.normalize(torch.where(count > 0, 1 + count.clamp(min=1).log(), 0.0) * self.idf, dim=-1)
