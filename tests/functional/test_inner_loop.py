"""Inner loops: implicit differentiation against a closed form, recomputation against unrolling, in less memory."""

import pytest
import torch
from torch import Tensor, nn

from helpers.tasks import WAY, blobs, double, sinusoids
from upstairs.core import squared_error
from upstairs.engine.meta_backward import meta_backward
from upstairs.engine.plan import estimate
from upstairs.functional.differentiate import Exact, FirstOrder, Implicit, UpdateRule, executing, inner_step
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
        net, SGD(0.05), way=0, steps=200, loss_fn=squared_error, differentiate=Implicit(strength=2.0, iterations=2)
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

    def update(self, grads, state):
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
