# ruff: noqa: T201
"""The article's example 4.2, a sum, and the system it stands for: a network that is conditioned on the task.

The example is f(x) = g(theta, x) = theta + x. That is a shift: a layer's bias, the same for whatever x. Nothing is
transferred, since nothing was learned before. `system()` has the same shape, f(x) = g(c, x), where c is a small vector
found for each task and g is a network, learned over many tasks, whose features c scales and *shifts* (CAVIA with FiLM
layers): the sum is there, once for each layer.
"""

import numpy as np
import torch
from sinusoids import error, meta_train, unseen

from upstairs.learners import cavia, modulated
from upstairs.nets import mlp


def article() -> np.ndarray:
    """theta + x."""
    theta, x = np.array([1.0, 2.0, 3.0]), 0.5
    return theta + x


def system(meta_steps: int = 1000) -> tuple[float, float]:
    """Squared error on 200 sinusoids never met: with the context at zero, and with that of the task's 5 points."""
    torch.manual_seed(0)
    learner = cavia(modulated(mlp((1,), out=1), size=8), inner_lr=0.1, steps=2)
    meta_train(learner, meta_steps)
    query = unseen().query
    unconditioned = (learner.net(query.x.flatten(0, 1)) - query.y.flatten(0, 1)).square().mean().item()
    return unconditioned, error(learner)


if __name__ == "__main__":
    print("the article's sum:", article())
    print("squared error without and with the task's context: {:.2f}, {:.2f}".format(*system()))
