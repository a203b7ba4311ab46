"""Heads on frozen features, in closed form or convex: no encoder, no meta-parameters, nothing to train beforehand.

`HEADS` names them. All read features z of length 1, which are centred by the support set and scaled again:

    v = z / |z|,   centre = mean of the class means of v,   u = (v - centre) / |v - centre|

(`nearest_mean` divides by the root mean square of |v - centre| instead), so that one set of hyper-parameters serves
every encoder: on MobileNetV2 the first division is worth ten points. All depend on the features through distances and
angles alone (`rotation_invariant`), so that features that are longer than the support set can be rotated into as many
numbers.
The hyper-parameters were chosen once, on the training and validation classes of `benchmarks/heads.py`.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from upstairs.core import Examples
from upstairs.functional.batching.tensor import known_true
from upstairs.learners.metric.closed_form import ridge
from upstairs.learners.metric.protonet import MetricLearner, Prototypes, by_distance, class_means, members, only_seen


class Fitted(NamedTuple):
    """What every head keeps of a support set, and `own`, what one head keeps: any pytree of tensors."""

    centre: Float[Tensor, " d"]
    spread: Float[Tensor, ""]  # root mean square of |v - centre| over the support set
    seen: Bool[Tensor, " way"]
    own: Any


class FeatureHead(MetricLearner[Fitted]):
    """A head that is computed from a task's features; subclasses write `solve_head` and `score`.

    Args:
        way: number of classes that `predict` answers.
        encoder: any module from inputs to vectors; by default inputs are features already.
        scale: factor of the logits; None: the head's own, which suits one example per class.
    """

    rotation_invariant = True
    usual_scale = 1.0
    unit: bool = True  # features have length 1; False: root mean square length 1 over the support set

    def __init__(self, *, way: int, encoder: nn.Module | None = None, scale: float | None = None) -> None:
        super().__init__(encoder or nn.Flatten(), way=way)
        self.scale = self.usual_scale if scale is None else scale

    @abstractmethod
    def solve_head(self, u: Float[Tensor, "n d"], member: Float[Tensor, "n way"]) -> Any:
        """Returns the head; rows of padding are zero in `u` and in `member`."""

    @abstractmethod
    def score(self, own: Any, u: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        """Returns the logits before `scale`."""

    def fit(self, z: Float[Tensor, "n d"], support: Examples) -> Fitted:
        v = F.normalize(z, dim=-1)
        means = class_means(v, support, self.way)
        centre = means.mean.sum(0) / means.seen.sum().clamp(min=1)
        real = support.mask[:, None]
        spread = support.mean((v - centre).square().sum(-1)).sqrt()
        state = Fitted(centre, spread, means.seen, torch.empty(0))
        u = torch.where(real, self.standardised(state, z), 0.0)
        return Fitted(centre, spread, means.seen, self.solve_head(u, members(support, self.way, z)))

    def logits(self, state: Fitted, z: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        return only_seen(self.scale * self.score(state.own, self.standardised(state, z)), state.seen)

    def standardised(self, state: Fitted, z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Returns centred features of length 1, or of root mean square length 1 over the support set."""
        u = F.normalize(z, dim=-1) - state.centre
        return F.normalize(u, dim=-1) if self.unit else u / state.spread.clamp(min=torch.finfo(z.dtype).tiny)


def _means(u: Float[Tensor, "n d"], member: Float[Tensor, "n way"]) -> Float[Tensor, "way d"]:
    """Returns the class means; zero for a class without examples."""
    return member.T @ u / member.sum(0).clamp(min=1)[:, None]


class NearestMean(FeatureHead):
    """The nearest class mean (Mensink et al. 2013): logits = -scale/2 |u - c_k|^2,   c_k = mean of u over class k."""

    usual_scale = 15.0
    unit = False

    def solve_head(self, u: Float[Tensor, "n d"], member: Float[Tensor, "n way"]) -> Float[Tensor, "way d"]:
        return _means(u, member)

    def score(self, own: Float[Tensor, "way d"], u: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        every = torch.ones(len(own), dtype=torch.bool, device=own.device)
        return by_distance(Prototypes(own, every), u, 0.5)


class CosineMean(FeatureHead):
    """The class mean of the smallest angle, features centred as in SimpleShot (Wang et al. 2019)."""

    usual_scale = 13.0

    def solve_head(self, u: Float[Tensor, "n d"], member: Float[Tensor, "n way"]) -> Float[Tensor, "way d"]:
        return F.normalize(_means(u, member), dim=-1)

    def score(self, own: Float[Tensor, "way d"], u: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        return u @ own.T


class RidgeHead(FeatureHead):
    """Ridge regression on one-hot labels (Hoerl and Kennard 1970; as a head: Bertinetto et al. 2019).

        W = argmin |U W - Y|^2 + strength |W|^2,   logits = scale u W

    Args:
        strength: the penalty; features have length 1.
    """

    usual_scale = 18.0

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

    It reads no value, so that tasks are solved as one batch: a fixed number of conjugate gradient steps (Polak and
    Ribiere 1969, restarted where they would climb) in the span of the examples, W = u^T a. Along a direction the logits
    are linear, and one Newton step is damped by the bound |f'''| <= R f'' (Bach 2010, R the widest range of a row of
    these logits), so that it never climbs. A task that is solved alone stops where rounding is all that is left.
    """
    u, y = sharpness * u, member
    n, d = u.shape
    kernel = u @ u.T if n <= d else None

    def span(a: Float[Tensor, "n way"]) -> Float[Tensor, "n way"]:
        return u @ (u.T @ a) if kernel is None else kernel @ a

    lowest = torch.where(y.sum(0) > 0, 0.0, -torch.inf).to(y.dtype)
    real = y.sum(1, keepdim=True)
    tiny, least = torch.finfo(u.dtype).tiny, (10 * torch.finfo(u.dtype).eps) ** 2
    a = torch.zeros_like(y)  # W = u^T a
    z = torch.zeros_like(y)  # logits
    p = real * (z + lowest).softmax(-1)
    g = p - y  # the gradient is u^T g
    kg = span(g)
    direction, kd = -g, -kg
    size = first_size = (g * kg).sum()  # |gradient|^2
    for _ in range(steps):
        if known_true((size <= least * first_size)[None]):
            break
        curve = strength * (direction * kd).sum()
        wide = (kd.amax(-1) - kd.amin(-1)).amax().clamp(min=tiny)
        second = curve + (p * (kd - (p * kd).sum(-1, keepdim=True)).square()).sum()
        first = (g * kd).sum()
        t = -first.sign() * (wide * first.abs() / second.clamp(min=tiny)).log1p() / wide
        a, z = a + t * direction, z + t * kd
        p = real * (z + lowest).softmax(-1)
        new = p - y + strength * a
        kn = span(new)
        beta = (((new - g) * kn).sum() / size.clamp(min=tiny)).clamp(min=0)
        g, size = new, (new * kn).sum()
        direction, kd = beta * direction - g, beta * kd - kn
        down = (g * kd).sum() < 0
        direction, kd = torch.where(down, direction, -g), torch.where(down, kd, -kn)
    return u.T @ a


class LogisticRegression(FeatureHead):
    """Multinomial logistic regression with a quadratic penalty, solved to convergence (see `logistic`).

        W = argmin sum_i CE(sharpness u_i W, y_i) + strength/2 |W|^2,   logits = scale sharpness u W

    Args:
        strength: the penalty.
        sharpness: factor of the features of length 1.
        steps: conjugate gradient steps.
    """

    usual_scale = 4.0

    def __init__(
        self, *, way: int, strength: float = 1.0, sharpness: float = 5.0, steps: int = 40, **options: Any
    ) -> None:
        super().__init__(way=way, **options)
        self.strength, self.sharpness, self.steps = strength, sharpness, steps

    def solve_head(self, u: Float[Tensor, "n d"], member: Float[Tensor, "n way"]) -> Float[Tensor, "d way"]:
        return logistic(u, member, strength=self.strength, sharpness=self.sharpness, steps=self.steps)

    def score(self, own: Float[Tensor, "d way"], u: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        return self.sharpness * u @ own


class Affine(NamedTuple):
    """A linear function for each class: weight u - bar."""

    weight: Float[Tensor, "way d"]
    bar: Float[Tensor, " way"]


class GaussianClasses(FeatureHead):
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

    def solve_head(self, u: Float[Tensor, "n d"], member: Float[Tensor, "n way"]) -> Affine:
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
        return Affine(weight, (weight * c).sum(-1) / 2)

    def score(self, own: Affine, u: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        return u @ own.weight.T - own.bar


class Cache(NamedTuple):
    """The support features and a row of class weights for each."""

    u: Float[Tensor, "n d"]
    weight: Float[Tensor, "n way"]


class ProKeR(FeatureHead):
    """Kernel ridge regression on one-hot labels with a Gaussian kernel, as ProKeR (Bendou et al. 2025).

        logits = scale k(u, U) (K + strength I)^-1 Y,   k(u, v) = exp(-beta |u - v|^2 / 2)

    The paper adds to a zero-shot classifier of texts, and regresses the rest; without texts that part is zero.

    Args:
        beta: sharpness of the kernel.
        strength: the penalty.
    """

    usual_scale = 18.0

    def __init__(self, *, way: int, beta: float = 1.5, strength: float = 0.1, **options: Any) -> None:
        super().__init__(way=way, **options)
        self.beta, self.strength = beta, strength

    def solve_head(self, u: Float[Tensor, "n d"], member: Float[Tensor, "n way"]) -> Cache:
        real = member.sum(1)
        k = rbf(u, u, self.beta) * real * real[:, None]
        eye = torch.eye(len(u), dtype=u.dtype, device=u.device)
        return Cache(u, torch.linalg.solve(k + self.strength * eye, member))

    def score(self, own: Cache, u: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        return rbf(u, own.u, self.beta) @ own.weight


class TipAdapter(FeatureHead):
    """A cache of the support set that is read by similarity, as Tip-Adapter without training (Zhang et al. 2022).

        logits = scale sum over the examples of class k of exp(-beta (1 - cos(u, u_i)))

    The paper adds a zero-shot classifier of texts, which features alone do not have: this is the cache without it.

    Args:
        beta: sharpness of the similarity.
    """

    usual_scale = 80.0

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


HEADS: dict[str, Callable[..., FeatureHead]] = {
    "nearest_mean": NearestMean,
    "cosine": CosineMean,
    "ridge": RidgeHead,
    "logistic_regression": LogisticRegression,
    "gemcl": GaussianClasses,
    "proker": ProKeR,
    "tip_adapter": TipAdapter,
}  # fmt: skip
