"""Meta-transfer learning: a pretrained network is frozen, and its scales and shifts are meta-learned.

1. pretrain    `Pretrained` (metric/pretrained.py): ordinary classification of all training classes
2. meta-train  `mtl`: weights are frozen; scales, shifts and the initial head are learned across tasks
3. fine-tune   the head, on the support set: the inner loop
"""

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.functional.batching.kernels import affine
from upstairs.functional.rules import SGD
from upstairs.learners.gradient.maml import GradientLearner, head_of
from upstairs.nets.norm import BatchNorm, GroupNorm, measurable


class Scaled(nn.Module):
    """A convolution or linear layer with frozen weights and a learned scale: (weight * scale) x + bias.

    The scale has one number for each filter of a convolution, [out, in, 1, 1], or unit of a linear layer, [out, 1].
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(layer.weight.detach(), requires_grad=False), layer.bias
        conv = isinstance(layer, nn.Conv2d)
        out, channels = layer.weight.shape[:2]
        self.scale = nn.Parameter(layer.weight.new_ones((out, channels, 1, 1) if conv else (out, 1)))
        self.options = (layer.stride, layer.padding, layer.dilation, layer.groups) if conv else None

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.scale
        return F.linear(x, weight, self.bias) if self.options is None else F.conv2d(x, weight, self.bias, *self.options)


class Settled(nn.Module):
    """Batch norm with the fixed statistics of pretraining; its bias is the learned shift."""

    def __init__(self, norm: BatchNorm) -> None:
        super().__init__()
        self.eps, self.bias = norm.eps, norm.bias
        self.weight = nn.Parameter(norm.weight.detach(), requires_grad=False)
        self.register_buffer("mean", norm.mean.clone())
        self.register_buffer("variance", norm.variance.clone())
        measurable(self, measured=True)  # meta-training uses them as they are

    def forward(self, x: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *space"]:
        scale = self.weight * torch.rsqrt(self.variance + self.eps)
        return affine(x, scale, self.bias - self.mean * scale)


def scale_shift(net: nn.Module, *, head: str = "head") -> nn.Module:
    """Returns a copy of `net` with all weights except those of `head` frozen, and with learned scales and shifts.

    The published shift is a bias after the scaled convolution. Where a norm follows, which would cancel it, the norm's
    own bias is the shift. Parameters keep their names, so that the checkpoint of a pretrained network loads.
    """
    other = copy.deepcopy(net)
    for path, parent in list(other.named_modules()):
        for name, child in parent.named_children():
            if f"{path}.{name}".lstrip(".") == head:
                continue
            if isinstance(child, nn.Conv2d | nn.Linear):
                setattr(parent, name, Scaled(child))
            elif isinstance(child, BatchNorm) and child.statistics == "population":
                setattr(parent, name, Settled(child))
            elif isinstance(child, BatchNorm | GroupNorm):
                child.weight.requires_grad_(False)
    return other


def mtl(
    net: nn.Module, *, way: int, inner_lr: float = 0.1, steps: int = 10, head: str | None = None,
    batch: int | None = None,
) -> GradientLearner:  # fmt: skip
    """Meta-transfer learning (Sun, Liu, Chua and Schiele 2019): `net` is frozen, scales and shifts are meta-learned.

        f(x) = head_phi(((W * scale) x + shift) ...),   phi from head_theta by `steps` on the support set,
        scale, shift and theta by the gradient of the query loss

    Args:
        net: a pretrained network; its weights may also be loaded later, by name.
        head: name of the last layer, which adapts; None finds it (see `head_of`).
    """
    start = head or head_of(net)
    return GradientLearner(
        scale_shift(net, head=start.rstrip(".")), SGD(inner_lr), way=way, steps=steps, batch=batch,
        fast=lambda name: name.startswith(start),
    )  # fmt: skip
