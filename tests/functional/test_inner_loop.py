"""Inner loops: implicit differentiation against a closed form, recomputation against unrolling, in less memory."""

import inspect
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.tasks import WAY, blobs, double, sinusoids
from upstairs.core import squared_error
from upstairs.engine.meta_backward import meta_backward
from upstairs.engine.plan import Tracker, estimate
from upstairs.errors import UpstairsError
from upstairs.functional.call import functional_call
from upstairs.functional.differentiate import Exact, FirstOrder, Implicit, at_step, executing, inner_step
from upstairs.functional.inner_loop import inner_loop
from upstairs.functional.rules import Adam, AdamW, RMSprop, StepRates, UpdateRule
from upstairs.learners import SGD, GradientLearner, fomaml, maml
from upstairs.nets import conv4, mlp


def ridge_gradient(net: nn.Linear, tasks, strength: float) -> Tensor:
    """The meta-gradient through phi* = argmin of mean squared error + strength / 2 |phi - theta|^2, solved directly."""
    theta = torch.cat([net.weight.flatten(), net.bias]).detach().requires_grad_()
    losses = []
    for i in range(len(tasks.query.y)):
        x, y = tasks.support.x[i], tasks.support.y[i][:, 0]
        z = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
        phi = torch.linalg.solve(
            2 * z.T @ z / len(z) + strength * torch.eye(z.shape[1], dtype=x.dtype),
            2 * z.T @ y / len(z) + strength * theta,
        )
        q = torch.cat([tasks.query.x[i], torch.ones(len(tasks.query.x[i]), 1, dtype=x.dtype)], 1)
        losses.append((q @ phi - tasks.query.y[i][:, 0]).square().mean())
    return torch.autograd.grad(torch.stack(losses).mean(), theta)[0]


@pytest.mark.parametrize("count", [1, 4])
def test_implicit_equals_the_closed_form(count: int) -> None:
    torch.manual_seed(0)
    net, tasks = nn.Linear(1, 1).double(), double(sinusoids(count))
    expected = ridge_gradient(net, tasks, 2.0)
    learner = GradientLearner(
        net, SGD(0.05), way=None, steps=200, loss_fn=squared_error, differentiate=Implicit(strength=2.0, iterations=2)
    )
    meta_backward(learner, tasks)
    found = torch.cat([net.weight.grad.flatten(), net.bias.grad])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    learner.zero_grad()
    meta_backward(learner, tasks, differentiate=FirstOrder())
    assert (torch.cat([net.weight.grad.flatten(), net.bias.grad]) - expected).abs().max() > 0.01


class LearnedMomentum(nn.Module):
    """A rule with a state and with meta-parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.lr, self.decay = nn.Parameter(torch.tensor(0.05)), nn.Parameter(torch.tensor(0.5))

    def init(self, params):
        return {n: torch.zeros_like(p) for n, p in params.items()}

    def update(self, grads, state, params):
        state = {n: self.decay * state[n] + g for n, g in grads.items()}
        return {n: -self.lr * s for n, s in state.items()}, state


@pytest.mark.parametrize("fast", [None, lambda name: name.startswith("head")], ids=["all", "head"])
@pytest.mark.parametrize("rule", [SGD(0.1), LearnedMomentum()], ids=["sgd", "learned"])
def test_recomputed_equals_unrolled_with_shared_layers_and_learned_rules(rule: UpdateRule, fast) -> None:
    torch.manual_seed(0)
    net = conv4((1, 16, 16), width=4, norm="batch", out=WAY).double()
    tasks = double(blobs(3, shape=(1, 16, 16)))
    grads = []
    for recompute in (False, True):
        learner = GradientLearner(net, rule, way=WAY, steps=4, fast=fast).double()
        learner.zero_grad()
        meta_backward(learner, tasks, recompute=recompute)
        grads.append([p.grad.clone() for p in learner.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
    assert all(g.abs().sum() > 0 for g in grads[0])


def test_recomputation_draws_the_same_dropout() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.Tanh(), nn.Linear(16, WAY)).double()
    learner, tasks, grads = maml(net, way=WAY, inner_lr=0.2, steps=3), double(blobs(2)), []
    for recompute in (False, True):
        torch.manual_seed(1)
        learner.zero_grad()
        meta_backward(learner, tasks, chunk=2, recompute=recompute)
        grads.append(net[0].weight.grad.clone())
    assert grads[1].abs().sum() > 0
    torch.testing.assert_close(*grads)


def test_memory_grows_by_the_parameters_a_step_where_recomputed() -> None:
    net = conv4((1, 28, 28), width=16, norm="batch", out=WAY)
    size = 4 * sum(p.numel() for p in net.parameters())
    tasks = blobs(1, shot=1, query=1, shape=(1, 28, 28))
    peak = {k: estimate(maml(net, way=WAY, steps=k), tasks, recompute=True).peak for k in (4, 14)}
    assert (peak[14] - peak[4]) / 10 <= 1.2 * size
    unrolled = {k: estimate(maml(net, way=WAY, steps=k), tasks).peak for k in (4, 14)}
    assert (unrolled[14] - unrolled[4]) / 10 > 5 * size


def test_memory_of_a_first_order_loop_does_not_grow() -> None:
    net = conv4((1, 28, 28), width=16, norm="batch", out=WAY)
    tasks = blobs(1, shot=1, query=1, shape=(1, 28, 28))
    peak = {k: estimate(fomaml(net, way=WAY, steps=k), tasks).peak for k in (4, 24)}
    assert peak[24] == peak[4]


def test_how_to_differentiate_can_be_chosen_apart_from_the_learner() -> None:
    torch.manual_seed(0)
    tasks = double(blobs(2))
    net = mlp((8,), out=WAY).double()
    grads = {}
    for how in (Exact(), FirstOrder(), None):
        net.zero_grad()
        meta_backward(maml(net, way=WAY, inner_lr=0.3, steps=2), tasks, differentiate=how)
        grads[how] = net[1].weight.grad.clone()
    assert torch.equal(grads[Exact()], grads[None])
    assert (grads[Exact()] - grads[FirstOrder()]).abs().max() > 1e-4


def test_the_running_step_is_told() -> None:
    seen = []

    class Net(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(inner_step())
            return super().forward(x)

    with executing():
        maml(Net(8, WAY), way=WAY, steps=3)(blobs(2))
    assert seen == [0, 1, 2, 3]


def own_loop(rule: Any, **options: Any) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
    """An inner loop in somebody's own code: the query loss, its gradient in the network, and the last parameters."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    x, y = torch.randn(2, 7, 3, dtype=torch.float64), torch.randn(2, 7, 1, dtype=torch.float64)

    def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(functional_call(net, params, x), y)

    params = inner_loop(loss, dict(net.named_parameters()), x[0], y[0], rule=rule, steps=4, **options)
    value = loss(params, x[1], y[1])
    value.backward()
    return value.detach(), [p.grad for p in net.parameters()], params


RULES = {
    "momentum": (SGD(0.1, momentum=0.9, nesterov=True), lambda ps: torch.optim.SGD(ps, 0.1, 0.9, nesterov=True)),
    "adam": (Adam(0.05), lambda ps: torch.optim.Adam(ps, 0.05)),
    "adamw": (AdamW(0.05, decay=0.5), lambda ps: torch.optim.AdamW(ps, 0.05, weight_decay=0.5)),
    "rmsprop": (RMSprop(0.02), lambda ps: torch.optim.RMSprop(ps, 0.02)),
}


@pytest.mark.parametrize("name", RULES)
def test_a_loop_of_ones_own_takes_torchs_steps_and_may_be_recomputed(name: str) -> None:
    rule, optimizer = RULES[name]
    value, grads, params = own_loop(rule)
    again, recomputed, _ = own_loop(rule, recompute=True)
    torch.testing.assert_close(again, value)
    for a, b in zip(recomputed, grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    x, y = torch.randn(2, 7, 3, dtype=torch.float64), torch.randn(2, 7, 1, dtype=torch.float64)
    ordinary = optimizer(net.parameters())
    for _ in range(4):
        ordinary.zero_grad()
        F.mse_loss(net(x[0]), y[0]).backward()
        ordinary.step()
    for own, theirs in zip(params.values(), net.parameters(), strict=True):
        torch.testing.assert_close(own.detach(), theirs.detach(), rtol=1e-6, atol=1e-9)


def test_the_gradient_of_a_loop_of_ones_own_reaches_a_learned_rate_and_can_be_first_order() -> None:
    rate = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    _, exact, _ = own_loop(SGD(rate))
    ends = [own_loop(SGD(0.1 + e))[0] for e in (1e-6, -1e-6)]
    torch.testing.assert_close(rate.grad, (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-8)
    _, first_order, _ = own_loop(SGD(0.1), differentiate=FirstOrder())
    assert (exact[0] - first_order[0]).abs().max() > 1e-3


def test_a_recomputed_loop_of_ones_own_takes_the_memory_of_a_step() -> None:
    peaks = []
    for recompute in (False, True):
        w = {"w": torch.ones(10, dtype=torch.float64, requires_grad=True)}
        x = torch.randn(2000, 10, dtype=torch.float64)
        with Tracker() as tracker:
            end = inner_loop(lambda p, x: (x @ p["w"]).cos().mean(), w, x, rule=SGD(0.1), steps=40, recompute=recompute)
            end["w"].sum().backward()
        peaks.append(tracker.peak)
    assert peaks[1] < peaks[0] / 5


@pytest.mark.parametrize("rule", [SGD(0.1, momentum=0.9), Adam(0.05), AdamW(0.05), RMSprop(0.05)], ids=repr)
def test_a_rule_with_a_state_serves_all_tasks_at_once(rule: Any) -> None:
    torch.manual_seed(0)
    net, tasks = mlp((8,), out=WAY).double(), double(blobs(3))
    grads = []
    for chunk, recompute in ((3, False), (3, True), (1, False)):
        net.zero_grad()
        meta_backward(GradientLearner(net, rule, way=WAY, steps=3), tasks, chunk=chunk, recompute=recompute)
        grads.append([p.grad.clone() for p in net.parameters()])
    for name, a, b, c in zip(dict(net.named_parameters()), *grads, strict=True):
        assert a.abs().sum() > 0, name
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(a, c, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": nn.Linear(2, 1)}, "`start` is a Linear and an inner loop needs parameters by name"),
        ({"start": {}}, "`start` is empty"),
        ({"rule": torch.optim.SGD}, "`rule` is .* which has no `init` and `update`: give an update rule"),
        ({"steps": -1}, "`steps` is -1: give 0 or more"),
        ({"loss": lambda p: p["w"]}, "an inner loss must be one number for a task"),
    ],
)
def test_what_an_inner_loop_cannot_use_is_named(change: dict[str, Any], message: str) -> None:
    given = {"loss": lambda p: p["w"].sum(), "start": {"w": torch.ones(2)}, "rule": SGD(0.1), "steps": 1} | change
    plain = inspect.unwrap(inner_loop)  # without the check of types that tests add
    with pytest.raises(UpstairsError, match=message):
        plain(given.pop("loss"), given.pop("start"), **given)


def test_what_runs_in_one_thread_is_not_seen_in_another() -> None:
    with ThreadPoolExecutor(1) as other, at_step(3):
        assert (inner_step(), other.submit(inner_step).result()) == (3, 0)
        with executing(differentiate=FirstOrder()):
            exact = other.submit(own_loop, SGD(0.1)).result()[1]
            first_order = own_loop(SGD(0.1))[1]
    assert (exact[0] - first_order[0]).abs().max() > 1e-3


def test_a_recomputed_loop_may_be_walked_back_in_another_thread() -> None:
    """As torch does on a GPU; the number of the step, which chooses the rates, is then known there too."""
    torch.manual_seed(0)
    weights, x = torch.randn(3, dtype=torch.float64), torch.randn(9, 3, dtype=torch.float64)
    found = []
    with ThreadPoolExecutor(1) as other:
        for run in (lambda function: function(), lambda function: other.submit(function).result()):
            rule = StepRates({"w": weights}, 0.1, steps=3)
            end = inner_loop(
                lambda p, x: (x @ p["w"]).cos().mean(), {"w": weights}, x, rule=rule, steps=3, recompute=True
            )
            run(end["w"].sum().backward)
            found.append(rule.rates.grad)
    assert (found[0].diff().abs() > 1e-6).all(), "each step has a gradient of its own"
    torch.testing.assert_close(found[1], found[0])
