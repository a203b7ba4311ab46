"""The meta-step: the same in chunks, exact beside padding, and one bad task is named."""

import pytest
import torch
from torch import Tensor, nn

from helpers.tasks import WAY, blobs, sinusoids
from upstairs.core import Examples, Task, squared_error
from upstairs.engine.meta_backward import meta_backward
from upstairs.errors import NonFiniteError
from upstairs.learners import SGD, GradientLearner, ProtoNet, maml
from upstairs.nets import BatchNorm, mlp


def gradients(learner: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in learner.parameters() if p.grad is not None]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_chunks_do_not_matter(chunk: int) -> None:
    torch.manual_seed(0)
    learner = maml(mlp((8,), out=WAY), way=WAY, inner_lr=0.1, steps=2)
    whole = meta_backward(learner, blobs(7))
    expected = gradients(learner)
    part = meta_backward(learner, blobs(7), chunk=chunk)
    torch.testing.assert_close(part.losses, whole.losses)
    torch.testing.assert_close(part.predictions, whole.predictions)
    for a, b in zip(gradients(learner), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def padded(tasks: Task, more: int) -> Task:
    def part(e: Examples) -> Examples:

        def zeros(t: torch.Tensor) -> torch.Tensor:
            return t.new_zeros(len(t), more, *t.shape[2:])

        return Examples(*(torch.cat([t, zeros(t)], 1) for t in e))

    return Task(part(tasks.support), part(tasks.query))


def test_padding_does_not_enter_batch_statistics_one_task_at_a_time() -> None:
    torch.manual_seed(0)
    learner = ProtoNet(nn.Sequential(nn.Linear(8, 6), BatchNorm(6)), way=WAY)
    expected = meta_backward(learner, blobs(3), chunk=1).losses
    torch.testing.assert_close(meta_backward(learner, padded(blobs(3), 4), chunk=1).losses, expected)


def test_a_loss_that_is_not_finite_is_named_and_nothing_is_changed() -> None:
    torch.manual_seed(0)
    learner = maml(mlp((8,), out=WAY), way=WAY, inner_lr=0.1)
    tasks = blobs(5)
    tasks.query.x[3, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="loss of task 3") as caught:
        meta_backward(learner, tasks, chunk=2)
    assert caught.value.index == 3
    assert all(p.grad is None for p in learner.parameters())


def test_a_gradient_that_is_not_finite_names_its_task() -> None:
    """Finite losses, and an infinite slope: the square root of |x| at 0."""

    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return (x + self.shift).abs().sqrt()

    learner = GradientLearner(Root(), SGD(0.0), way=None, steps=0, loss_fn=squared_error)
    tasks = sinusoids(4)
    tasks.query.x[2, 0] = 0.0
    with pytest.raises(NonFiniteError, match="gradient of task 2") as caught:
        meta_backward(learner, tasks)
    assert caught.value.index == 2
    assert all(p.grad is None for p in learner.parameters())
