"""Reptile against its closed form on a quadratic, and minibatches of the support set."""

import pytest
import torch
from torch import Tensor, nn

from helpers.tasks import WAY, blobs, double, sinusoids
from upstairs.core import Examples, squared_error
from upstairs.engine.meta_backward import meta_backward
from upstairs.errors import UpstairsError
from upstairs.functional.batching import vectorize
from upstairs.functional.differentiate import Implicit
from upstairs.learners import SGD, GradientLearner, maml, reptile
from upstairs.learners.gradient.maml import minibatch
from upstairs.nets import mlp


class Constant(nn.Module):
    """Predicts its own parameter: the loss of a task is a bowl around the mean of its targets."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor([0.7], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.value.expand(len(x), 1)


@pytest.mark.parametrize("steps", [1, 4])
def test_equals_the_closed_form_on_a_bowl(steps: int) -> None:
    """phi_K - mean(y) = (1 - 2 rate)^K (theta - mean(y)), so theta - phi_K = (1 - (1 - 2 rate)^K) (theta - mean(y))."""
    net, tasks = Constant(), double(sinusoids(3))
    step = meta_backward(reptile(net, way=None, inner_lr=0.1, steps=steps, batch=None, loss_fn=squared_error), tasks)
    away = 0.7 - tasks.support.y.mean((1, 2))
    moved = (1 - 0.8**steps) * away
    torch.testing.assert_close(net.value.grad, moved.mean()[None], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(step.predictions[:, 0, 0], 0.7 - moved, rtol=1e-12, atol=1e-12)


def test_queries_have_no_part_in_the_meta_gradient() -> None:
    torch.manual_seed(0)
    learner, tasks = reptile(mlp((8,), out=WAY), way=WAY, batch=5), blobs(2)
    meta_backward(learner, tasks)
    before = [p.grad.clone() for p in learner.parameters()]
    learner.zero_grad()
    meta_backward(learner, tasks._replace(query=tasks.query._replace(x=tasks.query.x + 1)))
    assert all(torch.equal(p.grad, g) for p, g in zip(learner.parameters(), before, strict=True))


def test_minibatches_of_a_loop() -> None:
    """Reptile on minibatches, as a plain loop over the examples that `minibatch` names."""
    torch.manual_seed(0)
    net, tasks = nn.Linear(1, 1).double(), double(sinusoids(2))
    meta_backward(reptile(net, way=None, inner_lr=0.02, steps=3, batch=4, loss_fn=squared_error), tasks)
    moved = []
    for i in range(2):
        slope, shift = net.weight.detach().clone(), net.bias.detach().clone()
        for k in range(3):
            part = minibatch(Examples(*(leaf[i] for leaf in tasks.support)), 4, k)
            error = part.x * slope + shift - part.y
            slope, shift = slope - 0.02 * 2 * (error * part.x).mean(), shift - 0.02 * 2 * error.mean()
        moved.append(net.weight.detach() - slope)
    torch.testing.assert_close(net.weight.grad, torch.stack(moved).mean(0), rtol=1e-12, atol=1e-12)


def numbered(real: int, padding: int) -> Examples:
    x = torch.arange(real + padding).double()[:, None]
    mask = torch.arange(real + padding) < real
    return Examples(x, torch.zeros(real + padding, dtype=torch.long), mask)


@pytest.mark.parametrize(("real", "size"), [(12, 4), (50, 10), (7, 3)])
def test_every_example_is_met_equally_often(real: int, size: int) -> None:
    parts = [minibatch(numbered(real, 0), size, step).x[:, 0] for step in range(real)]
    assert all(len(set(part.tolist())) == size for part in parts)
    assert torch.bincount(torch.cat(parts).long()).tolist() == [size] * real
    whole = -(-real // size)
    assert len(set(torch.cat(parts[:whole]).tolist())) == real  # none is met twice before all were met


def test_neighbours_are_scattered() -> None:
    """10 classes of 5 examples, one after another: 10 at a time never see fewer than 8 classes."""
    for step in range(10):
        assert len(set((minibatch(numbered(50, 0), 10, step).x[:, 0] // 5).tolist())) >= 8


def test_padding_changes_no_minibatch_and_is_masked() -> None:
    for step in range(5):
        alone, padded = minibatch(numbered(9, 0), 4, step), minibatch(numbered(9, 20), 4, step)
        assert torch.equal(alone.x, padded.x) and padded.mask.all()
    short = minibatch(numbered(2, 6), 5, 1)
    assert sorted(short.x[short.mask][:, 0].tolist()) == [0.0, 1.0] and short.mask.sum() == 2
    few = numbered(3, 0)
    assert minibatch(few, 5, 1) is few


def test_tasks_of_unequal_size_at_once() -> None:
    both = Examples(*(torch.stack(leaves) for leaves in zip(numbered(9, 3), numbered(12, 0), strict=True)))
    owner = nn.Module()
    owner.pair = nn.Conv1d(1, 1, 1)  # a module that one task alone would not be simple for
    found = vectorize(lambda e: minibatch(e, 4, 2), (both,), owner=owner)
    for i, real in enumerate((9, 12)):
        assert torch.equal(found.x[i], minibatch(numbered(real, 12 - real), 4, 2).x)


def test_minibatches_serve_every_gradient_learner_and_steps_differ() -> None:
    torch.manual_seed(0)
    tasks = blobs(2, shot=4)
    net = mlp((8,), out=WAY)
    whole, part = (maml(net, way=WAY, inner_lr=0.1, steps=2, batch=b).solve(tasks) for b in (None, 5))
    assert not torch.allclose(whole, part)
    all_of_it = maml(net, way=WAY, inner_lr=0.1, steps=2, batch=20).solve(tasks)
    assert torch.equal(whole, all_of_it)


def test_bad_minibatches_are_refused() -> None:
    for batch, how in ((0, None), (3, Implicit())):
        options = {} if how is None else {"differentiate": how}
        with pytest.raises(UpstairsError, match=f"batch is {batch}"):
            GradientLearner(mlp((8,), out=WAY), SGD(0.1), way=WAY, batch=batch, **options)
