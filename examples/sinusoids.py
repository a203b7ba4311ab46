"""The tasks of the examples: sinusoids with 5 support points each, and 200 unseen ones for the test."""

import torch

from upstairs.core import Learner, Task
from upstairs.data.regression.functions import Sinusoids, draw_functions
from upstairs.engine.meta_backward import meta_backward


def tasks(first: int, count: int) -> Task:
    return draw_functions(Sinusoids(), range(first, first + count), shot=(5, 5), query=10)


def unseen() -> Task:
    return tasks(10**6, 200)


def error(learner: Learner) -> float:
    """Return the mean squared error on the unseen sinusoids."""
    return learner(unseen())[0].mean().item()


def meta_train(learner: Learner, meta_steps: int) -> None:
    outer = torch.optim.Adam(learner.parameters(), lr=2e-3)
    for k in range(meta_steps):
        outer.zero_grad()
        meta_backward(learner, tasks(10 * k, 10))
        outer.step()
