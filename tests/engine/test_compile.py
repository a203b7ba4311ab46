"""Compiled steps equal eager ones, are few, and give way to eager ones with a reason."""

import shutil

import pytest
import torch
from torch import Tensor, nn

from helpers.tasks import WAY, blobs, sinusoids
from upstairs.core import squared_error
from upstairs.engine import compile as compiled
from upstairs.engine.compile import compile_report
from upstairs.engine.meta_backward import meta_backward
from upstairs.functional.differentiate import FirstOrder
from upstairs.learners import SGD, GradientLearner, maml
from upstairs.nets import conv4, mlp

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")


def regression() -> GradientLearner:
    torch.manual_seed(0)
    return GradientLearner(mlp((1,), out=1, widths=(8,)), SGD(0.01), way=None, steps=2, loss_fn=squared_error)


@needs_compiler
@pytest.mark.filterwarnings("ignore")
def test_equals_eager_and_compiles_once_for_each_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = compiled.Compiled.__init__
    monkeypatch.setattr(compiled.Compiled, "__init__", lambda self, *a: (made.append(a), original(self, *a))[1])
    learner = regression()
    for seed in range(5):
        tasks = sinusoids(4, seed)
        learner.zero_grad()
        eager = meta_backward(learner, tasks)
        expected = [p.grad.clone() for p in learner.parameters()]
        learner.zero_grad()
        fast = meta_backward(learner, tasks, compile="on")
        torch.testing.assert_close(fast.losses, eager.losses)
        for p, g in zip(learner.parameters(), expected, strict=True):
            torch.testing.assert_close(p.grad, g, rtol=1e-4, atol=1e-6)
        with torch.no_grad():  # other weights, the same program
            for p in learner.parameters():
                p.sub_(0.01 * p.grad)
    assert len(made) == 1
    assert compile_report(learner) == ["compiled (5 steps)"]


@needs_compiler
@pytest.mark.filterwarnings("ignore")
def test_one_task_compiles_too() -> None:
    """Its inner step p + alpha a b is what inductor takes for p + a b."""
    learner, tasks = regression(), sinusoids(1)
    eager = meta_backward(learner, tasks)
    learner.zero_grad()
    torch.testing.assert_close(meta_backward(learner, tasks, compile="on").losses, eager.losses)
    assert compile_report(learner) == ["compiled (1 steps)"]


def test_what_cannot_be_traced_runs_eagerly_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    class Reads(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (2.0 if x.sum().item() > 0 else 1.0)

    torch.manual_seed(0)
    learner = maml(Reads(8, WAY), way=WAY, inner_lr=0.1, steps=1)
    expected = meta_backward(learner, blobs(2)).losses
    learner.zero_grad()
    torch.testing.assert_close(meta_backward(learner, blobs(2), compile="on").losses, expected)
    assert "eager: " in compile_report(learner)[0]
    assert "runs eagerly" in caplog.text


def test_a_program_that_differs_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch._inductor, "compile", lambda graph, *_, **__: lambda *inputs: [2 * t for t in graph(*inputs)]
    )
    learner = regression()
    expected = meta_backward(learner, sinusoids(3)).losses
    learner.zero_grad()
    torch.testing.assert_close(meta_backward(learner, sinusoids(3), compile="on").losses, expected)
    assert "losses differ from the eager step's" in compile_report(learner)[0]


def test_many_shapes_do_not_make_a_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, *_, **__: graph)
    learner = regression()
    for n in range(4, 4 + compiled.MOST + 3):
        learner.zero_grad()
        meta_backward(learner, sinusoids(2, n=n), compile="on")
    report = compile_report(learner)
    assert sum(line.startswith("compiled") for line in report) == compiled.MOST
    assert sum("shapes are compiled already" in line for line in report) == 3


def test_auto_waits_and_leaves_large_tensors_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, *_, **__: graph)
    small = regression()
    for _ in range(compiled.PATIENCE):
        small.zero_grad()
        meta_backward(small, sinusoids(2), compile="auto")
    assert compile_report(small) == [f"eager so far ({compiled.PATIENCE} steps)"]
    small.zero_grad()
    meta_backward(small, sinusoids(2), compile="auto")
    assert compile_report(small)[0].startswith("compiled")
    monkeypatch.setattr(compiled, "PATIENCE", 0)
    large = maml(conv4((1, 28, 28), width=32, norm="batch", out=WAY), way=WAY, steps=1)
    meta_backward(large, blobs(1, shape=(1, 28, 28)), compile="auto")
    assert "would gain little" in compile_report(large)[0]


def test_a_program_is_not_used_for_another_rate_or_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, *_, **__: graph)
    learner, tasks = regression(), sinusoids(3)
    for change in (lambda: None, lambda: setattr(learner.rule, "lr", 0.03), lambda: setattr(learner, "steps", 1)):
        change()
        for how in (None, FirstOrder()):
            learner.zero_grad()
            meta_backward(learner, tasks, differentiate=how)
            expected = [p.grad.clone() for p in learner.parameters()]
            learner.zero_grad()
            meta_backward(learner, tasks, differentiate=how, compile="on")
            for p, g in zip(learner.parameters(), expected, strict=True):
                torch.testing.assert_close(p.grad, g, rtol=1e-4, atol=1e-6)
    assert all(line.startswith("compiled") for line in compile_report(learner))


def test_buffers_and_frozen_weights_are_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, *_, **__: graph)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, WAY))
    net[0].requires_grad_(False)
    learner = maml(net, way=WAY, inner_lr=0.1, steps=2)
    meta_backward(learner, blobs(2), compile="on")
    net[0].weight.data.mul_(3)
    learner.zero_grad()
    expected = meta_backward(learner, blobs(2)).losses
    learner.zero_grad()
    torch.testing.assert_close(meta_backward(learner, blobs(2), compile="on").losses, expected)
    assert compile_report(learner) == ["compiled (2 steps)"]


def test_running_statistics_are_not_lost_by_compiling() -> None:
    learner = maml(nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, WAY)), way=WAY, steps=1)
    meta_backward(learner, blobs(2), compile="on")
    assert "running statistics" in compile_report(learner)[0]
    assert learner.net[1].running_mean.abs().sum() > 0
