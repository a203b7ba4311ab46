"""Meta recurrent networks: y_t = f(y_{t-1}, x_t), a network that learns a task while its examples pass by."""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from upstairs.core import Examples, Task
from upstairs.learners.metric import members
from upstairs.learners.sequence import Reader, content_order
from upstairs.nets.sequence import LSTMCell, Slots, read, write


class Recall(NamedTuple):
    """Between two steps: the cell, the memory, and the key of the step that ended with its label, once it is told."""

    h: Float[Tensor, " e"]
    c: Float[Tensor, " e"]
    slots: Slots
    key: Float[Tensor, " k"]
    label: Float[Tensor, " way"]


class MemoryLearner(Reader[Recall]):
    """A memory-augmented LSTM that is told each label one step late (Hochreiter 2001; Santoro et al. 2016).

        (h_t, c_t) = LSTM([f(x_t), y_{t-1}], h_{t-1}, c_{t-1})
        write [k_{t-1}, y_{t-1}] into the least recently used row, or where was read last
        r_t = read by the cosine with k_t = W f(x_t),      p(y_t) = softmax(head([h_t, r_t]))

    `adapt` reads the support set in one pass; each query is the step after it. It is trained on streams: support set
    and queries shuffled together, the loss of every step. Difference from the paper: a row is the key with the label
    that belongs to it, where the paper's controller must learn to put the two together.

    Args:
        encoder: any module from inputs to vectors of `size` numbers.
        way: the most classes of a task.
        hidden: units of the LSTM, and numbers of a key.
        rows: of the memory; a longer stream overwrites the least recently used.
    """

    def __init__(self, encoder: nn.Module, size: int, *, way: int, hidden: int = 64, rows: int = 64) -> None:
        super().__init__(encoder, way=way)
        self.rows, self.hidden = rows, hidden
        self.key = nn.Linear(size, hidden)
        self.cell = LSTMCell(size + way, hidden)
        self.head = nn.Linear(2 * hidden + way, way)
        nn.init.orthogonal_(self.key.weight)
        with torch.no_grad():  # it starts by answering the label that it reads
            self.head.weight[:, -way:] = 5 * torch.eye(way)
        self.gate, self.log_scale = nn.Parameter(torch.tensor(-2.0)), nn.Parameter(torch.tensor(10.0).log())

    def keys(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        return self.key(F.layer_norm(z, z.shape[-1:]))

    def begin(self, like: Tensor) -> Recall:
        """Before the first step."""
        h, label, usage = (like.new_zeros(k) for k in (self.hidden, self.most, self.rows))
        return Recall(h, h, Slots(usage[:, None].expand(-1, len(h) + len(label)), usage, usage), h, label)

    def step(self, state: Recall, z: Tensor, key: Tensor) -> tuple[Recall, Float[Tensor, " way"]]:
        """Told the last label (in `state`), sees f(x) and its key, predicts."""
        h, c = self.cell(torch.cat([z, state.label]), state.h, state.c)
        told = state.label.sum()  # 0 before the first step: nothing to write
        slots = write(state.slots, torch.cat([state.key, state.label]), self.gate.sigmoid(), told)
        found, slots = read(slots, key, self.log_scale.exp())
        return Recall(h, c, slots, key, state.label), self.head(torch.cat([h, found]))

    def stream(self, z: Tensor, label: Tensor, mask: Bool[Tensor, " t"]) -> tuple[Recall, Float[Tensor, "t way"]]:
        """The state after a stream of examples, and what was predicted of each before its label was told."""
        state, predictions, keys = self.begin(z), [], self.keys(z)
        for t in range(len(z)):
            new, prediction = self.step(state, z[t], keys[t])
            new = new._replace(label=label[t])
            state = tree_map(partial(torch.where, mask[t]), new, state)
            predictions.append(prediction)
        return state, torch.stack(predictions)

    def adapt(self, support: Examples, /) -> Recall:
        order, z = content_order(support), self.encoder(support.x)
        return self.stream(z[order], members(support, self.most, z)[order], support.mask[order])[0]

    def predict(self, state: Recall, x: Tensor, /) -> Float[Tensor, "n way"]:
        z = self.encoder(x)
        return torch.stack([self.step(state, a, k)[1] for a, k in zip(z, self.keys(z), strict=True)])[:, : self.way]

    def meta_loss(self, task: Task) -> tuple[Tensor, Tensor]:
        """The loss of every step of one stream of support set and queries, and the predictions of the queries."""
        both = task.together()
        order, z = content_order(both), self.encoder(both.x)
        _, prediction = self.stream(z[order], members(both, self.most, z)[order], both.mask[order])
        prediction = prediction[order.argsort()]
        return both.mean(self.loss_fn(prediction, both.y)), prediction[len(task.support.x) :, : self.way]
