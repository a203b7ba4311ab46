"""MAML++ (Antoniou, Edwards and Storkey 2019): changes that stabilise the training of MAML."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.core import LossFn, Task
from upstairs.functional.differentiate import EXACT, FirstOrder, at_step
from upstairs.functional.inner_loop import inner_loop
from upstairs.functional.rules import StepRates
from upstairs.learners.gradient.maml import GradientLearner, adapting


class MultiStep(GradientLearner):
    """MAML with a query loss after every inner step, and first order at the beginning of training.

        L = sum over k of w_k * L_query(phi_k),   w_k = (1 - t / until) / K for k < K,   w_K = 1 - the others

    t is the share of training that is over: all steps have equal weight at t = 0, only the last one from `until` on.
    Before `exact_from` inner gradients are constants (derivative-order annealing).

    Args:
        net, rule, options: as for `GradientLearner`; the rule must have no state.
        until: share of training in which the steps before the last one have a weight.
        exact_from: share of training that is first order.
    """

    progress: Tensor

    def __init__(
        self, net: nn.Module, rule: Any, *, until: float = 0.15, exact_from: float = 0.15, **options: Any
    ) -> None:
        super().__init__(net, rule, **options)
        self.until, self.exact_from = until, exact_from
        self.register_buffer("progress", torch.ones(()), persistent=False)
        self.every_step = False

    def at(self, progress: float) -> None:
        """Sets the progress as a buffer and the choices as attributes, since each choice is compiled once."""
        self.progress.fill_(progress)
        self.every_step = progress < self.until
        self.differentiate = FirstOrder() if progress < self.exact_from else EXACT

    def weights(self) -> Float[Tensor, " steps"]:
        share = (1 - self.progress / self.until).clamp(min=0) / self.steps
        early = share.expand(self.steps - 1)
        return torch.cat([early, (1 - early.sum())[None]])

    def meta_loss(self, task: Task) -> tuple[Tensor, Tensor]:
        if not self.every_step or self.steps == 0:
            return super().meta_loss(task)
        params, losses = self.adapting(), []
        for first in range(self.steps):
            params = inner_loop(
                self.inner_loss, params, task.support,
                rule=self.rule, steps=1, first=first, differentiate=self.differentiate,
            )  # fmt: skip
            with at_step(first + 1):
                prediction = self.answer(params, task.query.x)
            losses.append(task.query.mean(self.loss_fn(prediction, task.query.y)))
        return (self.weights() * torch.stack(losses)).sum(), prediction


def maml_pp(
    net: nn.Module, *, way: int | None = None, inner_lr: float = 0.4, steps: int = 3, until: float = 0.15,
    exact_from: float = 0.15, batch: int | None = None, loss_fn: LossFn | None = None,
) -> MultiStep:  # fmt: skip
    """MAML++: `MultiStep` with a learned learning rate for each tensor of weights and each step.

    The paper's other changes lie elsewhere: the trainer has the cosine schedule, the norm `per_step` the statistics.
    """
    rule = StepRates(adapting(net), inner_lr, steps=steps)
    return MultiStep(
        net, rule, way=way, steps=steps, until=until, exact_from=exact_from, batch=batch, loss_fn=loss_fn
    )  # fmt: skip
