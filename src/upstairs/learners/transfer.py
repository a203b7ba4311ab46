"""Meta-transfer learning: a network that classified all training classes is frozen, and tasks learn to use it.

1. pretrain    `Pretrained`: ordinary classification, one output for each training class
2. meta-train  `mtl`: its weights frozen; learned across tasks are a scale and a shift, and where a task's head starts
3. fine-tune   the head, on the support set: the inner loop
"""

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.core import Examples, Task, cross_entropy
from upstairs.learners.gradient import GradientLearner
from upstairs.learners.metric import ProtoNet, Prototypes
from upstairs.learners.rules import SGD
from upstairs.nets.norm import BatchNorm, GroupNorm
from upstairs.stacked.kernels import affine


class Pretrained(ProtoNet):
    """Ordinary classification of all training classes; a new task is solved by the nearest class means of its features.

        loss = mean over support and query examples of CE(2 scale cos(f(x), w_c), the class's own number)

    Cosines instead of a linear layer (Chen et al. 2019, "Baseline++"): with thousands of classes they learn far faster.

    Args:
        encoder: any module from inputs to vectors.
        size: of these vectors.
        classes: training classes, each with a weight of its own.
        way: as `ProtoNet` takes it, for tasks of new classes.
        scale: of the squared distance between vectors of length 1, so half of that of their cosine.
    """

    own_labels = True

    def __init__(self, encoder: nn.Module, size: int, *, classes: int, way: int, scale: float = 10.0) -> None:
        super().__init__(encoder, way=way, scale=scale)
        self.head = nn.Linear(size, classes, bias=False)

    def features(self, x: Tensor) -> Float[Tensor, "n d"]:
        return F.normalize(self.encoder(x), dim=-1)

    def adapt(self, support: Examples, /) -> Prototypes:
        return self.prototypes(self.features(support.x), support)

    def predict(self, prototypes: Prototypes, x: Tensor, /) -> Float[Tensor, "n way"]:
        return self.logits(prototypes, self.features(x))

    def meta_loss(self, task: Task) -> tuple[Tensor, Tensor]:
        z = self.features(torch.cat([task.support.x, task.query.x]))
        logits = 2 * self.scale * z @ F.normalize(self.head.weight, dim=-1).T
        mask = torch.cat([task.support.mask, task.query.mask])
        losses = torch.where(mask, cross_entropy(logits, torch.cat([task.support.y, task.query.y])), 0.0)
        return losses.sum() / mask.sum().clamp(min=1), logits[len(task.support.x) :]


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

    def forward(self, x: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *space"]:
        scale = self.weight * torch.rsqrt(self.variance + self.eps)
        return affine(x, scale, self.bias - self.mean * scale)


def scale_shift(net: nn.Module, *, head: str = "head") -> nn.Module:
    """A copy of `net` with all weights frozen but those of `head`, scales beside them, and biases for shifts.

    The published shift is a bias after the scaled convolution. Where a norm follows, which would cancel it, the norm's
    own bias is the shift. Parameters keep their names, so that the checkpoint of a pretrained network fits.
    """
    other = copy.deepcopy(net)
    for parent in list(other.modules()):
        for name, child in parent.named_children():
            if parent is other and name == head:
                continue
            if isinstance(child, nn.Conv2d | nn.Linear):
                setattr(parent, name, Scaled(child))
            elif isinstance(child, BatchNorm) and child.statistics == "population":
                setattr(parent, name, Settled(child))
            elif isinstance(child, BatchNorm | GroupNorm):
                pass
    return other


def mtl(net: nn.Module, *, way: int, rate: float = 0.1, steps: int = 10, head: str = "head") -> GradientLearner:
    """Meta-transfer learning (Sun, Liu, Chua and Schiele 2019): `net` frozen, a scale and shift learned across tasks.

        f(x) = head_phi(((W * scale) x + shift) ...),   phi from head_theta by `steps` on the support set,
        scale, shift and theta by the gradient of the query loss

    Args:
        net: pretrained, with a last layer named `head`; its weights may also come later, by their names.
    """
    return GradientLearner(
        scale_shift(net, head=head), SGD(rate), way=way, steps=steps, fast=lambda name: name.startswith(head)
    )
