"""CAML: frozen features, labels as equiangular vectors, and a transformer that reads support and query together."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from upstairs.core import Examples
from upstairs.learners.building import on_encoder
from upstairs.learners.metric.protonet import MetricLearner, Prototypes, by_distance, members
from upstairs.nets.embedding import embedding_size
from upstairs.nets.sequence import Attention, Transformer, attend, sees, unit


def elmes(member: Float[Tensor, "n way"]) -> Float[Tensor, "n way"]:
    """Returns each example's label as a vector: equal length, and the largest equal angles (an ELMES).

        code_k = sqrt(C / (C - 1)) (e_k - 1/C) over the C classes that occur,   code_j . code_k = 1 or -1 / (C - 1)

    Examples of no class (padding, queries) have the code 0.
    """
    seen = (member.sum(0) > 0).to(member.dtype)
    count = seen.sum().clamp(min=2)
    return (count / (count - 1)).sqrt() * (member - member.sum(1, keepdim=True) * seen / count)


class LabelReader(Transformer):
    """A transformer of two streams: features, as usual, and label codes, which attention averages and nothing mixes.

        weight = softmax(q k^T / sqrt(d) + alike (code code^T)),   code <- code + sum over heads of carry (weight code)

    Codes act through their products alone, so that another assignment of the codes to the classes permutes the answers,
    and the weights serve any number of classes.
    """

    def __init__(self, size: int, *, width: int, layers: int, heads: int) -> None:
        super().__init__(size, width=width, layers=layers, heads=heads, out=size)
        self.heads = heads
        self.alike = nn.Parameter(torch.zeros(layers, heads))
        self.carry = nn.Parameter(torch.full((layers, heads), 1 / heads))

    def read_labelled(
        self, tokens: Float[Tensor, "t d"], code: Float[Tensor, "t way"], see: Bool[Tensor, "t t"]
    ) -> tuple[Float[Tensor, "t d"], Float[Tensor, "t way"]]:
        """Returns what is added to each token, and its label code."""
        z = self.enter(tokens)
        for i, attention in enumerate(self.attention):
            assert isinstance(attention, Attention)
            u = self.norm[2 * i](z)
            own = attention.value(u).reshape(len(u), self.heads, -1)
            value = torch.cat([own, code[:, None].expand(-1, self.heads, -1)], -1).flatten(1)
            bias = self.alike[i][:, None, None] * (code @ code.T)
            read = attend(attention.query(u), attention.key(u), value, see, heads=self.heads, bias=bias)
            read = read.reshape(len(u), self.heads, -1)
            z = z + read[..., : own.shape[-1]].flatten(1)
            code = code + (self.carry[i][:, None] * read[..., own.shape[-1] :]).sum(1)
            z = z + self.back[i](F.gelu(self.forth[i](self.norm[2 * i + 1](z))))
        return self.head(self.norm[-1](z)), code


class LabelledFeatures(NamedTuple):
    """The support set: features, class membership, and which examples are real."""

    z: Float[Tensor, "m d"]
    member: Float[Tensor, "m way"]
    mask: Bool[Tensor, " m"]


class Caml(MetricLearner[LabelledFeatures]):
    """CAML: learning in context on frozen features (Fifty et al. 2024).

        v, a = reader((u_i, code_i) of the support set, (u, 0) of the query),   u = f(x) / |f(x)|
        logits_k = -scale |w - mean of w_i over class k|^2 + gain a . code_k,   w = (u + v) / |u + v|

    Each query is read independently of the others. The reader begins close to v = 0: the nearest class mean of the
    features. Differences from the paper: that residual, and labels that act through their angles alone, where the paper
    has a fixed number of codes and assigns them to the classes at random.

    Args:
        encoder: any module from inputs to vectors; freeze it (`requires_grad_(False)`), or give features.
        reader: a `LabelReader` of the vectors' length.
        way: number of classes that `predict` answers; the meta-parameters serve any number (`for_way`).
        scale: initial factor of the squared distance; it is learned.
    """

    def __init__(self, encoder: nn.Module, reader: LabelReader, *, way: int, scale: float = 10.0) -> None:
        super().__init__(encoder, way=way)
        self.reader = reader
        self.log_scale = nn.Parameter(torch.tensor(scale).log())
        self.gain = nn.Parameter(torch.tensor(0.1))
        with torch.no_grad():
            reader.head.weight.mul_(0.1), reader.head.bias.zero_()

    def fit(self, z: Float[Tensor, "m d"], support: Examples) -> LabelledFeatures:
        return LabelledFeatures(torch.where(support.mask[:, None], z, 0.0), members(support, self.way, z), support.mask)

    def logits(self, state: LabelledFeatures, z: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        member, m = state.member, len(state.mask)
        u = unit(torch.cat([state.z, z])) * z.shape[-1] ** 0.5
        code = torch.cat([elmes(member), member.new_zeros(len(z), self.way)])
        v, a = self.reader.read_labelled(u, code, sees(state.mask, len(z), causal=False))
        w, count = unit(u + v), member.sum(0)
        means = Prototypes((member / count.clamp(min=1)).T @ w[:m], count > 0)
        codes = elmes(torch.diag(means.seen.to(z.dtype)))
        return by_distance(means, w[m:], self.log_scale.exp()) + self.gain * a[m:] @ codes


def caml(
    encoder: nn.Module, size: int | None = None, *, way: int, width: int = 128, layers: int = 2,
    shape: tuple[int, ...] | None = None,
) -> Caml:  # fmt: skip
    """CAML: a transformer on frozen features that reads support and query together (Fifty et al. 2024); see `Caml`.

    Args:
        encoder: any module from inputs to vectors of length `size`; None finds the size with an input of `shape` (see
            `embedding_size`).
        way: number of classes; the meta-parameters serve any number (`for_way`).
        width: width of the transformer, divided among 4 heads.
    """
    size = embedding_size(encoder, shape) if size is None else size
    return Caml(encoder, LabelReader(size, width=width, layers=layers, heads=4), way=way)


build = on_encoder(lambda encoder, size, settings, way: caml(encoder, size, way=way))
