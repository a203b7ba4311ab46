"""Meta recurrent networks: y_t = f(y_{t-1}, x_t), a recurrent network that learns a task from a stream of examples."""

from abc import abstractmethod
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from upstairs.core import Examples, State, Task
from upstairs.learners.metric.protonet import members
from upstairs.learners.model_based.snail import SupportReader, content_order
from upstairs.nets.embedding import embedding_size
from upstairs.nets.sequence import LSTMCell, Slots, read, write


class StreamLearner(SupportReader[tuple[State, Tensor]]):
    """A recurrent network that receives each label one step late (Hochreiter, Younger and Conwell 2001).

        (s_t, p_t) = step(s_{t-1}, y_{t-1}, x_t)

    `adapt` reads the support set in one pass and keeps the last label, which is an input together with the query: each
    query is the step after the support set. Training uses streams of support set and queries, shuffled together, and
    the loss of every step.
    """

    needs_hard_labels = "receives them one by one"

    @abstractmethod
    def tokens(self, x: Tensor) -> Float[Tensor, "n e"]:
        """Returns the vector that a step reads for each input."""

    @abstractmethod
    def begin(self, like: Tensor) -> State:
        """Returns the initial state."""

    @abstractmethod
    def step(self, state: State, label: Float[Tensor, " way"], token: Tensor) -> tuple[State, Float[Tensor, " way"]]:
        """Reads the last label (zeros before the first step) and the next input; returns the new state and logits."""

    def stream(
        self, tokens: Float[Tensor, "t e"], label: Float[Tensor, "t way"], mask: Bool[Tensor, " t"]
    ) -> tuple[tuple[State, Tensor], Float[Tensor, "t way"]]:
        """Returns the state after a stream of examples, and the prediction for each before its label is read."""
        state, told, predictions = self.begin(tokens), torch.zeros_like(label[0]), []
        for t in range(len(tokens)):
            new, prediction = self.step(state, told, tokens[t])
            state, told = tree_map(partial(torch.where, mask[t]), (new, label[t]), (state, told))
            predictions.append(prediction)
        return (state, told), torch.stack(predictions)

    def adapt(self, support: Examples, /) -> tuple[State, Tensor]:
        order, tokens = content_order(support), self.tokens(support.x)
        return self.stream(tokens[order], members(support, self.most, tokens)[order], support.mask[order])[0]

    def predict(self, state: tuple[State, Tensor], x: Tensor, /) -> Float[Tensor, "n way"]:
        kept, told = state
        return torch.stack([self.step(kept, told, token)[1] for token in self.tokens(x)])[:, : self.way]

    def meta_loss(self, task: Task) -> tuple[Tensor, Tensor]:
        """Returns the loss over all steps of one stream of support set and queries, and the query predictions."""
        both = task.together()
        order, tokens = content_order(both), self.tokens(both.x)
        _, prediction = self.stream(tokens[order], members(both, self.most, tokens)[order], both.mask[order])
        prediction = prediction[order.argsort()]
        return both.mean(self.loss_fn(prediction, both.y)), prediction[len(task.support.x) :, : self.way]


class LSTMCarry(NamedTuple):
    """The state of an LSTM: its output and its cell."""

    h: Float[Tensor, " e"]
    c: Float[Tensor, " e"]


class LSTMLearner(StreamLearner[LSTMCarry]):
    """An LSTM whose state learns a task (Hochreiter, Younger and Conwell 2001).

        (h_t, c_t) = LSTM([norm(f(x_t)), y_{t-1}], h_{t-1}, c_{t-1}),   p(y_t) = softmax(head(h_t))

    Args:
        encoder: any module from inputs to vectors of length `size`.
        way: largest number of classes in a task.
        block: the LSTM has (way + 1) * block units.
    """

    def __init__(self, encoder: nn.Module, size: int, *, way: int, block: int = 64) -> None:
        super().__init__(encoder, way=way)
        hidden = (way + 1) * block
        self.cell, self.head = LSTMCell(size + way, hidden), nn.Linear(hidden, way)
        start_as_memory(self.cell, self.head, way=way, block=block)

    def tokens(self, x: Tensor) -> Float[Tensor, "n e"]:
        z = self.encoder(x)
        return F.layer_norm(z, z.shape[-1:])

    def begin(self, like: Tensor) -> LSTMCarry:
        zeros = like.new_zeros(self.head.in_features)
        return LSTMCarry(zeros, zeros)

    def step(self, state: LSTMCarry, label: Tensor, token: Tensor) -> tuple[LSTMCarry, Float[Tensor, " way"]]:
        state = LSTMCarry(*self.cell(torch.cat([token, label]), *state))
        return state, self.head(state.h)


@torch.no_grad()
def start_as_memory(cell: LSTMCell, head: nn.Linear, *, way: int, block: int) -> None:
    """Initialises an LSTM so that it stores a label together with the input of one step before.

    The last block of units outputs P x_t for step t + 1; block k stores it when label k is read, and outputs it where
    it agrees with P x_t; the head sums each block. From an ordinary initialisation an LSTM finds this only after very
    many tasks. P has orthogonal rows.
    """
    for p in (*cell.parameters(), head.weight):
        p.mul_(0.1)
    gain, bias = cell.input.weight.unflatten(0, (4, way + 1, block)), cell.input.bias.unflatten(0, (4, way + 1, block))
    back = cell.hidden.weight.unflatten(0, (4, way + 1, block))
    i, f, g, o = range(4)
    projection = nn.init.orthogonal_(torch.empty(block, gain.shape[-1] - way))
    gain[g, -1, :, :-way] += projection
    bias[i, -1], bias[f, -1], bias[o, -1] = 3.0, -3.0, 3.0
    for k in range(way):
        gain[i, k, :, k - way] += 8
        bias[i, k], bias[f, k] = -4.0, 3.0
        back[g, k, :, -block:] += 2 * torch.eye(block)
        gain[o, k, :, :-way] += 2 * projection
        head.weight[k].unflatten(0, (way + 1, block))[k] += 0.5


class Recall(NamedTuple):
    """The state between two steps: the LSTM, the memory, and the key of the last step, whose label comes next."""

    h: Float[Tensor, " e"]
    c: Float[Tensor, " e"]
    slots: Slots
    key: Float[Tensor, " k"]


class MemoryLearner(StreamLearner[Recall]):
    """A memory-augmented LSTM (Santoro et al. 2016).

        (h_t, c_t) = LSTM([f(x_t), y_{t-1}], h_{t-1}, c_{t-1})
        write [k_{t-1}, y_{t-1}] into the least recently used row, or the row that was read last
        r_t = read by the cosine with k_t = W norm(f(x_t)),      p(y_t) = softmax(head([h_t, r_t]))

    Difference from the paper: a row holds a key and its label, which the paper's controller must learn to combine.

    Args:
        encoder: any module from inputs to vectors of length `size`.
        way: largest number of classes in a task.
        hidden: units of the LSTM, and length of a key.
        rows: number of rows; a longer stream overwrites the least recently used one.
    """

    def __init__(self, encoder: nn.Module, size: int, *, way: int, hidden: int = 64, rows: int = 64) -> None:
        super().__init__(encoder, way=way)
        self.rows, self.hidden = rows, hidden
        self.key = nn.Linear(size, hidden)
        self.cell = LSTMCell(size + way, hidden)
        self.head = nn.Linear(2 * hidden + way, way)
        nn.init.orthogonal_(self.key.weight)
        with torch.no_grad():  # at the start it predicts the label that it reads
            self.head.weight[:, -way:] = 5 * torch.eye(way)
        self.gate, self.log_scale = nn.Parameter(torch.tensor(-2.0)), nn.Parameter(torch.tensor(10.0).log())

    def tokens(self, x: Tensor) -> Float[Tensor, "n e"]:
        """Returns the embedding and its key."""
        z = self.encoder(x)
        return torch.cat([z, self.key(F.layer_norm(z, z.shape[-1:]))], 1)

    def begin(self, like: Tensor) -> Recall:
        h, usage = like.new_zeros(self.hidden), like.new_zeros(self.rows)
        return Recall(h, h, Slots(usage[:, None].expand(-1, self.hidden + self.most), usage, usage), h)

    def step(self, state: Recall, label: Tensor, token: Tensor) -> tuple[Recall, Float[Tensor, " way"]]:
        z, key = token.split([len(token) - self.hidden, self.hidden])
        h, c = self.cell(torch.cat([z, label]), state.h, state.c)
        told = label.sum()  # 0 before the first step: nothing to write
        slots = write(state.slots, torch.cat([state.key, label]), self.gate.sigmoid(), told)
        found, slots = read(slots, key, self.log_scale.exp())
        return Recall(h, c, slots, key), self.head(torch.cat([h, found]))


def lstm(encoder: nn.Module, *, way: int, shape: tuple[int, ...] | None = None) -> LSTMLearner:
    """An LSTM whose state learns a task (Hochreiter et al. 2001): (s_t, p_t) = step(s_t-1, y_t-1, x_t).

    Args:
        encoder: any module from inputs to vectors.
        way: largest number of classes in a task.
        shape: shape of one input; needed where the encoder does not determine it (see `embedding_size`).
    """
    return LSTMLearner(encoder, embedding_size(encoder, shape), way=way)


def memory(encoder: nn.Module, *, way: int, shape: tuple[int, ...] | None = None, rows: int = 64) -> MemoryLearner:
    """A memory-augmented LSTM (Santoro et al. 2016): r_t = read by cosine, p(y_t) = softmax(head([h_t, r_t])).

    Args:
        encoder, way, shape: as for `lstm`.
        rows: number of rows of the memory.
    """
    return MemoryLearner(encoder, embedding_size(encoder, shape), way=way, rows=rows)
