"""Heads with a convex solver: R2D2 by ridge regression, MetaOptNet by a support vector machine.

The encoder is trained through the solution, so that it learns features for which a linear head suffices.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from upstairs.core import Examples, LossFn, cross_entropy, squared_error
from upstairs.learners.metric.protonet import MetricLearner, members, only_seen


class LinearHead(NamedTuple):
    """A weight vector for each class (or target), and which classes occur in the support set."""

    weight: Float[Tensor, "d out"]
    seen: Bool[Tensor, " out"]


def ridge(
    z: Float[Tensor, "n d"], targets: Float[Tensor, "n out"], strength: Float[Tensor, ""]
) -> Float[Tensor, "d out"]:
    """Returns the W that minimises |z W - targets|^2 + strength |W|^2, by the smaller of two systems (Woodbury).

    W = z^T (z z^T + strength I)^-1 targets = (z^T z + strength I)^-1 z^T targets
    """
    n, d = z.shape
    identity = torch.eye(min(n, d), dtype=z.dtype, device=z.device)
    if n <= d:
        return z.T @ torch.linalg.solve(z @ z.T + strength * identity, targets)
    return torch.linalg.solve(z.T @ z + strength * identity, z.T @ targets)


class R2D2(MetricLearner[LinearHead]):
    """R2D2: the head is ridge regression on the support set, solved in closed form (Bertinetto et al. 2019).

        W = Z^T (Z Z^T + lambda I)^-1 Y,   prediction = alpha f(x) W + beta

    lambda, alpha and beta are learned with the encoder. Y is one-hot, or the regression target. In classification there
    is no beta, since softmax ignores a constant that is added to every class.

    Args:
        encoder: any module from inputs to vectors.
        way: number of classes that `predict` answers (see `for_way`); None for regression.
        strength: initial lambda.
        scale: initial alpha.
        loss_fn: None is cross-entropy, for regression the squared error.
    """

    def __init__(
        self, encoder: nn.Module, *, way: int | None = None, strength: float = 1.0, scale: float = 1.0,
        loss_fn: LossFn | None = None,
    ) -> None:  # fmt: skip
        super().__init__(encoder, way=way)
        self.loss_fn = loss_fn or (squared_error if way is None else cross_entropy)
        self.log_strength = nn.Parameter(torch.tensor(strength).log())
        self.log_scale = nn.Parameter(torch.tensor(scale).log())
        self.bias = nn.Parameter(torch.tensor(0.0)) if way is None else None

    def fit(self, z: Float[Tensor, "n d"], support: Examples) -> LinearHead:
        real = support.mask[:, None]
        targets = torch.where(real, support.y, 0.0) if self.way is None else members(support, self.way, z)
        seen = torch.ones_like(targets[0], dtype=torch.bool) if self.way is None else targets.sum(0) > 0
        return LinearHead(ridge(torch.where(real, z, 0.0), targets, self.log_strength.exp()), seen)

    def logits(self, state: LinearHead, z: Float[Tensor, "n d"]) -> Float[Tensor, "n out"]:
        prediction = self.log_scale.exp() * z @ state.weight
        return only_seen(prediction, state.seen) if self.bias is None else prediction + self.bias


def onto_simplex(v: Float[Tensor, "n way"], size: float, seen: Bool[Tensor, " way"]) -> Float[Tensor, "n way"]:
    """Projects each row on the simplex: entries are 0 or more, sum to `size`, and are 0 for unseen classes.

    max(v - tau, 0), where tau is the largest of (sum of the j largest entries - size) / j.
    """
    lowest = v.amin(-1, keepdim=True) - size  # so low that the entry becomes 0
    v = torch.where(seen, v, lowest)
    sums = v.sort(-1, descending=True)[0].cumsum(-1)
    tau = ((sums - size) / torch.arange(1, v.shape[-1] + 1, device=v.device, dtype=v.dtype)).amax(-1, keepdim=True)
    return (v - tau).clamp(min=0)


def svm_dual(
    z: Float[Tensor, "n d"], member: Float[Tensor, "n way"], *, cost: float, iterations: int
) -> Float[Tensor, "n way"]:
    """Returns the dual variables of the multi-class support vector machine of Crammer and Singer (2001).

        minimise 1/2 |A^T Z|^2 - sum_i A[i, y_i]   with   A[i, k] <= cost 1[k = y_i]   and   sum_k A[i, k] = 0

    With A = cost Y - V each row of V is on a simplex. It is solved by `iterations` accelerated projected gradient steps
    (FISTA; Beck and Teboulle 2009), through which the solution is differentiated. Padding (a row of zeros in `member`)
    has zeros.
    """
    real, seen = member.sum(-1, keepdim=True), member.sum(0) > 0
    z = z * real
    gram = z @ z.T
    rate = 1 / gram.square().sum().sqrt().clamp(min=torch.finfo(z.dtype).tiny)  # the norm bounds the eigenvalues
    v = ahead = cost * member
    for k in range(iterations):
        slope = member - gram @ (cost * member - ahead)
        after = onto_simplex(ahead - rate * slope, cost, seen) * real
        v, ahead = after, after + k / (k + 3) * (after - v)
    return cost * member - v


class MetaOptNet(MetricLearner[LinearHead]):
    """MetaOptNet: the head is a support vector machine on the support set (Lee et al. 2019).

        W = argmin 1/2 |W|^2 + cost sum_i max_k (f(x_i) w_k + 1[k != y_i] - f(x_i) w_{y_i}),   logits = scale f(x) W

    Its dual is solved by a fixed number of steps (`svm_dual`); the paper uses a solver of quadratic programs.

    Args:
        encoder: any module from inputs to vectors.
        way: number of classes that `predict` answers; the meta-parameters serve any number (`for_way`).
        cost: cost of a violated margin (0.1 in the paper).
        iterations: number of solver steps.
        scale: initial factor of the logits; it is learned.
    """

    def __init__(
        self, encoder: nn.Module, *, way: int, cost: float = 0.1, iterations: int = 30, scale: float = 1.0
    ) -> None:
        super().__init__(encoder, way=way)
        self.cost, self.iterations = cost, iterations
        self.log_scale = nn.Parameter(torch.tensor(scale).log())

    def fit(self, z: Float[Tensor, "n d"], support: Examples) -> LinearHead:
        member = members(support, self.way, z)
        dual = svm_dual(z, member, cost=self.cost, iterations=self.iterations)
        return LinearHead(z.T @ dual, member.sum(0) > 0)

    def logits(self, state: LinearHead, z: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        return only_seen(self.log_scale.exp() * z @ state.weight, state.seen)


def r2d2(
    encoder: nn.Module, *, way: int | None = None, strength: float | None = None, scale: float | None = None,
    loss_fn: LossFn | None = None,
) -> R2D2:  # fmt: skip
    """Ridge regression on each task (Bertinetto et al. 2019): W = Z^T (Z Z^T + strength I)^-1 Y, then scale f(x) W.

    Args:
        encoder: any module from inputs to vectors.
        way: None is regression.
        strength, scale: initial values; they are learned. None is 10 for classes and 1 for regression.
    """
    start = 1.0 if way is None else 10.0
    strength, scale = (start if value is None else value for value in (strength, scale))
    return R2D2(encoder, way=way, strength=strength, scale=scale, loss_fn=loss_fn)


def metaoptnet(encoder: nn.Module, *, way: int, cost: float = 0.1, scale: float = 10.0) -> MetaOptNet:
    """A support vector machine on each task (Lee et al. 2019): logits = scale f(x) W, W of the largest margin.

    Args:
        encoder: any module from inputs to vectors.
        cost: cost of a violated margin.
        scale: initial factor of the logits; it is learned.
    """
    return MetaOptNet(encoder, way=way, cost=cost, scale=scale)
