"""Learned inner optimisers: their meta-gradients against a plain loop, the curvature by a Kronecker product in full."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.tasks import WAY, blobs, double
from upstairs.core import Task
from upstairs.engine.meta_backward import meta_backward
from upstairs.errors import UpstairsError
from upstairs.functional.rules import SGD, Clipped
from upstairs.learners import GradientLearner, StepRates, maml_pp, meta_curvature, meta_sgd
from upstairs.learners.gradient.maml import adapting

SHAPE = (1, 6, 6)


def network() -> nn.Sequential:
    """A gradient with three axes, one with two, and vectors."""
    conv, head = nn.Conv2d(1, 3, 3, stride=2), nn.Linear(12, WAY)
    return nn.Sequential(conv, nn.Tanh(), nn.Flatten(), head).double()


def answer(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """The same network by its formula."""
    z = F.conv2d(x, weights["0.weight"], weights["0.bias"], stride=2).tanh()
    return z.reshape(len(x), -1) @ weights["3.weight"].T + weights["3.bias"]


def loop(theta: dict[str, Tensor], tasks: Task, update, steps: int) -> Tensor:
    """The mean query loss after `steps` of phi <- phi - update(step, name, gradient): one task after another."""
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(tasks.query.y)):
        phi = dict(theta)
        for k in range(steps):
            loss = F.cross_entropy(answer(phi, tasks.support.x[i]), tasks.support.y[i])
            grads = torch.autograd.grad(loss, list(phi.values()), create_graph=True)
            phi = {n: p - update(k, n, g) for (n, p), g in zip(phi.items(), grads, strict=True)}
        total = total + F.cross_entropy(answer(phi, tasks.query.x[i]), tasks.query.y[i])
    return total / len(tasks.query.y)


def scatter(rule: nn.Module) -> list[Tensor]:
    """Meta-parameters away from where they start, where an error could hide."""
    with torch.no_grad():
        for p in rule.parameters():
            p += 0.1 * torch.randn_like(p)
    return [p.detach().clone().requires_grad_() for p in rule.parameters()]


def compare(learner: GradientLearner, values: list[Tensor], update, steps: int) -> None:
    """The learner's gradient of net and rule, unrolled and recomputed, with that of the loop."""
    tasks = double(blobs(3, shape=SHAPE))
    theta = {n: p.detach().clone().requires_grad_() for n, p in learner.net.named_parameters()}
    loss = loop(theta, tasks, update, steps)
    expected = torch.autograd.grad(loss, [*theta.values(), *values])
    assert all(g.abs().max() > 1e-4 for g in expected)
    for recompute in (False, True):
        learner.zero_grad()
        step = meta_backward(learner, tasks, recompute=recompute)
        torch.testing.assert_close(step.losses.mean(), loss.detach(), rtol=1e-12, atol=1e-12)
        for p, g in zip(learner.parameters(), expected, strict=True):
            torch.testing.assert_close(p.grad, g, rtol=1e-9, atol=1e-12)


def test_meta_sgd_equals_a_loop() -> None:
    torch.manual_seed(0)
    learner = meta_sgd(network(), way=WAY, inner_lr=0.3, steps=2)
    values = scatter(learner.rule)
    rates = dict(zip(("0.weight", "0.bias", "3.weight", "3.bias"), values, strict=True))
    compare(learner, values, lambda k, n, g: rates[n] * g, steps=2)


def test_rates_of_each_step_equal_a_loop() -> None:
    torch.manual_seed(0)
    learner = maml_pp(network(), way=WAY, inner_lr=0.3, steps=3)
    values = scatter(learner.rule)
    row = {"0.weight": 0, "0.bias": 1, "3.weight": 2, "3.bias": 3}
    compare(learner, values, lambda k, n, g: values[0][row[n], k] * g, steps=3)


def test_steps_beyond_those_learned_take_the_last_rates() -> None:
    torch.manual_seed(0)
    net = network()
    rule = StepRates(adapting(net), 0.3, steps=2)
    values = scatter(rule)
    row = {"0.weight": 0, "0.bias": 1, "3.weight": 2, "3.bias": 3}
    learner = GradientLearner(net, rule, way=WAY, steps=4)
    compare(learner, values, lambda k, n, g: values[0][row[n], min(k, 1)] * g, steps=4)


def test_meta_curvature_is_the_kronecker_product_of_its_factors() -> None:
    torch.manual_seed(0)
    learner = meta_curvature(network(), way=WAY, inner_lr=0.3, steps=2)
    assert [tuple(p.shape) for p in learner.rule.parameters()] == [
        (3, 3),
        (1, 1),
        (9, 9),
        (3, 3),
        (5, 5),
        (12, 12),
        (5, 5),
    ]
    values = scatter(learner.rule)
    one, two, nine, bias, out, into, last = values
    factors = {"0.weight": (one, two, nine), "0.bias": (bias,), "3.weight": (out, into), "3.bias": (last,)}

    def update(k: int, name: str, g: Tensor) -> Tensor:
        whole = torch.ones(1, 1, dtype=torch.float64)
        for factor in factors[name]:
            whole = torch.kron(whole, factor)
        return 0.3 * (whole @ g.flatten()).reshape(g.shape)

    compare(learner, values, update, steps=2)


@pytest.mark.parametrize("make", [meta_sgd, meta_curvature, maml_pp])
def test_frozen_parameters_have_no_rates(make) -> None:
    net = network()
    net[0].requires_grad_(False)
    learner = make(net, way=WAY, inner_lr=0.3, steps=2)
    meta_backward(learner, double(blobs(2, shape=SHAPE)))
    assert all(p.grad is not None for p in learner.rule.parameters())
    assert net[0].weight.grad is None


@pytest.mark.parametrize("norm", [0.3, 100.0])
def test_clipped_gradients_are_those_of_torch(norm: float) -> None:
    """Three inner steps of each task, with torch's own clipping and descent."""
    torch.manual_seed(0)
    net, tasks = network(), double(blobs(3, shape=SHAPE))
    learner = GradientLearner(net, Clipped(SGD(0.4, momentum=0.9), norm), way=WAY, steps=3)
    found = learner.solve(tasks)
    for i in range(3):
        other = copy.deepcopy(net)
        optimizer = torch.optim.SGD(other.parameters(), lr=0.4, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(other(tasks.support.x[i]), tasks.support.y[i]).backward()
            length = nn.utils.clip_grad_norm_(other.parameters(), norm)
            optimizer.step()
        assert (length > norm) == (norm < 1)
        torch.testing.assert_close(found[i], other(tasks.query.x[i]))


def test_clipping_has_an_exact_meta_gradient() -> None:
    torch.manual_seed(0)
    net, tasks = network(), double(blobs(2, shape=SHAPE))
    meta_backward(learner := GradientLearner(net, Clipped(SGD(0.4), 0.3), way=WAY, steps=2), tasks)
    p, eps = net[0].weight, 1e-5
    with torch.no_grad():
        p.view(-1)[4] += eps
        above = learner(tasks)[0].mean()
        p.view(-1)[4] -= 2 * eps
        below = learner(tasks)[0].mean()
    torch.testing.assert_close(p.grad.view(-1)[4], (above - below) / (2 * eps), rtol=1e-5, atol=1e-9)
    with pytest.raises(UpstairsError, match=r"`norm` is 0"):
        Clipped(SGD(0.4), 0)


def test_rates_by_name_of_a_layer_or_a_parameter() -> None:
    torch.manual_seed(0)
    net, tasks = network(), double(blobs(2, shape=SHAPE))
    each = {"0.weight": 0.01, "0.bias": 0.01, "3.weight": 0.5, "3.bias": 0.2}
    short = {"0": 0.01, "3": 0.5, "3.bias": 0.2}
    found = GradientLearner(net, SGD(short), way=WAY, steps=2).solve(tasks)
    torch.testing.assert_close(found, GradientLearner(net, SGD(each), way=WAY, steps=2).solve(tasks))
    with pytest.raises(UpstairsError, match=r"none for the parameter '3.weight': add it"):
        GradientLearner(net, SGD({"0": 0.01, "3.bias": 0.1}), way=WAY).solve(tasks)


def test_a_rule_with_other_arguments_is_named() -> None:
    class Old:
        def init(self, params):
            return ()

        def update(self, grads, state):
            return grads, state

    with pytest.raises(UpstairsError, match=r"`update` of Old .*update\(grads, state, params\)"):
        GradientLearner(network(), Old(), way=WAY)
