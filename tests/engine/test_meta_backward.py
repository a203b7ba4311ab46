"""The meta-step: the same in chunks, exact beside padding, and one bad task is named."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from helpers.tasks import WAY, blobs, double, sinusoids
from upstairs.core import Examples, Task, squared_error
from upstairs.engine.compile import compile_report
from upstairs.engine.meta_backward import meta_backward
from upstairs.errors import NonFiniteError, UpstairsError
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
    learner.zero_grad()
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


def test_calls_add_up_as_backward_does() -> None:
    torch.manual_seed(0)
    learner = maml(mlp((8,), out=WAY), way=WAY, inner_lr=0.1, steps=2).double()
    first, second = (double(blobs(3, seed)) for seed in (0, 1))
    expected = []
    for tasks in (first, second):
        learner.zero_grad()
        learner(tasks)[0].mean().backward()
        expected.append(gradients(learner))
        learner.zero_grad()
        meta_backward(learner, tasks)
        for own, plain in zip(gradients(learner), expected[-1], strict=True):
            torch.testing.assert_close(own, plain, rtol=1e-12, atol=1e-14)
    meta_backward(learner, first, chunk=2)
    for own, a, b in zip(gradients(learner), *expected, strict=True):
        torch.testing.assert_close(own, a + b, rtol=1e-12, atol=1e-14)


@pytest.mark.filterwarnings("ignore")  # what inductor imports warns
def test_a_compiled_step_adds_up_too() -> None:
    torch.manual_seed(0)
    learner, tasks = maml(mlp((8,), out=WAY), way=WAY, inner_lr=0.1), blobs(3)
    meta_backward(learner, tasks, compile="on")
    assert compile_report(learner) == ["compiled (1 steps)"]
    once = gradients(learner)
    meta_backward(learner, tasks, compile="on")
    for own, one in zip(gradients(learner), once, strict=True):
        torch.testing.assert_close(own, 2 * one)


def test_a_parameter_that_is_shared_or_unused_adds_up_once() -> None:
    torch.manual_seed(0)
    body = nn.Linear(8, 8)
    net = nn.Sequential(body, nn.ReLU(), body, nn.Linear(8, WAY))
    learner = maml(net, way=WAY, inner_lr=0.1)
    learner.unused = nn.Parameter(torch.ones(2))
    learner.unused.grad = torch.full((2,), 3.0)
    meta_backward(learner, blobs(2))
    once = gradients(learner)
    meta_backward(learner, blobs(2))
    for own, one in zip(gradients(learner), once, strict=True):
        torch.testing.assert_close(own, one if one.shape == (2,) else 2 * one)


@pytest.mark.parametrize("chunk", [1, 5])
def test_after_an_error_the_gradients_are_those_of_before(chunk: int) -> None:
    torch.manual_seed(0)
    learner, tasks = maml(mlp((8,), out=WAY), way=WAY, inner_lr=0.1), blobs(5)
    meta_backward(learner, tasks)
    kept = [p.grad for p in learner.parameters()]
    before = gradients(learner)
    bad = blobs(5)
    bad.query.x[3, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="loss of task 3"):
        meta_backward(learner, bad, chunk=chunk)

    def stop(module: nn.Module, args: object) -> None:
        raise KeyboardInterrupt

    with learner.net[-1].register_forward_pre_hook(stop), pytest.raises(KeyboardInterrupt):
        meta_backward(learner, tasks, chunk=chunk)
    for p, own, value in zip(learner.parameters(), kept, before, strict=True):
        assert p.grad is own and torch.equal(own, value)


def test_plans_of_several_threads_do_not_mix() -> None:
    """Each thread trains a learner of its own; the gradients are those of one after another."""

    def train(seed: int) -> list[Tensor]:
        learner = maml(nets[seed], way=WAY, inner_lr=0.1)
        for _ in range(3):
            learner.zero_grad()
            meta_backward(learner, blobs(3, seed))
        return gradients(learner)

    torch.manual_seed(0)
    nets = [mlp((8,), out=WAY) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(train, range(4)))
    for seed, grads in enumerate(found):
        for own, alone in zip(grads, train(seed), strict=True):
            torch.testing.assert_close(own, alone)


def test_one_task_without_a_task_axis_is_refused() -> None:
    """Its examples would be taken for tasks of one example each."""
    one = Examples(torch.randn(5, 8), torch.arange(5))
    with pytest.raises(UpstairsError, match=r"leading task axis, and its mask has shape \(5,\)"):
        meta_backward(maml(nn.Linear(8, 5), way=5), Task(one, one))
    with pytest.raises(UpstairsError, match="`steps` is -1: it takes 0 or more"):
        maml(nn.Linear(8, 5), way=5, steps=-1)
