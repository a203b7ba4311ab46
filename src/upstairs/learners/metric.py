"""Learners that compare: ProtoNet, and nearest centroid on the inputs themselves."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from upstairs.core import Examples, Learner, LossFn, Task, cross_entropy
from upstairs.nets.norm import is_transductive


class Prototypes(NamedTuple):
    """A point for each class, and which classes the support set had."""

    mean: Float[Tensor, "way d"]
    seen: Bool[Tensor, " way"]


class ProtoNet(Learner[Prototypes]):
    """A class is the mean embedding of its support examples (Snell, Swersky and Zemel 2017).

        p(y = k | x)  ~  exp(-scale * |f(x) - c_k|^2),   c_k = mean of f(x_i) over the support examples of class k

    Args:
        encoder: any module from inputs to vectors.
        way: classes that `predict` answers; the meta-parameters serve any number (`for_way`).
        scale: of the squared distance (1 in the paper; smaller trains faster in high dimension).
    """

    loss_fn: LossFn = staticmethod(cross_entropy)

    def __init__(self, encoder: nn.Module, *, way: int, scale: float = 1.0) -> None:
        super().__init__()
        self.encoder, self.way, self.scale = encoder, way, scale

    @property
    def transductive(self) -> bool:
        return is_transductive(self.encoder)

    def adapt(self, support: Examples, /) -> Prototypes:
        return self.prototypes(self.encoder(support.x), support)

    def predict(self, prototypes: Prototypes, x: Tensor, /) -> Float[Tensor, "n way"]:
        return self.logits(prototypes, self.encoder(x))

    def meta_loss(self, task: Task) -> tuple[Tensor, Tensor]:
        """The query loss, with support and query embedded as one batch: one pass, and one set of statistics."""
        z = self.encoder(torch.cat([task.support.x, task.query.x]))
        n = len(task.support.x)
        prediction = self.logits(self.prototypes(z[:n], task.support), z[n:])
        return task.query.mean(self.loss_fn(prediction, task.query.y)), prediction

    def prototypes(self, z: Float[Tensor, "n d"], support: Examples) -> Prototypes:
        member = (F.one_hot(support.y, self.way) * support.mask[:, None]).to(z.dtype)
        count = member.sum(0)
        return Prototypes(member.T @ z / count[:, None].clamp(min=1), count > 0)

    def logits(self, prototypes: Prototypes, z: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        # |z - c|^2 without the term of z alone, which no class differs in: one matrix product, n x way memory.
        c = prototypes.mean
        logits = self.scale * (2 * z @ c.T - c.square().sum(-1))
        return torch.where(prototypes.seen, logits, torch.finfo(z.dtype).min)


def nearest_centroid(*, way: int) -> ProtoNet:
    """The opponent without learning: the nearest mean of the raw inputs, by Euclidean distance."""
    return ProtoNet(nn.Flatten(), way=way)
