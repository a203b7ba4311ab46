"""Heads that each task makes: without a step ProtoNet, else as an independent loop; and Unicorn's vector cancels."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from helpers.tasks import WAY, blobs, double
from upstairs.core import Task
from upstairs.engine.meta_backward import meta_backward
from upstairs.functional.differentiate import EXACT, Differentiation, Exact, FirstOrder
from upstairs.learners import SGD, HeadPerTask, ProtoNet, proto_maml, unicorn_maml
from upstairs.tree import index


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4)).double()


def loop_gradient(
    net: nn.Module, tasks: Task, *, lr: float, steps: int, scale: float, how: Differentiation = EXACT
) -> dict[str, Tensor]:
    """ProtoMAML as a reader of the paper would write it: torch.autograd, one task after another."""
    theta = dict(net.named_parameters())
    total = {name: torch.zeros_like(p) for name, p in theta.items()}
    for i in range(len(tasks.query.y)):
        z = functional_call(net, theta, (tasks.support.x[i],))
        means = torch.stack([z[tasks.support.y[i] == k].mean(0) for k in range(WAY)])
        phi = {n: p.clone() for n, p in theta.items()}
        phi |= {"w": 2 * scale * means, "b": -scale * (means**2).sum(1)}
        for _ in range(steps):
            own = {n: p for n, p in phi.items() if n in theta}
            logits = functional_call(net, own, (tasks.support.x[i],)) @ phi["w"].T + phi["b"]
            loss = F.cross_entropy(logits, tasks.support.y[i])
            grads = torch.autograd.grad(
                loss, list(phi.values()), create_graph=isinstance(how, Exact), retain_graph=True
            )
            phi = {n: p - lr * g for (n, p), g in zip(phi.items(), grads, strict=True)}
        own = {n: p for n, p in phi.items() if n in theta}
        logits = functional_call(net, own, (tasks.query.x[i],)) @ phi["w"].T + phi["b"]
        loss = F.cross_entropy(logits, tasks.query.y[i]) / len(tasks.query.y)
        for name, grad in zip(theta, torch.autograd.grad(loss, list(theta.values())), strict=True):
            total[name] += grad
    return total


def test_without_a_step_proto_maml_is_protonet() -> None:
    net, task = encoder(), index(double(blobs(1, shot=3)), 0)
    own, other = proto_maml(net, way=WAY, steps=0, scale=0.3), ProtoNet(net, way=WAY, scale=0.3)
    prediction, expected = (m.predict(m.adapt(task.support), task.query.x).softmax(-1) for m in (own, other))
    torch.testing.assert_close(prediction, expected)
    moved = proto_maml(net, way=WAY, steps=1, scale=0.3, inner_lr=0.5)
    assert (moved.predict(moved.adapt(task.support), task.query.x).softmax(-1) - expected).abs().max() > 0.01


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("how", [Exact(), FirstOrder()])
def test_proto_maml_equals_an_independent_loop(how: Differentiation, recompute: bool) -> None:
    net, tasks = encoder(), double(blobs(3, shot=2))
    learner = proto_maml(net, way=WAY, inner_lr=0.3, steps=3, scale=0.5, differentiate=how)
    meta_backward(learner, tasks, recompute=recompute)
    expected = loop_gradient(net, tasks, lr=0.3, steps=3, scale=0.5, how=how)
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-9, atol=1e-11)


def test_one_task_alone_takes_the_same_inner_gradient() -> None:
    """The head depends on the weights: where it shares their graph, an inner gradient could pass through it."""
    net, tasks = encoder(), double(blobs(1))
    learner = proto_maml(net, way=WAY, inner_lr=0.3, steps=2, scale=0.5)
    learner.meta_loss(index(tasks, 0))[0].backward()
    expected = loop_gradient(net, tasks, lr=0.3, steps=2, scale=0.5)
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-9, atol=1e-11)


def test_the_shared_vector_of_unicorn_maml_cancels() -> None:
    """Any w gives what zero gives, and a meta-gradient of zero: what it adds to each logit softmax does not see."""
    net, tasks = encoder(), double(blobs(3))
    vector = torch.randn(4, dtype=torch.float64, requires_grad=True)

    def shared(means):
        return vector.expand(WAY, -1), torch.zeros_like(means.mean[:, 0])

    zero = unicorn_maml(net, way=WAY, inner_lr=0.5, steps=3)
    other = HeadPerTask(net, SGD(0.5), way=WAY, make_head=shared, steps=3)
    losses, predictions = other(tasks)
    expected_losses, expected = zero(tasks)
    torch.testing.assert_close(predictions.softmax(-1), expected.softmax(-1))
    assert (expected.softmax(-1) - 1 / WAY).abs().max() > 0.05
    assert torch.autograd.grad(losses.sum(), vector, retain_graph=True)[0].abs().max() < 1e-12
    own, theirs = (torch.autograd.grad(v.sum(), list(net.parameters())) for v in (losses, expected_losses))
    for a, b in zip(own, theirs, strict=True):
        torch.testing.assert_close(a, b)
