"""Gradient learners on sinusoids (Finn et al. 2017, section 5.1): a 40-40 network, 5 shots, one step."""

import pytest
import torch
from torch import nn

from helpers.tasks import sinusoids
from upstairs.core import squared_error
from upstairs.engine.meta_backward import meta_backward
from upstairs.learners import cavia, imaml, maml, maml_pp, meta_curvature, meta_sgd, reptile
from upstairs.learners.gradient.cavia import Concatenated
from upstairs.nets import mlp


def plain() -> nn.Module:
    return mlp((1,), out=1)


def with_context() -> nn.Module:
    return Concatenated(mlp((1 + 5,), out=1), 5)


@pytest.mark.parametrize(
    ("make", "net", "options", "share"),
    [
        (maml, plain, {"inner_lr": 0.01, "steps": 1}, 0.75),
        (meta_sgd, plain, {"inner_lr": 0.01, "steps": 1}, 0.55),
        (meta_curvature, plain, {"inner_lr": 0.01, "steps": 1}, 0.75),
        (maml_pp, plain, {"inner_lr": 0.01, "steps": 2}, 0.75),
        (imaml, plain, {"inner_lr": 0.01, "steps": 3, "strength": 0.5, "iterations": 2}, 0.8),
        (cavia, with_context, {"inner_lr": 0.5, "steps": 1}, 0.75),
        (reptile, plain, {"inner_lr": 0.01, "steps": 5, "batch": 3}, 0.8),
    ],
    ids=["maml", "meta_sgd", "meta_curvature", "maml_pp", "imaml", "cavia", "reptile"],
)
def test_learns_to_learn(make, net, options: dict, share: float) -> None:
    """Meta-training leaves at most `share` of the untrained start's error: a broken outer loop is seen."""
    torch.manual_seed(0)
    learner = make(net(), way=None, loss_fn=squared_error, **options)
    optimizer = torch.optim.Adam([p for p in learner.parameters() if p.requires_grad], lr=5e-3)

    def error() -> float:
        tasks = sinusoids(200, 9999, n=5)
        return (learner.solve(tasks) - tasks.query.y).square().mean().item()

    before = error()
    for seed in range(150):
        learner.at(seed / 150)
        learner.zero_grad()
        meta_backward(learner, sinusoids(25, seed, n=5))
        optimizer.step()
    assert error() < share * before
