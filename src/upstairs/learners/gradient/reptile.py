"""Reptile: the initial weights move towards the adapted weights of each task."""

import torch
from torch import Tensor, nn

from upstairs.core import LossFn, Task
from upstairs.functional.differentiate import FirstOrder
from upstairs.functional.rules import SGD
from upstairs.learners.gradient.maml import GradientLearner


class Reptile(GradientLearner):
    """A learner that moves the initial weights towards the adapted ones (Nichol, Achiam and Schulman 2018).

        theta <- theta - lr * (theta - phi_K)

    The meta-loss is |theta - phi_K|^2 / 2 with phi_K held fixed, whose gradient is theta - phi_K; its value does not
    depend on the queries. Two or more inner steps are needed: with one, theta - phi is the gradient of the mean loss
    over all tasks, and adapting is not learned.
    """

    needs_hard_labels = "looks at none of them"

    def meta_loss(self, task: Task) -> tuple[Tensor, Tensor]:
        adapted = {name: p.detach() for name, p in self.adapt(task.support).items()}
        distances = [(p - adapted[name]).square().sum() for name, p in self.adapting().items()]
        return torch.stack(distances).sum() / 2, self.predict(adapted, task.query.x)


def reptile(
    net: nn.Module, *, way: int | None = None, inner_lr: float = 0.1, steps: int = 8, batch: int | None = 10,
    loss_fn: LossFn | None = None,
) -> Reptile:  # fmt: skip
    """Reptile whose inner loop is gradient descent on minibatches of the support set."""
    return Reptile(net, SGD(inner_lr), way=way, steps=steps, batch=batch, loss_fn=loss_fn, differentiate=FirstOrder())
