"""Neural processes: a set encoder reads the support set, and a decoder answers with a Gaussian for each query.

A prediction is [mean, log scale]. Scales are at least 0.05, so that no single query can have a likelihood without end.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from upstairs.core import Examples, Learner, LossFn, Task, gaussian_nll
from upstairs.learners.conditioned import Noise
from upstairs.nets.sequence import attend

LEAST = 0.05


def layers(*sizes: int) -> nn.Sequential:
    """Linear layers of these sizes with GELU between."""
    net = nn.Sequential()
    for i, (a, b) in enumerate(pairwise(sizes)):
        net.extend([nn.GELU(), nn.Linear(a, b)] if i else [nn.Linear(a, b)])
    return net


def bounded(raw: Float[Tensor, "*n d2"]) -> Float[Tensor, "*n d2"]:
    """[mean, log scale] with scale = 0.05 + 0.95 softplus."""
    mean, scale = raw.chunk(2, -1)
    return torch.cat([mean, (LEAST + (1 - LEAST) * F.softplus(scale)).log()], -1)


class CNP(Learner[Tensor]):
    """Conditional neural process (Garnelo et al. 2018): a mean over the support set is all that a task leaves.

        r = mean of h([x_i, y_i]),   p(y | x) = N(g([x, r]))

    Args:
        size: numbers in one input.
        width: of all hidden layers.
        outputs: numbers in one target.
    """

    loss_fn: LossFn = staticmethod(gaussian_nll)

    def __init__(self, size: int, *, width: int = 128, outputs: int = 1) -> None:
        super().__init__()
        self.read = layers(size + outputs, width, width, width)
        self.answer = layers(size + width, width, width, 2 * outputs)

    def adapt(self, support: Examples, /) -> Float[Tensor, " d"]:
        return support.pool(self.read(torch.cat([support.x, support.y], 1)))

    def predict(self, state: Float[Tensor, " d"], x: Tensor, /) -> Float[Tensor, "n out"]:
        return bounded(self.answer(torch.cat([x, state.expand(len(x), -1)], 1)))


class Latent(NamedTuple):
    """A Gaussian over the latent of a task."""

    mean: Float[Tensor, " d"]
    scale: Float[Tensor, " d"]


def kl_divergence(q: Latent, p: Latent) -> Float[Tensor, ""]:
    """KL(q || p) of Gaussians with independent numbers, in nats."""
    ratio = (q.scale / p.scale).square()
    return 0.5 * (ratio + ((q.mean - p.mean) / p.scale).square() - 1 - ratio.log()).sum()


class LNP(Learner[Latent]):
    """Neural process with a latent (Garnelo et al. 2018, "Neural Processes").

        q(z | S) = N(m(r), s(r)),   r = mean of h([x_i, y_i]) over the set S,   p(y | x, z) = N(g([x, z]))
        meta-loss = -(E over q(z | all) of sum log p(y_j | x_j, z) - KL(q(z | all) || q(z | support))) / queries

    `predict` answers with the Gaussian that has the mean and the variance of the mixture over draws of q(z | support).

    Args:
        size: numbers in one input.
        width: of all hidden layers, and of the latent.
        outputs: numbers in one target.
        samples: of the latent in training; in evaluation 32, always with the same noise.
    """

    loss_fn: LossFn = staticmethod(gaussian_nll)

    def __init__(self, size: int, *, width: int = 128, outputs: int = 1, samples: int = 4) -> None:
        super().__init__()
        self.read = layers(size + outputs, width, width, width)
        self.latent = layers(width, width, 2 * width)
        self.answer = layers(size + width, width, width, 2 * outputs)
        self.noise = Noise(width, samples=samples, judged=32)

    def at(self, progress: float) -> None:
        self.noise.at(progress)

    def adapt(self, support: Examples, /) -> Latent:
        r = support.pool(self.read(torch.cat([support.x, support.y], 1)))
        mean, scale = self.latent(r[None])[0].chunk(2)
        return Latent(mean, 0.01 + 0.99 * scale.sigmoid())

    def answers(self, z: Float[Tensor, "samples d"], x: Tensor) -> Float[Tensor, "samples n out"]:
        """p(y | x, z) for each latent."""
        count, n = len(z), len(x)
        both = torch.cat([x[None].expand(count, n, -1), z[:, None].expand(count, n, -1)], 2)
        return bounded(self.answer(both.flatten(0, 1))).reshape(count, n, -1)

    def predict(self, state: Latent, x: Tensor, /) -> Float[Tensor, "n out"]:
        means, logs = self.answers(state.mean + state.scale * self.noise().to(x.dtype), x).chunk(2, -1)
        mean = means.mean(0)
        variance = (2 * logs).exp().mean(0) + (means - mean).square().mean(0)
        return torch.cat([mean, 0.5 * variance.log()], -1)

    def terms(self, task: Task, noise: Float[Tensor, "samples d"]) -> tuple[Tensor, Latent, Latent, Tensor]:
        """log p(queries | z) of each draw z of q(z | all) [samples], q(z | all), q(z | support), and the draws."""
        q, prior = self.adapt(task.together()), self.adapt(task.support)
        z = q.mean + q.scale * noise.to(q.mean.dtype)
        count = len(z)
        y = task.query.y[None].expand(count, -1, -1).flatten(0, 1)
        each = -gaussian_nll(self.answers(z, task.query.x).flatten(0, 1), y).reshape(count, -1)
        return torch.where(task.query.mask, each, 0.0).sum(1), q, prior, z

    def meta_loss(self, task: Task) -> tuple[Float[Tensor, ""], Float[Tensor, "n out"]]:
        """The negative evidence lower bound, per query."""
        likelihood, q, prior, _ = self.terms(task, self.noise())
        bound = likelihood.mean() - kl_divergence(q, prior)
        return -bound / task.query.mask.sum().clamp(min=1), self.predict(prior, task.query.x)

    def importance_bound(self, task: Task, noise: Float[Tensor, "samples d"]) -> Float[Tensor, ""]:
        """log of the mean of p(queries | z) q(z | support) / q(z | all) over draws of q(z | all), per query
        (Burda, Grosse and Salakhutdinov 2016): nearer to log p(queries | support) with more draws."""
        likelihood, q, prior, z = self.terms(task, noise)
        ratio = log_density(prior, z) - log_density(q, z)
        count = torch.tensor(float(len(z)), dtype=z.dtype)
        return ((likelihood + ratio).logsumexp(0) - count.log()) / task.query.mask.sum().clamp(min=1)


def log_density(latent: Latent, z: Float[Tensor, "samples d"]) -> Float[Tensor, " samples"]:
    return -gaussian_nll(torch.cat([latent.mean, latent.scale.log()]).expand(len(z), -1), z)


class CrossAttention(nn.Module):
    """Attention of several heads to the real examples of a set (Vaswani et al. 2017), written out, and what follows.

        a = softmax(q k / sqrt(d)) v of each head,   out = u + MLP(u),   u = from_ + a

    There is one place more to attend to, whose key and value are learned: it says that nothing is near.
    """

    def __init__(self, width: int, *, heads: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(width, width, bias=False), nn.Linear(width, width)
        self.nothing = nn.Parameter(0.1 * torch.randn(1, width))
        self.after = layers(width, 2 * width, width)

    def forward(
        self, from_: Float[Tensor, "n d"], to: Float[Tensor, "m d"], mask: Bool[Tensor, " m"]
    ) -> Float[Tensor, "n d"]:
        to = torch.cat([self.nothing, to])
        real = F.pad(mask.to(to.dtype), (1, 0), value=1.0) > 0
        u = from_ + self.out(attend(self.query(from_), self.key(to), self.value(to), real, heads=self.heads))
        return u + self.after(u)


class Memory(NamedTuple):
    """What is kept of each support example, and which are real."""

    r: Float[Tensor, "n d"]
    mask: Bool[Tensor, " n"]


class ANP(Learner[Memory]):
    """Attentive neural process (Kim et al. 2019), its deterministic path: a query attends to the support set.

        r = self-attention of h([w(x_i), y_i]),   u = attention of e(w(x)) to r, twice,   p(y | x) = N(g(u))

    w(x) = [x, sin(A x), cos(A x)] with A learned: products of queries and keys can then depend on x - x'. The paper's
    latent path is left out: it makes samples coherent and has to be trained by a bound; this is trained by the
    likelihood itself.

    Args:
        size: numbers in one input.
        width: of all hidden layers.
        outputs: numbers in one target.
    """

    loss_fn: LossFn = staticmethod(gaussian_nll)

    def __init__(self, size: int, *, width: int = 64, outputs: int = 1, waves: int = 16) -> None:
        super().__init__()
        self.waves = nn.Linear(size, waves, bias=False)
        nn.init.normal_(self.waves.weight, std=2.0)
        features = size + 2 * waves
        self.read, self.ask = layers(features + outputs, width, width), layers(features, width, width)
        self.among = nn.ModuleList(CrossAttention(width) for _ in range(2))
        self.across = nn.ModuleList(CrossAttention(width) for _ in range(2))
        self.answer = layers(width, width, 2 * outputs)

    def features(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n f"]:
        angle = self.waves(x)
        return torch.cat([x, angle.sin(), angle.cos()], 1)

    def adapt(self, support: Examples, /) -> Memory:
        r = self.read(torch.cat([self.features(support.x), support.y], 1))
        for layer in self.among:
            r = layer(r, r, support.mask)
        return Memory(r, support.mask)

    def predict(self, state: Memory, x: Tensor, /) -> Float[Tensor, "n out"]:
        u = self.ask(self.features(x))
        for layer in self.across:
            u = layer(u, state.r, state.mask)
        return bounded(self.answer(u))
