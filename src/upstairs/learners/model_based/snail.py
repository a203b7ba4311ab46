"""Meta neural networks: a network that reads the support set as a sequence and answers the queries in one pass."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from upstairs.core import Examples, Learner, LossFn, State, Task, cross_entropy
from upstairs.learners.metric.protonet import members, only_seen
from upstairs.nets.embedding import embedding_size
from upstairs.nets.norm import is_transductive
from upstairs.nets.sequence import Snail, Transformer


def content_order(examples: Examples) -> Int[Tensor, " n"]:
    """An order that looks random and depends on the inputs alone, padding first.

    A task's examples come class by class, so a network that reads places could read the labels off them; and a set
    has no order. In float64, so that the order is the same however the tasks are computed.
    """
    x = examples.x.flatten(1).double()
    mixed = x @ torch.arange(1.0, x.shape[1] + 1, dtype=x.dtype, device=x.device).cos()
    key = torch.where(examples.mask, (1e4 * mixed).frac().abs(), -1.0)
    return key.argsort(stable=True)


class Tokens(NamedTuple):
    """The support set as it is read: embeddings, labels as vectors, and which are real."""

    z: Float[Tensor, "m d"]
    label: Float[Tensor, "m way"]
    mask: Bool[Tensor, " m"]


class Reader(Learner[State]):
    """An encoder, and a network with a fixed number of inputs for labels: it takes `way` classes or fewer."""

    loss_fn: LossFn = staticmethod(cross_entropy)

    def __init__(self, encoder: nn.Module, *, way: int) -> None:
        super().__init__()
        self.encoder, self.way, self.most = encoder, way, way

    @property
    def max_way(self) -> int | None:
        return self.most

    @property
    def transductive(self) -> bool:
        return is_transductive(self)


class SequenceLearner(Reader[Tokens]):
    """An encoder, and a reader of the tokens [f(x_i), y_i] of the support set and [f(x), 0] of the queries.

        p(y | x) = softmax(reader([f(x_1), y_1], ..., [f(x_m), y_m], [f(x), 0]))

    Each query is read as if it were the only one. A class without a support example is never the answer.

    Args:
        encoder: any module from inputs to vectors.
        reader: from (tokens [m + n, d + way], mask [m]) to [m + n, way]: see nets/sequence.py.
        way: the most classes of a task.
    """

    def __init__(self, encoder: nn.Module, reader: nn.Module, *, way: int) -> None:
        super().__init__(encoder, way=way)
        self.reader = reader

    def tokens(self, z: Float[Tensor, "m d"], support: Examples) -> Tokens:
        order = content_order(support)
        return Tokens(z[order], members(support, self.most, z)[order], support.mask[order])

    def answer(self, state: Tokens, z: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        label = torch.cat([state.label, state.label.new_zeros(len(z), self.most)])
        # numbers of size 1, and a label that is heard beside them
        z = F.layer_norm(torch.cat([state.z, z]), z.shape[-1:])
        tokens = torch.cat([z, 0.5 * z.shape[-1] ** 0.5 * label], -1)
        logits = self.reader(tokens, state.mask)[len(state.mask) :]
        return only_seen(logits, state.label.sum(0) > 0)[:, : self.way]

    def adapt(self, support: Examples, /) -> Tokens:
        return self.tokens(self.encoder(support.x), support)

    def predict(self, state: Tokens, x: Tensor, /) -> Float[Tensor, "n way"]:
        return self.answer(state, self.encoder(x))

    def meta_loss(self, task: Task) -> tuple[Tensor, Tensor]:
        """The query loss, with support and query embedded as one batch: one pass, and one set of statistics."""
        z = self.encoder(torch.cat([task.support.x, task.query.x]))
        m = len(task.support.x)
        prediction = self.answer(self.tokens(z[:m], task.support), z[m:])
        return task.query.mean(self.loss_fn(prediction, task.query.y)), prediction


def snail(
    encoder: nn.Module, size: int | None = None, *, way: int, shot: int = 1, filters: int = 128,
    shape: tuple[int, ...] | None = None,
) -> SequenceLearner:  # fmt: skip
    """SNAIL (Mishra et al. 2018): temporal convolutions gather what came before, causal attention looks it up.

    Args:
        encoder: any module from inputs to vectors of `size` numbers; without a size the encoder is asked, with an input
            of `shape` (see `embedding_size`).
        way: the most classes of a task.
        shot: support examples of each class that the convolutions reach back over.
        filters: of a temporal convolution (128 in the paper).
    """
    size = embedding_size(encoder, shape) if size is None else size
    return SequenceLearner(encoder, Snail(size + way, length=way * shot + 1, filters=filters, out=way), way=way)


def in_context(
    encoder: nn.Module, size: int | None = None, *, way: int, width: int = 128, layers: int = 3,
    shape: tuple[int, ...] | None = None,
) -> SequenceLearner:  # fmt: skip
    """A transformer that learns in its activations (Müller et al. 2022; TabPFN, Hollmann et al. 2023).

    Support examples attend to each other, a query to them and to itself; there are no places, so order is nothing.

    Args:
        encoder, size, shape: as for `snail`.
        way: the most classes of a task.
        width: of a token, in 4 heads.
    """
    size = embedding_size(encoder, shape) if size is None else size
    return SequenceLearner(encoder, Transformer(size + way, width=width, layers=layers, heads=4, out=way), way=way)
