"""Modules that do not adapt run once in an inner loop, and nothing else changes."""

import pytest
import torch
from torch import Tensor, nn

from helpers.tasks import WAY, blobs, double
from upstairs.core import Task
from upstairs.engine.meta_backward import meta_backward
from upstairs.engine.plan import plan
from upstairs.functional.call import Params, functional_call
from upstairs.functional.differentiate import EXACT, Exact, FirstOrder
from upstairs.learners import SGD, GradientLearner


class Body(nn.Module):
    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.linear, self.noise, self.calls = nn.Linear(8, 6), noise, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        z = 2 * torch.tanh(self.linear(x))
        return z + self.noise * torch.randn(6) if self.noise else z


class Net(nn.Module):
    """Its forward adds to what the body gave, in place where asked: then it may not be used again."""

    def __init__(self, *, noise: float = 0.0, in_place: bool = False) -> None:
        super().__init__()
        self.body, self.head, self.in_place = Body(noise), nn.Linear(6, WAY), in_place

    def forward(self, x: Tensor) -> Tensor:
        z = self.body(x)
        z = z.add_(1) if self.in_place else z + 1
        return self.head(z)


def anil_net(net: nn.Module, how: Exact | FirstOrder = EXACT) -> GradientLearner:

    def adapts(name: str) -> bool:
        return name.startswith("head")

    return GradientLearner(net, SGD(0.3), way=WAY, steps=4, fast=adapts, differentiate=how)


def loop(net: Net, tasks: Task, *, first_order: bool) -> list[Tensor]:
    """The gradient by hand: the body is called anew in every step."""
    parameters = list(net.parameters())
    total = [torch.zeros_like(p) for p in parameters]
    for i in range(len(tasks.query.mask)):
        w, b = net.head.weight, net.head.bias
        for _ in range(4):
            z = 2 * torch.tanh(net.body.linear(tasks.support.x[i])) + 1
            loss = nn.functional.cross_entropy(z @ w.T + b, tasks.support.y[i])
            gw, gb = torch.autograd.grad(loss, (w, b), create_graph=not first_order)
            w, b = w - 0.3 * gw, b - 0.3 * gb
        z = 2 * torch.tanh(net.body.linear(tasks.query.x[i])) + 1
        loss = nn.functional.cross_entropy(z @ w.T + b, tasks.query.y[i])
        for t, g in zip(total, torch.autograd.grad(loss, parameters), strict=True):
            t += g / len(tasks.query.mask)
    return total


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_same_gradients_as_calling_each_time(count: int, first_order: bool, in_place: bool) -> None:
    torch.manual_seed(0)
    net, tasks = Net(in_place=in_place).double(), double(blobs(count))
    how = FirstOrder() if first_order else Exact()
    meta_backward(anil_net(net, how), tasks, chunk=count, recompute=False)
    for p, g in zip(net.parameters(), loop(net, tasks, first_order=first_order), strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-10, atol=1e-12)


def test_the_body_runs_once_for_the_support_set_and_once_for_the_queries() -> None:
    net = Net()
    learner = anil_net(net)
    tasks = blobs(3)
    meta_backward(learner, tasks, chunk=3, recompute=False)
    net.body.calls = 0
    meta_backward(learner, tasks, chunk=3, recompute=False)
    assert net.body.calls == 2


def test_a_random_body_runs_each_time() -> None:
    net = Net(noise=0.1)
    learner = anil_net(net)
    meta_backward(learner, blobs(3), chunk=3, recompute=False)
    net.body.calls = 0
    meta_backward(learner, blobs(3), chunk=3, recompute=False)
    assert net.body.calls == 5


def test_nothing_is_remembered_where_all_adapts() -> None:
    net = Net()
    learner = GradientLearner(net, SGD(0.3), way=WAY, steps=4)
    meta_backward(learner, blobs(3), chunk=3, recompute=False)
    net.body.calls = 0
    meta_backward(learner, blobs(3), chunk=3, recompute=False)
    assert net.body.calls == 5
    assert "forward" not in vars(net.body)


def test_a_plan_runs_nothing() -> None:
    """On tensors without storage the body is remembered too, so that no task is run for an estimate."""
    net = Net()
    seen = []
    inside = net.body.linear  # hooks of the body itself are called each time
    inside.register_forward_pre_hook(lambda _, args: seen.append(type(getattr(args[0], "_raw", args[0])).__name__))
    plan(anil_net(net), blobs(2))
    assert seen == ["FakeTensor"] * 2
    assert net.body.calls == 0  # and the plan leaves no trace


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Flatten(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, WAY))
    return nn.Sequential(*layers).double()


class Renamed(nn.Sequential):
    """Has a class of its own, so that its modules are called one by one."""


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("how", [Exact(), FirstOrder()])
def test_a_chain_of_layers_is_what_its_modules_give(count: int, how: Exact | FirstOrder) -> None:
    tasks = double(blobs(count))
    found = []
    for kind in (nn.Sequential, Renamed):
        net = kind(*chain())
        step = meta_backward(GradientLearner(net, SGD(0.3), way=WAY, steps=3, differentiate=how), tasks)
        found.append([step.losses, *(p.grad for p in net.parameters())])
    for a, b in zip(*found, strict=True):  # one task of the latter is stacked
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_a_chain_calls_its_modules_where_somebody_listens() -> None:
    net, x = chain(), torch.randn(4, 8).double()
    params = {"1.bias": torch.ones(6).double()}
    plain = functional_call(net, params, x)
    seen: list[str] = []
    handle = net[1].register_forward_hook(lambda *_: seen.append("one"))
    torch.testing.assert_close(functional_call(net, params, x), plain)
    handle.remove()
    handle = nn.modules.module.register_module_forward_hook(lambda *_: seen.append("all"))
    functional_call(net, params, x)
    handle.remove()
    assert seen == ["one"] + ["all"] * 7
    net[2].forward = lambda z: z * 0
    torch.testing.assert_close(functional_call(net, params, x), functional_call(net, params, x * 2))


def test_a_step_scales_the_loss_as_it_would_the_gradient() -> None:
    """SGD's own way against a rule of the same formula, that takes the gradient itself."""

    class Plain:
        def init(self, params: Params) -> tuple[()]:
            return ()

        def update(self, grads: Params, state: tuple[()], params: Params) -> tuple[Params, tuple[()]]:
            return {n: -0.3 * g for n, g in grads.items()}, state

    tasks = double(blobs(3))
    found = []
    for rule in (SGD(0.3), Plain()):
        net = Renamed(*chain())
        meta_backward(GradientLearner(net, rule, way=WAY, steps=3), tasks)
        found.append([p.grad for p in net.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
