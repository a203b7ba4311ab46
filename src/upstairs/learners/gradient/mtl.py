"""Meta-transfer learning: a network that classified all training classes is frozen, and tasks learn to use it.

1. pretrain    `Pretrained` (pretrained.py): ordinary classification, one output for each training class
2. meta-train  `mtl`: its weights frozen; learned across tasks are a scale and a shift, and where a task's head starts
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
    """A convolution or linear layer whose weights are frozen, and scaled by what is learned: (weight * scale) x + bias.

    The scale is one number for each filter of a convolution, [out, in, 1, 1], or each unit of a linear layer, [out, 1].
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
    """Batch norm whose statistics stay those of pretraining; its bias is the learned shift."""

    def __init__(self, norm: BatchNorm) -> None:
        super().__init__()
        self.eps, self.bias = norm.eps, norm.bias
        self.weight = nn.Parameter(norm.weight.detach(), requires_grad=False)
        self.register_buffer("mean", norm.mean.clone())
        self.register_buffer("variance", norm.variance.clone())
        measurable(self, measured=True)  # it is trained with them, whatever they are

    def forward(self, x: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *space"]:
        scale = self.weight * torch.rsqrt(self.variance + self.eps)
        return affine(x, scale, self.bias - self.mean * scale)


def scale_shift(net: nn.Module, *, head: str = "head") -> nn.Module:
    """A copy of `net` with all weights frozen but those of `head`, scales beside them, and biases for shifts.

    The published shift is a bias after the scaled convolution. Where a norm follows, which would cancel it, the norm's
    own bias is the shift. Parameters keep their names, so that the checkpoint of a pretrained network fits.
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
    """Meta-transfer learning (Sun, Liu, Chua and Schiele 2019): `net` frozen, a scale and shift learned across tasks.

        f(x) = head_phi(((W * scale) x + shift) ...),   phi from head_theta by `steps` on the support set,
        scale, shift and theta by the gradient of the query loss

    Args:
        net: pretrained; its weights may also come later, by their names.
        head: the name of its last layer, which adapts; None finds it (see `head_of`).
    """
    start = head or head_of(net)
    return GradientLearner(
        scale_shift(net, head=start.rstrip(".")), SGD(inner_lr), way=way, steps=steps, batch=batch,
        fast=lambda name: name.startswith(start),
    )  # fmt: skip
