# ruff: noqa: T201
"""The article's example 4.1, a gradient step, and the system it stands for: MAML.

The example steps along `np.gradient`, which is no gradient of a loss: it takes an array for the values of some function
on a grid and returns the slopes between neighbours, (L[i+1] - L[i-1]) / 2. How the loss changes with theta does not
come into it; no theta is better after this step than before. What the formula theta - alpha * grad L(theta) means is
in `system()`: L is a loss of theta, its gradient is exact, and the step that is learned *from* is inside the loss.
"""

import numpy as np
import torch
from sinusoids import error, meta_train

from upstairs.learners import maml
from upstairs.nets import mlp


def article() -> np.ndarray:
    """theta - alpha * np.gradient(L), with L on a grid of three points."""
    theta, alpha, loss = np.array([1.0, 2.0, 3.0]), 0.1, np.array([1.0, 2.0, 1.0])
    return theta - alpha * np.gradient(loss)


def system(meta_steps: int = 1000) -> tuple[float, float]:
    """Squared error on 200 sinusoids never met, one gradient step from 5 points: before meta-training, and after."""
    torch.manual_seed(0)
    learner = maml(mlp((1,), out=1), inner_lr=0.01, steps=1)
    before = error(learner)
    meta_train(learner, meta_steps)
    return before, error(learner)


if __name__ == "__main__":
    print("the article's step:", article())
    print("squared error before and after meta-training: {:.2f}, {:.2f}".format(*system()))
