"""Meta neural networks: a network that reads the support set as a sequence and answers the queries in one pass."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from upstairs.core import Examples, State, Task
from upstairs.learners.metric.protonet import EncoderLearner, members, only_seen
from upstairs.nets.embedding import embedding_size
from upstairs.nets.sequence import Snail, Transformer
from upstairs.tree import widest


def content_order(examples: Examples) -> Int[Tensor, " n"]:
    """Returns a pseudo-random order that depends on the inputs alone, padding first.

    A task's examples are sorted by class, so positions would reveal the labels. The keys are float64, so that the order
    is the same for one task and for a batch.
    """
    x = examples.x.flatten(1).to(widest(examples.x))
    mixed = x @ torch.arange(1.0, x.shape[1] + 1, dtype=x.dtype, device=x.device).cos()
    key = torch.where(examples.mask, (1e4 * mixed).frac().abs(), -1.0)
    return key.argsort(stable=True)


class SupportTokens(NamedTuple):
    """The support set in reading order: embeddings, one-hot labels, and which are real."""

    z: Float[Tensor, "m d"]
    label: Float[Tensor, "m way"]
    mask: Bool[Tensor, " m"]


class SupportReader(EncoderLearner[State]):
    """An encoder, and a network with a fixed number of label inputs: tasks have `way` classes or fewer."""

    def __init__(self, encoder: nn.Module, *, way: int) -> None:
        super().__init__()
        self.encoder, self.way, self.most = encoder, way, way

    @property
    def max_way(self) -> int | None:
        return self.most


class SequenceLearner(SupportReader[SupportTokens]):
    """A learner that reads the tokens [f(x_i), y_i] of the support set and [f(x), 0] of the queries.

        p(y | x) = softmax(reader([f(x_1), y_1], ..., [f(x_m), y_m], [f(x), 0]))

    Each query is read independently of the others. A class without a support example is never predicted.

    Args:
        encoder: any module from inputs to vectors.
        reader: a module from (tokens [m + n, d + way], mask [m]) to [m + n, way]: see nets/sequence.py.
        way: largest number of classes in a task.
    """

    def __init__(self, encoder: nn.Module, reader: nn.Module, *, way: int) -> None:
        super().__init__(encoder, way=way)
        self.reader = reader

    def tokens(self, z: Float[Tensor, "m d"], support: Examples) -> SupportTokens:
        order = content_order(support)
        return SupportTokens(z[order], members(support, self.most, z)[order], support.mask[order])

    def answer(self, state: SupportTokens, z: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        label = torch.cat([state.label, state.label.new_zeros(len(z), self.most)])
        # embeddings of norm sqrt(d), and labels of half that norm
        z = F.layer_norm(torch.cat([state.z, z]), z.shape[-1:])
        tokens = torch.cat([z, 0.5 * z.shape[-1] ** 0.5 * label], -1)
        logits = self.reader(tokens, state.mask)[len(state.mask) :]
        return only_seen(logits, state.label.sum(0) > 0)[:, : self.way]

    def adapt(self, support: Examples, /) -> SupportTokens:
        return self.tokens(self.encoder(support.x), support)

    def predict(self, state: SupportTokens, x: Tensor, /) -> Float[Tensor, "n way"]:
        return self.answer(state, self.encoder(x))

    def meta_loss(self, task: Task) -> tuple[Tensor, Tensor]:
        """Returns the query loss; support and query are embedded as one batch, with one set of statistics."""
        z = self.encoder(torch.cat([task.support.x, task.query.x]))
        m = len(task.support.x)
        prediction = self.answer(self.tokens(z[:m], task.support), z[m:])
        return task.query.mean(self.loss_fn(prediction, task.query.y)), prediction


def snail(
    encoder: nn.Module, size: int | None = None, *, way: int, shot: int = 1, filters: int = 128,
    shape: tuple[int, ...] | None = None,
) -> SequenceLearner:  # fmt: skip
    """SNAIL (Mishra et al. 2018): temporal convolutions aggregate past examples, causal attention retrieves them.

    Args:
        encoder: any module from inputs to vectors of length `size`; None finds the size with an input of `shape` (see
            `embedding_size`).
        way: largest number of classes in a task.
        shot: number of support examples of each class that the convolutions reach back over.
        filters: number of filters of a temporal convolution (128 in the paper).
    """
    size = embedding_size(encoder, shape) if size is None else size
    return SequenceLearner(encoder, Snail(size + way, length=way * shot + 1, filters=filters, out=way), way=way)


def in_context(
    encoder: nn.Module, size: int | None = None, *, way: int, width: int = 128, layers: int = 3,
    shape: tuple[int, ...] | None = None,
) -> SequenceLearner:  # fmt: skip
    """A transformer that learns a task in context (Müller et al. 2022; TabPFN, Hollmann et al. 2023).

    Support examples attend to each other, a query to them and to itself. Without positions the order has no effect.

    Args:
        encoder, size, shape: as for `snail`.
        way: largest number of classes in a task.
        width: width of a token, divided among 4 heads.
    """
    size = embedding_size(encoder, shape) if size is None else size
    return SequenceLearner(encoder, Transformer(size + way, width=width, layers=layers, heads=4, out=way), way=way)
