# ruff: noqa: T201
"""The article's example 4.3, a recursion, and the system that it stands for: a learner that is a recurrent network.

The example is y_t = f(y_{t-1}, x_t) = y_{t-1} / 2 + x_t, a linear scan: y_T = sum of x_t / 2^(T - t), a weighted
sum of the inputs. It has no learned parameters. In `system()` f is an LSTM with learned weights, x_t is the
gradient of a task's loss at step t, and the state is the network that is trained: a learned optimiser (Andrychowicz
et al. 2016, Ravi and Larochelle 2017).
"""

import torch
from sinusoids import error, meta_train

from upstairs.learners.learned_optimizer.rules import learned_optimizer
from upstairs.nets import mlp


def article() -> float:
    """Return y after y <- y / 2 + x over three inputs."""
    y = 0.0
    for x in (1.0, 2.0, 3.0):
        y = 0.5 * y + x
    return y


def system(meta_steps: int = 500) -> tuple[float, float]:
    """Return the squared error on 200 unseen sinusoids after 3 steps on 5 points: before and after meta-training."""
    torch.manual_seed(0)
    learner = learned_optimizer(mlp((1,), out=1), inner_lr=0.01, steps=3)
    before = error(learner)
    meta_train(learner, meta_steps)
    return before, error(learner)


if __name__ == "__main__":
    print("the article's recursion:", article())
    print("squared error before and after meta-training: {:.2f}, {:.2f}".format(*system()))
