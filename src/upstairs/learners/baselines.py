"""Baselines without meta-learning, with which a run is compared."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.core import Examples, Learner, LossFn, gaussian_nll, squared_error
from upstairs.data.regression.functions import GaussianProcess, Sinusoids
from upstairs.data.source import Source
from upstairs.data.text.hashed import TextFormat
from upstairs.data.text.tokens import PieceFormat
from upstairs.functional.exclusive import alone
from upstairs.learners.building import make_net
from upstairs.learners.gradient.maml import scratch
from upstairs.learners.metric.closed_form import ridge
from upstairs.learners.metric.protonet import Cosine, ProtoNet, nearest_centroid
from upstairs.nets import TfIdf, pretrained_body
from upstairs.nets.text import READINGS
from upstairs.settings import CONVOLUTIONAL, Settings


class SupportMean(Learner[Tensor]):
    """A baseline without learning: it predicts the mean of the support targets."""

    loss_fn: LossFn = staticmethod(squared_error)

    def adapt(self, support: Examples, /) -> Float[Tensor, " d"]:
        return support.pool(support.y)

    def predict(self, mean: Float[Tensor, " d"], x: Tensor, /) -> Float[Tensor, "n d"]:
        return mean.expand(len(x), -1)


class Linear(NamedTuple):
    """A linear function: y = b + (x - m) W."""

    m: Float[Tensor, " d"]
    b: Float[Tensor, " k"]
    w: Float[Tensor, "d k"]


class Ridge(Learner[Linear]):
    """A baseline without learning: ridge regression of the support targets on the inputs, strength 1.

    W = (X^T X + I)^-1 X^T Y,  X and Y without their means over the support set
    """

    loss_fn: LossFn = staticmethod(squared_error)

    def adapt(self, support: Examples, /) -> Linear:
        x = support.x.flatten(1)
        m, b = support.pool(x), support.pool(support.y)
        real = support.mask[:, None]
        x, y = torch.where(real, x - m, 0.0), torch.where(real, support.y - b, 0.0)
        return Linear(m, b, ridge(x, y, torch.ones((), dtype=x.dtype, device=x.device)))

    def predict(self, linear: Linear, x: Tensor, /) -> Float[Tensor, "n k"]:
        return linear.b + (x.flatten(1) - linear.m) @ linear.w


class Posterior(NamedTuple):
    """The support inputs, their weights, and the precision (K + noise^2 I)^-1; both are zero for padding."""

    x: Float[Tensor, "n 1"]
    weights: Float[Tensor, "n 1"]
    precision: Float[Tensor, "n n"]


class GaussianPosterior(Learner[Posterior]):
    """The optimal baseline for tasks of a Gaussian process: its posterior predictive distribution
    (Rasmussen and Williams 2006, equations 2.25 and 2.26, plus the noise of the predicted target).

        mean = k(x, X) P y,   variance = k(x, x) - k(x, X) P k(X, x) + noise^2,   P = (k(X, X) + noise^2 I)^-1

    Args:
        process: the process that the tasks are drawn from, with its length and noise.
    """

    loss_fn: LossFn = staticmethod(gaussian_nll)

    def __init__(self, process: GaussianProcess) -> None:
        super().__init__()
        self.process = process

    def adapt(self, support: Examples, /) -> Posterior:
        real = support.mask[:, None]
        both = (real & support.mask).to(support.x.dtype)
        noise = torch.where(support.mask, self.process.noise**2, 1.0).to(support.x.dtype)
        covariance = self.process.kernel(support.x, support.x) * both + torch.diag(noise)
        weights = torch.linalg.solve(covariance, torch.where(real, support.y, 0.0))
        return Posterior(support.x, weights, torch.linalg.inv(covariance) * both)

    def predict(self, posterior: Posterior, x: Tensor, /) -> Float[Tensor, "n 2"]:
        near = self.process.kernel(x, posterior.x)
        explained = ((near @ posterior.precision) * near).sum(1, keepdim=True)
        variance = (1 - explained).clamp(min=0) + self.process.noise**2  # rounding may make it negative
        return torch.cat([near @ posterior.weights, 0.5 * variance.log()], 1)


def plain_baselines(source: Source, way: int | None) -> dict[str, Learner]:
    """Returns the baselines without learning for a source, by name.

    Classification: the nearest centroid of raw inputs; for texts with TF-IDF (words, pairs of words, characters) and
    cosine, its frequencies counted over all texts without their labels. Regression: the mean of the support targets,
    for a Gaussian process its exact posterior, and for tasks of one's own ridge regression. Generation has none.
    """
    if source.task_kind == "regression" or way is None:
        process = source.functions
        best = {"exact_posterior": GaussianPosterior(process)} if isinstance(process, GaussianProcess) else {}
        known = isinstance(process, Sinusoids | GaussianProcess)  # whose inputs are one number, and no lines
        return {"support_mean": SupportMean(), **best, **({} if known else {"ridge": Ridge()})}
    if way == 1 or isinstance(source.format, PieceFormat):  # one class, or token ids, which are not vectors
        return {}
    if isinstance(source.format, TextFormat):
        return {"tf_idf": Cosine(TfIdf(*(part.inputs for part in source.parts or (source,))), way=way)}
    return {"nearest_centroid": nearest_centroid(source, way=way)}


def baselines_for(settings: Settings, source: Source, way: int | None) -> dict[str, Learner]:
    """Returns the baselines of a run: `plain_baselines`, and a network trained from scratch on each support set.

    The network has the architecture of the run (in regression an MLP of width 40), 32 channels, and norm `batch`; it
    depends on the architecture alone, so that runs with the same one have the same baselines. For a pretrained
    network the only baseline is the nearest centroid of its frozen features. Generation has none.
    """
    if settings.task_kind == "generation":
        return {}
    if settings.net == "pretrained" and way is not None:
        frozen = pretrained_body(settings.encoder, source.feature_shape, tuned=None)
        return {"nearest_centroid": ProtoNet(frozen, way=way)}
    plain = plain_baselines(source, way)
    if settings.task_kind == "regression":
        usual = Settings(learner="maml", task_kind="regression", way=None, net="mlp", width=40, norm="none")
        trained = scratch(seeded_net(usual, source, source.targets), inner_lr=0.02, steps=100)
        return {"support_mean": plain["support_mean"], "scratch": trained, **plain}
    assert way is not None
    norm = "batch" if settings.net in CONVOLUTIONAL else "none"
    kind = "bag" if settings.net in READINGS else settings.net
    net = seeded_net(Settings(learner="maml", net=kind, width=32, norm=norm), source, way)
    return {**plain, "scratch": scratch(net, way=way)}


def seeded_net(settings: Settings, source: Source, out: int) -> nn.Module:
    """Returns a network whose weights depend only on the seed."""
    with alone(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return make_net(settings, source.feature_shape, out)
