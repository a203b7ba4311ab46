"""Learners whose weights for a task are predicted by a network from its support set: f(x) = g(theta, support)(x).

There is no inner optimisation: one forward pass predicts the weights. Hypernetwork, VERSA (a distribution over
weights), FiLM (a scale and a shift of every channel).
"""

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from upstairs.core import Examples, Task
from upstairs.errors import UpstairsError
from upstairs.functional.call import functional_call
from upstairs.learners.gradient.cavia import modulated
from upstairs.learners.metric.protonet import (
    SCALE,
    EncoderLearner,
    MetricLearner,
    Prototypes,
    by_distance,
    class_means,
    only_seen,
)
from upstairs.nets.embedding import embedding_size

MOST_CLASSES = 512  # largest way of VERSA, which has noise for so large a number of logits


class Noise(nn.Module):
    """Standard normal noise [samples, size]: drawn for each step in training, fixed in evaluation.

    `at` draws it from the progress alone, so that a learner which reads it is a pure function.
    """

    def __init__(self, size: int, *, samples: int, judged: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("fixed", torch.randn(judged, size, generator=generator), persistent=False)
        self.register_buffer("drawn", torch.zeros(samples, size), persistent=False)
        self.at(1.0)

    def at(self, progress: float) -> None:
        generator = torch.Generator().manual_seed(1 + int(progress * (2**31 - 1)))  # torch reads 32 bits of a seed
        self.drawn.copy_(torch.randn(self.drawn.shape, generator=generator))

    def forward(self) -> Float[Tensor, "samples size"]:
        return self.drawn if self.training else self.fixed


class ClassWeights(NamedTuple):
    """A weight vector and a bias for each class, and which classes occur in the support set."""

    weight: Float[Tensor, "way d"]
    bias: Float[Tensor, " way"]
    seen: Bool[Tensor, " way"]


class Hypernetwork(MetricLearner[ClassWeights]):
    """A hypernetwork predicts the weights of each class (Ha, Dai and Le 2017), for any number of classes.

        (w_k, b_k) = g([c_k, c]),   logits_k(x) = w_k f(x) / sqrt(d) + b_k

    c_k is the mean embedding of the class's support examples, c the mean over classes. g reads one class and its task,
    so it serves any number of classes, and renumbering them permutes the predictions.

    Args:
        encoder: any module from inputs to vectors of length `size`.
        way: number of classes that `predict` answers; the meta-parameters serve any number (`for_way`).
    """

    def __init__(self, encoder: nn.Module, size: int, *, way: int) -> None:
        super().__init__(encoder, way=way)
        self.write = nn.Sequential(nn.Linear(2 * size, 4 * size), nn.ReLU(), nn.Linear(4 * size, size + 1))

    def fit(self, z: Float[Tensor, "n d"], support: Examples) -> ClassWeights:
        means = class_means(z, support, self.way)
        task = means.mean.sum(0) / means.seen.sum().clamp(min=1)
        written = self.write(torch.cat([means.mean, task.expand_as(means.mean)], 1))
        return ClassWeights(written[:, :-1] / z.shape[1] ** 0.5, written[:, -1], means.seen)

    def logits(self, state: ClassWeights, z: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        return only_seen(z @ state.weight.T + state.bias, state.seen)


class WeightPosterior(NamedTuple):
    """A Gaussian over each class's weights, the bias last, and which classes occur in the support set."""

    mean: Float[Tensor, "way d1"]
    variance: Float[Tensor, "way d1"]
    seen: Bool[Tensor, " way"]


class Versa(MetricLearner[WeightPosterior]):
    """VERSA: a network predicts a distribution over the weights of each class (Gordon et al. 2019).

        q(w_k) = N(mu(c_k), sigma^2(c_k)),   p(y | x) = 1/L sum over l of softmax_y(w^l [f(x), 1] / sqrt(d)),   w^l ~ q

    Predictions are log p(y | x), whose cross-entropy is the paper's objective (there is no KL term). The logits of a
    query are Gaussian under q, so they are sampled instead of the weights (Kingma, Salimans and Welling 2015): the same
    p(y | x) with far fewer random numbers.

    Args:
        encoder: any module from inputs to vectors of length `size`.
        way: number of classes that `predict` answers; the meta-parameters serve any number up to 512 (`for_way`).
        samples: L in training; in evaluation it is 10 times as large, with fixed noise.
    """

    def __init__(self, encoder: nn.Module, size: int, *, way: int, samples: int = 10) -> None:
        super().__init__(encoder, way=way)
        self.write = nn.Sequential(nn.Linear(size, 4 * size), nn.ReLU(), nn.Linear(4 * size, 2 * (size + 1)))
        self.noise = Noise(MOST_CLASSES, samples=samples, judged=10 * samples)

    @property
    def max_way(self) -> int:
        return MOST_CLASSES

    def at(self, progress: float) -> None:
        self.noise.at(progress)

    def fit(self, z: Float[Tensor, "n d"], support: Examples) -> WeightPosterior:
        means = class_means(z, support, self.way)
        mean, log_variance = self.write(means.mean).chunk(2, 1)
        return WeightPosterior(mean, (log_variance - 2).exp(), means.seen)  # the variance starts small

    def logits(self, state: WeightPosterior, z: Float[Tensor, "n d"]) -> Float[Tensor, "n way"]:
        features = F.pad(z, (0, 1), value=1.0) / z.shape[1] ** 0.5
        mean, variance = features @ state.mean.T, features.square() @ state.variance.T
        noise = self.noise()[:, : self.way].to(z.dtype)
        sampled = mean[:, None] + variance.clamp(min=1e-12).sqrt()[:, None] * noise
        unseen = torch.finfo(z.dtype).min
        log_p = torch.where(state.seen, sampled, unseen).log_softmax(-1)
        return log_p.logsumexp(1) - torch.tensor(len(noise), dtype=z.dtype).log()


class Conditioned(NamedTuple):
    """The context that modulates the encoder, and the class means of the modulated encoder."""

    context: Float[Tensor, " size"]
    prototypes: Prototypes


class FilmLearner(EncoderLearner[Conditioned]):
    """A set encoder scales and shifts every channel of the encoder (Requeima et al. 2019, CNAPs).

        t = h(mean of s(x_i) over the support set),   z -> (1 + A t) * z + B t  before each ReLU of f
        p(y = k | x)  ~  exp(-scale * |f_t(x) - c_k|^2),   c_k the class means of f_t

    The paper's encoder is pretrained and its head is predicted too; here all is trained together, with prototypes.

    Args:
        encoder: any module from inputs to vectors, with ReLUs.
        summary: the set encoder s, any module from inputs to vectors of length `size`.
        way: number of classes that `predict` answers; the meta-parameters serve any number (`for_way`).
        scale: factor of the squared distance.
    """

    def __init__(self, encoder: nn.Module, summary: nn.Module, size: int, *, way: int, scale: float) -> None:
        super().__init__()
        self.encoder, self.summary, self.way, self.scale = modulated(encoder, size), summary, way, scale
        self.condition = nn.Linear(size, size)
        with torch.no_grad():  # near the plain encoder at the start, yet not zero, so that `summary` has a gradient
            self.condition.weight.mul_(0.1), self.condition.bias.zero_()
        self.contexts = [name for name, _ in self.encoder.named_parameters() if name.split(".")[-1] == "context"]
        if not self.contexts:
            raise UpstairsError("FiLM scales what goes into a ReLU and this network has none: use `net` conv4 or mlp")

    def context(self, support: Examples) -> Float[Tensor, " size"]:
        return self.condition(support.pool(self.summary(support.x))[None])[0]

    def embed(self, context: Float[Tensor, " size"], x: Tensor) -> Float[Tensor, "n d"]:
        return functional_call(self.encoder, dict.fromkeys(self.contexts, context), x)

    def adapt(self, support: Examples, /) -> Conditioned:
        context = self.context(support)
        return Conditioned(context, class_means(self.embed(context, support.x), support, self.way))

    def predict(self, state: Conditioned, x: Tensor, /) -> Float[Tensor, "n way"]:
        return by_distance(state.prototypes, self.embed(state.context, x), self.scale)

    def meta_loss(self, task: Task) -> tuple[Tensor, Tensor]:
        """Returns the query loss; support and query are embedded as one batch."""
        z = self.embed(self.context(task.support), torch.cat([task.support.x, task.query.x]))
        n = len(task.support.x)
        prediction = by_distance(class_means(z[:n], task.support, self.way), z[n:], self.scale)
        return task.query.mean(self.loss_fn(prediction, task.query.y)), prediction


def hypernetwork(encoder: nn.Module, *, way: int, shape: tuple[int, ...] | None = None) -> Hypernetwork:
    """A hypernetwork predicts the weights of each class (Ha, Dai and Le 2017): logits_k(x) = w_k f(x) / sqrt(d) + b_k.

    Args:
        encoder: any module from inputs to vectors.
        shape: shape of one input; needed where the encoder does not determine it (see `embedding_size`).
    """
    return Hypernetwork(encoder, embedding_size(encoder, shape), way=way)


def versa(encoder: nn.Module, *, way: int, shape: tuple[int, ...] | None = None, samples: int = 10) -> Versa:
    """VERSA (Gordon et al. 2019): a network predicts a Gaussian over class weights, q(w_k) = N(mu(c_k), s^2(c_k)).

    Args:
        encoder, shape: as for `hypernetwork`.
        samples: number of weight samples in training; ten times as many in evaluation.
    """
    return Versa(encoder, embedding_size(encoder, shape), way=way, samples=samples)


def film(
    encoder: nn.Module, summary: nn.Module | None = None, *, way: int, shape: tuple[int, ...] | None = None,
    scale: float | None = None,
) -> FilmLearner:  # fmt: skip
    """CNAPs' conditioning (Requeima et al. 2019): z -> (1 + A t) * z + B t before each ReLU of the encoder.

    Args:
        encoder: any module from inputs to vectors, with ReLUs.
        summary: the set encoder whose mean over the support set gives t; None is a copy of the encoder.
        shape: as for `hypernetwork`.
        scale: factor of the squared distance; None is 0.8 over the square root of the embeddings' length.
    """
    size = embedding_size(encoder, shape)
    summary = copy.deepcopy(encoder) if summary is None else summary
    scale = SCALE / size**0.5 if scale is None else scale
    return FilmLearner(encoder, summary, embedding_size(summary, shape), way=way, scale=scale)
