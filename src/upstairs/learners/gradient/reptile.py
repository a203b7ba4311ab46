"""Reptile: move the start towards where each task ends."""

import torch
from torch import Tensor, nn

from upstairs.core import LossFn, Task
from upstairs.functional.differentiate import FirstOrder
from upstairs.functional.rules import SGD
from upstairs.learners.gradient.maml import GradientLearner


class Reptile(GradientLearner):
    """Descend on the support set, then step from the start towards the end (Nichol, Achiam and Schulman 2018).

        theta <- theta - rate * (theta - phi_K)

    theta - phi_K is the gradient of |theta - phi_K|^2 / 2 with phi_K held fixed, and that is the meta-loss: its value
    says nothing about the queries, which only the predictions see. Two inner steps or more are needed: with one,
    theta - phi is the gradient of the mean loss over all tasks, and nothing is learned about adapting.
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
    """Reptile with plain gradient descent on minibatches of the support set as its inner loop."""
    return Reptile(net, SGD(inner_lr), way=way, steps=steps, batch=batch, loss_fn=loss_fn, differentiate=FirstOrder())
