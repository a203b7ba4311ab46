"""MAML++: the annealed objective against a plain loop, and training that goes on to the same bits."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.tasks import WAY, blobs, double
from upstairs.core import Task
from upstairs.engine.meta_backward import meta_backward
from upstairs.learners import maml_pp


def loop(net: nn.Linear, rates: Tensor, tasks: Task, weights: list[float], first_order: bool) -> Tensor:
    """Sum over steps of the query losses, weighed: softmax regression, its gradient by its formula."""
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(tasks.query.y)):
        w, b = net.weight, net.bias
        x, y = tasks.support.x[i], F.one_hot(tasks.support.y[i], WAY).double()
        for k, weight in enumerate(weights):
            error = ((x @ w.T + b).softmax(-1) - y) / len(x)
            if first_order:
                error = error.detach()
            w, b = w - rates[0, k] * (error.T @ x), b - rates[1, k] * error.sum(0)
            log = (tasks.query.x[i] @ w.T + b).log_softmax(-1)
            total = total - weight * log.gather(1, tasks.query.y[i][:, None]).mean()
    return total / len(tasks.query.y)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    ("progress", "weights", "first_order"),
    [
        (0.0, [1 / 3, 1 / 3, 1 / 3], True),
        (0.1, [1 / 6, 1 / 6, 2 / 3], False),  # half of `until`
        (0.2, [0, 0, 1], False),
        (1.0, [0, 0, 1], False),
    ],
)
def test_the_objective_at_each_time(progress: float, weights: list[float], first_order: bool, recompute: bool) -> None:
    torch.manual_seed(0)
    tasks = double(blobs(3))
    learner = maml_pp(nn.Linear(8, WAY), way=WAY, inner_lr=0.2, steps=3, until=0.2, exact_from=0.05).double()
    with torch.no_grad():
        learner.rule.rates += 0.05 * torch.randn_like(learner.rule.rates)
    learner.at(progress)
    step = meta_backward(learner, tasks, recompute=recompute)
    rates = learner.rule.rates.detach().clone().requires_grad_()
    loss = loop(learner.net, rates, tasks, weights, first_order)
    expected = torch.autograd.grad(loss, [learner.net.weight, learner.net.bias, rates])
    torch.testing.assert_close(step.losses.mean(), loss.detach(), rtol=1e-12, atol=1e-12)
    for p, g in zip(learner.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-10, atol=1e-13)


def test_never_told_it_is_as_at_the_end() -> None:
    torch.manual_seed(0)
    learner, tasks = maml_pp(nn.Linear(8, WAY), way=WAY), blobs(2)
    before = learner(tasks)[0]
    learner.at(0.0)
    assert not torch.equal(learner(tasks)[0], before)
    learner.at(1.0)
    assert torch.equal(learner(tasks)[0], before)
    assert "progress" not in learner.state_dict()


def test_predictions_do_not_depend_on_the_time() -> None:
    torch.manual_seed(0)
    learner, tasks = maml_pp(nn.Linear(8, WAY), way=WAY), blobs(2)
    late = learner.solve(tasks)
    learner.at(0.0)
    torch.testing.assert_close(learner.solve(tasks), late)
    torch.testing.assert_close(learner(tasks)[1], late)
