"""Sequence learners: a stream's causality, one pass against steps, what order tells, and fewer classes."""

import pytest
import torch
from torch import nn

from tasks_for_tests import WAY, blobs, double
from upstairs.core import Examples, Task
from upstairs.errors import UpstairsError
from upstairs.learners import MemoryLearner, in_context, snail
from upstairs.learners.sequence import content_order
from upstairs.tree import take


def memory() -> MemoryLearner:
    torch.manual_seed(0)
    return MemoryLearner(nn.Linear(8, 6), 6, way=WAY, hidden=4, rows=6).double()


def test_a_stream_is_causal_and_labels_are_late() -> None:
    learner, g = memory(), torch.Generator().manual_seed(0)
    z, mask = torch.randn(9, 6, generator=g).double(), torch.ones(9, dtype=torch.bool)
    label = torch.eye(WAY, dtype=torch.double)[torch.randint(WAY, (9,), generator=g)]
    before = learner.stream(z, label, mask)[1]
    for t in range(8):
        other_z, other_label = z.clone(), label.clone()
        other_z[t] += 1
        other_label[t] = label[t].roll(1)
        assert (learner.stream(other_z, label, mask)[1] != before).any(-1).tolist()[: t + 1] == [False] * t + [True]
        changed = (learner.stream(z, other_label, mask)[1] != before).any(-1).tolist()
        assert changed[: t + 2] == [False] * (t + 1) + [True]


def test_one_pass_is_the_stream() -> None:
    """A query is the step after the support set."""
    learner, task = memory(), take(double(blobs()), 0)
    order = content_order(task.support)
    z, label = learner.encoder(task.support.x)[order], torch.eye(WAY, dtype=torch.double)[task.support.y[order]]
    answer = learner.predict(learner.adapt(task.support), task.query.x)
    for i in range(3):
        stream = torch.cat([z, learner.encoder(task.query.x[i : i + 1])])
        labels = torch.cat([label, label[:1]])
        expected = learner.stream(stream, labels, torch.ones(len(stream), dtype=torch.bool))[1][-1]
        torch.testing.assert_close(answer[i], expected)


def test_second_order_through_the_stream() -> None:
    learner = memory()
    label, mask = torch.eye(WAY, dtype=torch.double)[[0, 1, 0]], torch.ones(3, dtype=torch.bool)
    z = torch.randn(3, 6, dtype=torch.double, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: learner.stream(x, label, mask)[1], (z,))
    assert torch.autograd.gradgradcheck(lambda x: learner.stream(x, label, mask)[1], (z,))


def test_places_tell_no_labels() -> None:
    """Examples come class by class; read in the order of their content, each place meets each class alike."""
    tasks = blobs(400)
    first = torch.tensor([int(t.support.y[content_order(t.support)[0]]) for t in (take(tasks, i) for i in range(400))])
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
