"""The Neural Statistician: a variational autoencoder of sets, with a latent for the set and one per example."""

from math import prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.core import Examples, Task
from upstairs.errors import check_type
from upstairs.learners.generative.base import Course, GenerativeLearner
from upstairs.learners.generative.likelihood import Gaussian, LogLikelihood, bernoulli_log_p, gaussian, gaussian_log_p
from upstairs.nets import mlp
from upstairs.nets.drawing import PictureWriter, picture_reader

TOGETHER = 2**14  # values in the queries, repeated for the samples that `predict` computes in one call


class Factors(NamedTuple):
    """The posterior over the latent of the set: the product of the prior and a Gaussian factor of each example."""

    precision: Float[Tensor, " d"]
    weighted: Float[Tensor, " d"]  # precision times mean

    def gaussian(self) -> Gaussian:
        return Gaussian(self.weighted / self.precision, -0.5 * self.precision.log())

    def times(self, other: "Factors") -> "Factors":
        """Multiplies by the factors of another set, counting the prior once."""
        return Factors(self.precision + other.precision - 1, self.weighted + other.weighted)


def product(each: Factors, examples: Examples) -> Factors:
    """Returns the prior N(0, I) times the factors of the real examples."""
    real = examples.mask[:, None].to(each.weighted.dtype)
    return Factors(1 + (real * each.precision).sum(0), (real * each.weighted).sum(0))


class NeuralStatistician(GenerativeLearner[Factors]):
    """A variational autoencoder over sets (Edwards and Storkey 2017).

        p(set) = integral of p(c) prod over x of (integral of p(x | z, c) p(z | c) dz) dc,   p(c) = N(0, I)
        meta-loss = (KL(q(c | S, Q) || q(c | S)) + sum over Q of (KL(q(z | x, c) || p(z | c)) - log p(x | z, c))) / |Q|

    S is the support set, Q the queries. The state is q(c | S), for an empty set p(c). In one meta-step of eight S is
    left out, and the meta-loss is then the paper's, of the set Q. `predict` returns the importance-weighted bound
    (Burda et al. 2016) on log p(x | S) of each query, with c drawn from q(c | S, x) and z from q(z | x, c).

    Args:
        read: encoder from inputs to vectors of length `size`.
        write: decoder from vectors of length 2 `latent` to the parameters of `likelihood`.
        latent: length of c, and of z.
        samples: number of samples in the bound of `predict`.
    """

    conditions_on_none = bounds_likelihood = True

    def __init__(
        self, read: nn.Module, write: nn.Module, size: int, *, latent: int, likelihood: LogLikelihood,
        samples: int = 50,
    ) -> None:  # fmt: skip
        super().__init__()
        self.read, self.write, self.latent, self.likelihood = read, write, latent, likelihood
        self.factor = mlp((size,), widths=(size,), out=2 * latent)
        self.recognise = mlp((size + latent,), widths=(size,), out=2 * latent)
        self.prior = mlp((latent,), widths=(size,), out=2 * latent)
        self.course = Course(2 * latent, samples=samples)

    def at(self, progress: float) -> None:
        self.course.at(progress)

    def factors(self, x: Float[Tensor, "n *feature"]) -> tuple[Float[Tensor, "n d"], Factors]:
        """Returns the encoding of each example and its factor, whose initial precision is small."""
        h = self.read(x)
        mean, raw = self.factor(h).chunk(2, -1)
        precision = F.softplus(raw - 2)
        return h, Factors(precision, precision * mean)

    def adapt(self, support: Examples, /) -> Factors:
        return product(self.factors(support.x)[1], support)

    def meta_loss(self, task: Task) -> tuple[Tensor, Float[Tensor, "n 1"]]:
        """Returns the negative evidence lower bound per query given the support set, and each query's bound."""
        x = task.query.x
        support, (h, own) = self.adapt(task.support), self.factors(x)
        kept = self.course.kept
        support = Factors(1 + kept * (support.precision - 1), kept * support.weighted)
        rows = self.course.rows(x)
        whole = support.times(product(own, task.query))
        q_c = whole.gaussian()
        c = q_c.at(rows[0, : self.latent]).expand(len(x), -1)
        p, q = gaussian(self.prior(c)), gaussian(self.recognise(torch.cat([h, c], 1)))
        z = q.at(rows[:, self.latent :])
        fit = self.likelihood(self.write(torch.cat([z, c], 1)), x) - self.course.heat * q.kl(p)
        shared = self.course.heat * q_c.kl(support.gaussian()) / task.query.mask.sum().clamp(min=1)
        return shared - task.query.mean(fit), (fit - shared)[:, None]

    def predict(self, state: Factors, x: Tensor, /) -> Float[Tensor, "n 1"]:
        (h, own), given = self.factors(x), state.gaussian()
        seen = Factors(state.precision + own.precision, state.weighted + own.weighted).gaussian()
        logs = []
        at_once = max(1, TOGETHER // x.numel())
        for rows in self.course.fixed.to(h.dtype).split(at_once):
            c = seen.at(rows[:, None, : self.latent])
            each_h, each_x = (t.expand(len(rows), *t.shape).flatten(0, 1) for t in (h, x))
            each_c = c.flatten(0, 1)
            p, q = gaussian(self.prior(each_c)), gaussian(self.recognise(torch.cat([each_h, each_c], 1)))
            z = q.at(rows[:, self.latent :].repeat_interleave(len(x), 0))
            fit = self.likelihood(self.write(torch.cat([z, each_c], 1)), each_x)
            logs.append((fit + p.log_p(z) - q.log_p(z)).unflatten(0, (-1, len(x))) + given.log_p(c) - seen.log_p(c))
        return torch.cat(logs).logsumexp(0)[:, None] - torch.tensor(float(len(self.course.fixed)), dtype=h.dtype).log()


def neural_statistician(shape: tuple[int, ...], *, width: int = 32) -> NeuralStatistician:
    """Neural Statistician (Edwards and Storkey 2017): a variational autoencoder of sets, p(c) = N(0, I).

        p(set) = integral of p(c) prod over x of (integral of p(x | z, c) p(z | c) dz) dc

    Args:
        shape: shape of one input; pictures of one channel have Bernoulli likelihoods, other inputs Gaussian ones.
        width: channels of the networks at full size; vectors are four times as long.
    """
    check_type("shape", shape, (tuple, list), "the shape of one input, such as (1, 28, 28)")
    drawings = len(shape) == 3 and shape[0] == 1
    likelihood, parameters = (bernoulli_log_p, 1) if drawings else (gaussian_log_p, 2)
    size = 4 * width
    read: nn.Module
    write: nn.Module
    latent = 2 * width
    if len(shape) == 3 and min(shape[1:]) >= 16:
        read = picture_reader(shape, width=width, out=size)
        write = PictureWriter(2 * latent, (parameters * shape[0], *shape[1:]), width=width)
    else:
        read = mlp(shape, widths=(size, size), out=size)
        write = mlp((2 * latent,), widths=(size, size), out=parameters * prod(shape))
        if len(shape) > 1:
            write = nn.Sequential(write, nn.Unflatten(1, (parameters * shape[0], *shape[1:])))
    return NeuralStatistician(read, write, size, latent=latent, likelihood=likelihood)
