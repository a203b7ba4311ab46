"""Heads on frozen features, in closed form or convex: no encoder, no meta-parameters, nothing to train beforehand.

`HEADS` names them. A head centres the features z of a task by the mean of its class means, and scales them:

    u = (z - centre) / |z - centre|,   for `nearest_mean`  u = (z - centre) / (root mean square of |z - centre|)

so that one set of hyper-parameters serves every encoder. All depend on the features through distances and angles alone
(`rotation_invariant`), so that features that are longer than the support set can be rotated into as many numbers.
The hyper-parameters were chosen once, on the training and validation classes of `benchmarks/heads.py`.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from upstairs.core import Examples
from upstairs.learners.metric.closed_form import ridge
from upstairs.learners.metric.protonet import MetricLearner, Prototypes, by_distance, class_means, members, only_seen

Own = TypeVar("Own")


class Fitted(NamedTuple):
    """What every head keeps of a support set, and `own`, what one head keeps: any pytree of tensors."""

    centre: Float[Tensor, " d"]
    spread: Float[Tensor, ""]  # root mean square of |z - centre| over the support set
    seen: Bool[Tensor, " way"]
    own: Any


class FeatureHead(MetricLearner[Fitted], Generic[Own]):
    """A head that is computed from a task's features; subclasses write `solve_head` and `score`.

    Args:
        way: number of classes that `predict` answers.
        encoder: any module from inputs to vectors; by default inputs are features already.
        scale: factor of the logits.
    """

    rotation_invariant = True
    unit: bool = True  # features have length 1; False: root mean square length 1 over the support set

    def __init__(self, *, way: int, encoder: nn.Module | None = None, scale: float = 1.0) -> None:
        super().__init__(encoder or nn.Flatten(), way=way)
        self.scale = scale

    @abstractmethod
    def solve_head(self, u: Float[Tensor, "n d"], member: Float[Tensor, "n way"]) -> Own:
        """Returns the head; rows of padding are zero in `u` and in `member`."""

    @abstractmethod
    def score(self, own: Own, u: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        """Returns the logits before `scale`."""

    def fit(self, z: Float[Tensor, "n d"], support: Examples) -> Fitted:
        means = class_means(z, support, self.way)
        centre = means.mean.sum(0) / means.seen.sum().clamp(min=1)
        real = support.mask[:, None]
        spread = support.mean((z - centre).square().sum(-1)).sqrt()
        state = Fitted(centre, spread, means.seen, torch.empty(0))
        u = torch.where(real, self.standardised(state, z), 0.0)
        return Fitted(centre, spread, means.seen, self.solve_head(u, members(support, self.way, z)))

    def logits(self, state: Fitted, z: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        return only_seen(self.scale * self.score(state.own, self.standardised(state, z)), state.seen)

    def standardised(self, state: Fitted, z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Returns centred features of length 1, or of root mean square length 1 over the support set."""
        u = z - state.centre
        return F.normalize(u, dim=-1) if self.unit else u / state.spread.clamp(min=torch.finfo(z.dtype).tiny)


def _means(u: Float[Tensor, "n d"], member: Float[Tensor, "n way"]) -> Float[Tensor, "way d"]:
    """Returns the class means; zero for a class without examples."""
    return member.T @ u / member.sum(0).clamp(min=1)[:, None]


class NearestMean(FeatureHead[Tensor]):
    """The nearest class mean (Mensink et al. 2013): logits = -scale/2 |u - c_k|^2,   c_k = mean of u over class k."""

    unit = False

    def solve_head(self, u: Float[Tensor, "n d"], member: Float[Tensor, "n way"]) -> Float[Tensor, "way d"]:
        return _means(u, member)

    def score(self, own: Float[Tensor, "way d"], u: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        every = torch.ones(len(own), dtype=torch.bool, device=own.device)
        return by_distance(Prototypes(own, every), u, 0.5)


class CosineMean(FeatureHead[Tensor]):
    """The class mean of the smallest angle, features centred (SimpleShot, Wang et al. 2019): scale cos(u, c_k)."""

    def solve_head(self, u: Float[Tensor, "n d"], member: Float[Tensor, "n way"]) -> Float[Tensor, "way d"]:
        return F.normalize(_means(u, member), dim=-1)

    def score(self, own: Float[Tensor, "way d"], u: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        return u @ own.T


class RidgeHead(FeatureHead[Tensor]):
    """Ridge regression on one-hot labels (Hoerl and Kennard 1970; as a head: Bertinetto et al. 2019).

        W = argmin |U W - Y|^2 + strength |W|^2,   logits = scale u W

    Args:
        strength: the penalty; features have length 1.
    """

    def __init__(self, *, way: int, strength: float = 1.0, **options: Any) -> None:
        super().__init__(way=way, **options)
        self.strength = strength

    def solve_head(self, u: Float[Tensor, "n d"], member: Float[Tensor, "n way"]) -> Float[Tensor, "d way"]:
        return ridge(u, member, torch.as_tensor(self.strength, dtype=u.dtype, device=u.device))

    def score(self, own: Float[Tensor, "d way"], u: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        return u @ own


def logistic(
    u: Float[Tensor, "n d"], member: Float[Tensor, "n way"], *, strength: float, sharpness: float, steps: int
) -> Float[Tensor, "d way"]:
    """Returns the W that minimises sum_i CE(sharpness u_i W, y_i) + strength/2 |W|^2 over the seen classes.

    Preconditions nothing and reads no value, so that tasks are solved as one batch: a fixed number of conjugate
    gradient steps (Polak and Ribiere 1969, restarted where they would climb) in the span of the examples, W = u^T A;
    each has an exact line search by four Newton steps on the logits, which are linear along the direction. In float64.
    """
    u, y = sharpness * u.double(), member.double()
    n, d = u.shape
    kernel = u @ u.T if n <= d else None

    def span(a: Float[Tensor, "n way"]) -> Float[Tensor, "n way"]:
        return u @ (u.T @ a) if kernel is None else kernel @ a

    lowest = torch.where(y.sum(0) > 0, 0.0, -torch.inf)
    real = y.sum(1, keepdim=True)

    def residual(z: Float[Tensor, "n way"]) -> Float[Tensor, "n way"]:
        return real * (z + lowest).softmax(-1) - y

    tiny = torch.finfo(u.dtype).tiny
    a = torch.zeros_like(y)  # W = u^T a
    z = torch.zeros_like(y)  # logits
    g = residual(z)  # the gradient, u^T g
    kg = span(g)
    direction, kd = -g, -kg
    size = (g * kg).sum()
    for _ in range(steps):
        slope, curve = strength * (a * kd).sum(), strength * (direction * kd).sum()
        t = torch.zeros_like(size)
        for _ in range(4):
            p = real * (z + t * kd + lowest).softmax(-1)
            mean = (p * kd).sum(-1, keepdim=True)
            first = ((p - y) * kd).sum() + slope + t * curve
            second = (p * (kd - mean).square()).sum() + curve
            t = t - first / second.clamp(min=tiny)
        a, z = a + t * direction, z + t * kd
        new = residual(z) + strength * a
        kn = span(new)
        beta = (((new - g) * kn).sum() / size.clamp(min=tiny)).clamp(min=0)
        g, size = new, (new * kn).sum()
        direction, kd = beta * direction - g, beta * kd - kn
        down = (g * kd).sum() < 0
        direction, kd = torch.where(down, direction, -g), torch.where(down, kd, -kn)
    return sharpness * (u.T / sharpness) @ a


class LogisticRegression(FeatureHead[Tensor]):
    """Multinomial logistic regression with a quadratic penalty, solved to convergence (see `logistic`).

        W = argmin sum_i CE(sharpness u_i W, y_i) + strength/2 |W|^2,   logits = scale sharpness u W

    Args:
        strength: the penalty.
        sharpness: factor of the features of length 1.
        steps: conjugate gradient steps.
    """

    def __init__(
        self, *, way: int, strength: float = 1.0, sharpness: float = 10.0, steps: int = 40, **options: Any
    ) -> None:
        super().__init__(way=way, **options)
        self.strength, self.sharpness, self.steps = strength, sharpness, steps

    def solve_head(self, u: Float[Tensor, "n d"], member: Float[Tensor, "n way"]) -> Float[Tensor, "d way"]:
        weight = logistic(u, member, strength=self.strength, sharpness=self.sharpness, steps=self.steps)
        return weight.to(u.dtype)

    def score(self, own: Float[Tensor, "d way"], u: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        return self.sharpness * u @ own


class GaussianClasses(FeatureHead[Prototypes]):
    """Gaussian classes with a shared covariance under a conjugate prior, as GeMCL (Banayeeanzade et al. 2021).

        S = sum_i (u_i - c_y)(u_i - c_y)^T,   covariance = (S + strength I) / (n - classes + freedom)
        logits = -scale/2 |u - c_k|^2 in the metric of the covariance,  c_k = mean of u over class k

    The paper has a variance of its own for each feature and class; one shared covariance of all features is what a few
    examples can tell, and at one shot it is the prior's. The statistics are sums, in which order has no part.

    Args:
        strength: the prior's scatter along each direction.
        freedom: the number of examples that the prior is worth.
    """

    def __init__(self, *, way: int, strength: float = 1.0, freedom: float = 10.0, **options: Any) -> None:
        super().__init__(way=way, **options)
        self.strength, self.freedom = strength, freedom

    def solve_head(self, u: Float[Tensor, "n d"], member: Float[Tensor, "n way"]) -> Prototypes:
        c = _means(u, member)
        rest = u - member @ c
        n, d = rest.shape
        if n <= d:  # (R^T R + s I)^-1 c = (c - R^T (R R^T + s I)^-1 R c) / s
            eye = torch.eye(n, dtype=u.dtype, device=u.device)
            inner = torch.linalg.solve(rest @ rest.T + self.strength * eye, rest @ c.T)
            weight = (c - inner.T @ rest) / self.strength
        else:
            eye = torch.eye(d, dtype=u.dtype, device=u.device)
            weight = torch.linalg.solve(rest.T @ rest + self.strength * eye, c.T).T
        count = member.sum() - (member.sum(0) > 0).sum() + self.freedom
        weight = count * weight
        return Prototypes(weight, (weight * c).sum(-1))

    def score(self, own: Prototypes, u: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        return u @ own.mean.T - own.seen / 2


class Cache(NamedTuple):
    """The support features and a row of class weights for each."""

    u: Float[Tensor, "n d"]
    weight: Float[Tensor, "n way"]


class ProKeR(FeatureHead[Cache]):
    """Kernel ridge regression on one-hot labels with a Gaussian kernel, as ProKeR (Bendou et al. 2025).

        logits = scale k(u, U) (K + strength I)^-1 Y,   k(u, v) = exp(-beta |u - v|^2 / 2)

    The paper adds to a zero-shot classifier of texts, and regresses the rest; without texts that part is zero.

    Args:
        beta: sharpness of the kernel.
        strength: the penalty.
    """

    def __init__(self, *, way: int, beta: float = 1.0, strength: float = 1.0, **options: Any) -> None:
        super().__init__(way=way, **options)
        self.beta, self.strength = beta, strength

    def solve_head(self, u: Float[Tensor, "n d"], member: Float[Tensor, "n way"]) -> Cache:
        real = member.sum(1)
        k = rbf(u, u, self.beta) * real * real[:, None]
        eye = torch.eye(len(u), dtype=u.dtype, device=u.device)
        return Cache(u, torch.linalg.solve(k + self.strength * eye, member))

    def score(self, own: Cache, u: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        return rbf(u, own.u, self.beta) @ own.weight


class TipAdapter(FeatureHead[Cache]):
    """A cache of the support set that is read by similarity, as Tip-Adapter without training (Zhang et al. 2022).

        logits = scale sum over the examples of class k of exp(-beta (1 - cos(u, u_i)))

    The paper adds a zero-shot classifier of texts, which features alone do not have: this is the cache without it.

    Args:
        beta: sharpness of the similarity.
    """

    def __init__(self, *, way: int, beta: float = 5.5, **options: Any) -> None:
        super().__init__(way=way, **options)
        self.beta = beta

    def solve_head(self, u: Float[Tensor, "n d"], member: Float[Tensor, "n way"]) -> Cache:
        return Cache(u, member)

    def score(self, own: Cache, u: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        return rbf(u, own.u, self.beta) @ own.weight


def rbf(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], beta: float) -> Float[Tensor, "n m"]:
    """Returns exp(-beta |a - b|^2 / 2), for vectors of length 1 exp(-beta (1 - cos(a, b)))."""
    distance = a.square().sum(-1, keepdim=True) - 2 * a @ b.T + b.square().sum(-1)
    return (-beta / 2 * distance.clamp(min=0)).exp()


HEADS: dict[str, Callable[..., FeatureHead[Any]]] = {
    "nearest_mean": NearestMean,
    "cosine": CosineMean,
    "ridge": RidgeHead,
    "logistic_regression": LogisticRegression,
    "gemcl": GaussianClasses,
    "proker": ProKeR,
    "tip_adapter": TipAdapter,
}  # fmt: skip
