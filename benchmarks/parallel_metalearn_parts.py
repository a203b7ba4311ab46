"""The parts that a user of parallel-metalearn provides: a module with its keywords, a loss, an optimiser."""

from collections import OrderedDict
from typing import Any

import torch
from metalearn.algorithms import MAML
from metalearn.inner_optimizers import InnerSGD
from metalearn.loss import BaseLoss
from metalearn.model_wrappers import MAML_Model
from torch import Tensor, nn
from workloads import Workload


class TakesKeywords(nn.Module):
    """A plain module under the library's calling convention, which passes the step and the mode as keywords."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        return self.module(x)


class Loss(BaseLoss):
    """The workload's loss. The metric is the loss once more: an accuracy would be timed in this library alone."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.workload = workload

    def forward(self, out_dict: dict, targets: dict, model_states: Any = None, **_: Any) -> tuple[Tensor, Tensor]:
        loss = self.workload.loss(out_dict["logits"], targets["labels"])
        return loss, loss.detach()


class Still(torch.optim.SGD):
    """An optimiser that changes nothing: the gradient is what is timed, and it stays in `.grad`."""

    def step(self, closure: Any = None) -> None:
        """Leave the parameters."""


def make_maml(w: Workload, net: nn.Module, *, backend: str, first_order: bool) -> MAML:
    """Its MAML over an unmodified module."""
    fast = [f"backbone.module.{name}" for name, _ in net.named_parameters() if w.adapts(name)]
    model = MAML_Model(TakesKeywords(net), TakesKeywords(nn.Identity()), fast_weights_names=fast)
    inner = InnerSGD(
        OrderedDict(model.get_fast_weights()),
        first_order=first_order,
        inner_lr=w.lr,
        max_inner_steps=w.steps,
        learn_lr=False,
    )
    return MAML(
        model=model,
        optimizer=Still(net.parameters(), lr=0.0),
        inner_optimizer=inner,
        support_loss_fn=Loss(w),
        inner_steps=w.steps,
        backend=backend,
        device=torch.device("cpu"),
    )
