"""Sequence learners: a stream's causality, one pass against steps, what order tells, and fewer classes."""

import pytest
import torch
from torch import nn

from helpers.tasks import WAY, blobs, double
from upstairs.core import Examples, Task
from upstairs.errors import UpstairsError
from upstairs.learners import LSTMLearner, MemoryLearner, in_context, snail
from upstairs.learners.model_based.snail import content_order
from upstairs.tree import index


def memory() -> MemoryLearner:
    torch.manual_seed(0)
    return MemoryLearner(nn.Linear(8, 6), 6, way=WAY, hidden=4, rows=6).double()


def lstm() -> LSTMLearner:
    torch.manual_seed(0)
    return LSTMLearner(nn.Linear(8, 6), 6, way=WAY, block=3).double()


both = pytest.mark.parametrize("make", [memory, lstm])


@both
def test_a_stream_is_causal_and_labels_are_late(make) -> None:
    learner, g = make(), torch.Generator().manual_seed(0)
    x, mask = torch.randn(9, 8, generator=g).double(), torch.ones(9, dtype=torch.bool)
    label = torch.eye(WAY, dtype=torch.double)[torch.randint(WAY, (9,), generator=g)]
    before = learner.stream(learner.tokens(x), label, mask)[1]
    for t in range(8):
        other_x, other_label = x.clone(), label.clone()
        other_x[t] += torch.randn(8, generator=g).double()
        other_label[t] = label[t].roll(1)
        changed = (learner.stream(learner.tokens(other_x), label, mask)[1] != before).any(-1).tolist()
        assert changed[: t + 1] == [False] * t + [True]
        changed = (learner.stream(learner.tokens(x), other_label, mask)[1] != before).any(-1).tolist()
        assert changed[: t + 2] == [False] * (t + 1) + [True]


@both
def test_one_pass_is_the_stream(make) -> None:
    """A query is the step after the support set."""
    learner, task = make(), index(double(blobs()), 0)
    order = content_order(task.support)
    x, label = task.support.x[order], torch.eye(WAY, dtype=torch.double)[task.support.y[order]]
    answer = learner.predict(learner.adapt(task.support), task.query.x)
    for i in range(3):
        stream, labels = torch.cat([x, task.query.x[i : i + 1]]), torch.cat([label, label[:1]])
        mask = torch.ones(len(stream), dtype=torch.bool)
        torch.testing.assert_close(answer[i], learner.stream(learner.tokens(stream), labels, mask)[1][-1])


@both
def test_second_order_through_the_stream(make) -> None:
    learner = make()
    label, mask = torch.eye(WAY, dtype=torch.double)[[0, 1, 0]], torch.ones(3, dtype=torch.bool)
    x = torch.randn(3, 8, dtype=torch.double, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: learner.stream(learner.tokens(a), label, mask)[1], (x,))
    assert torch.autograd.gradgradcheck(lambda a: learner.stream(learner.tokens(a), label, mask)[1], (x,))


def test_the_stream_equals_torchs_lstm() -> None:
    learner, g = lstm(), torch.Generator().manual_seed(0)
    x, label = torch.randn(9, 8, generator=g).double(), torch.eye(WAY).double()[torch.randint(WAY, (9,), generator=g)]
    other = nn.LSTM(6 + WAY, 3 * (WAY + 1)).double()
    with torch.no_grad():
        other.weight_ih_l0.copy_(learner.cell.input.weight), other.weight_hh_l0.copy_(learner.cell.hidden.weight)
        other.bias_ih_l0.copy_(learner.cell.input.bias), other.bias_hh_l0.zero_()
    told_before = torch.cat([torch.zeros(1, WAY).double(), label[:-1]])
    read = torch.cat([nn.LayerNorm(6, elementwise_affine=False)(learner.encoder(x)), told_before], 1)
    expected = learner.head(other(read)[0])
    torch.testing.assert_close(learner.stream(learner.tokens(x), label, torch.ones(9) > 0)[1], expected)


def test_an_lstm_starts_as_a_memory() -> None:
    """Before any training it tells which class of those seen an input is like; from an ordinary start it does not."""
    torch.manual_seed(0)
    learner, task = LSTMLearner(nn.Identity(), 64, way=WAY), torch.Generator().manual_seed(0)
    centres = torch.randn(100, WAY, 64, generator=task)
    near = [c + 0.3 * torch.randn(c.shape, generator=task) for c in (centres, centres)]
    support, query = (Examples(x, torch.arange(WAY).expand(100, -1), torch.ones(100, WAY) > 0) for x in near)
    tasks = Task(support, query)
    right = (learner.solve(tasks).argmax(-1) == query.y).double().mean()
    for layer in (learner.cell.input, learner.cell.hidden, learner.head):
        layer.reset_parameters()
    chance = (learner.solve(tasks).argmax(-1) == query.y).double().mean()
    assert right > 0.8 and chance < 0.35


def test_places_tell_no_labels() -> None:
    """Examples come class by class; read in the order of their content, each place meets each class alike."""
    tasks = blobs(400)
    first = torch.tensor([int(t.support.y[content_order(t.support)[0]]) for t in (index(tasks, i) for i in range(400))])
    counts = torch.bincount(first, minlength=WAY)
    assert counts.min() > 50 and counts.max() < 115


@pytest.mark.parametrize("make", [snail, in_context])
def test_fewer_classes(make) -> None:
    torch.manual_seed(0)
    learner = make(nn.Linear(8, 6), 6, way=WAY)
    tasks = blobs()
    keep = tasks.support.y[0] < 3
    few = Task(Examples(*(leaf[:, keep] for leaf in tasks.support)), tasks.query)
    three = learner.for_way(3).solve(few)
    assert three.shape[-1] == 3
    torch.testing.assert_close(three, learner.solve(few)[..., :3])
    assert (learner.solve(few).argmax(-1) < 3).all()  # no example, never the answer
    with pytest.raises(UpstairsError, match="trained to tell 5"):
        learner.for_way(6)
