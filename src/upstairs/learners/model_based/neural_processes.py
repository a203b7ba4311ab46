"""Neural processes: a set encoder reads the support set, and a decoder predicts a Gaussian for each query.

A prediction is [mean, log scale]. Scales are at least 0.05, so that the likelihood of a query is bounded.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from upstairs.core import Examples, Learner, LossFn, Task, gaussian_nll
from upstairs.errors import check_type
from upstairs.learners.model_based.conditioned import Noise
from upstairs.nets.sequence import attend

LEAST = 0.05


def layers(*sizes: int) -> nn.Sequential:
    """Returns linear layers of these sizes with GELU between."""
    net = nn.Sequential()
    for i, (a, b) in enumerate(pairwise(sizes)):
        net.extend([nn.GELU(), nn.Linear(a, b)] if i else [nn.Linear(a, b)])
    return net


def bounded(raw: Float[Tensor, "*n d2"]) -> Float[Tensor, "*n d2"]:
    """Returns [mean, log scale] with scale = 0.05 + 0.95 softplus."""
    mean, scale = raw.chunk(2, -1)
    return torch.cat([mean, (LEAST + (1 - LEAST) * F.softplus(scale)).log()], -1)


class CNP(Learner[Tensor]):
    """Conditional neural process (Garnelo et al. 2018): the state is a mean over the support set.

        r = mean of h([x_i, y_i]),   p(y | x) = N(g([x, r]))

    Args:
        size: length of an input.
        width: width of all hidden layers.
        outputs: length of a target.
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


class LNP(Learner[Latent]):
    """Neural process with a latent (Garnelo et al. 2018b), by maximum likelihood (Foong et al. 2020).

        q(z | S) = N(m(r), s(r)),   r = mean of h([x_i, y_i]) over the set S,   p(y | x, z) = N(g([x, z]))
        meta-loss = -log(1/L sum over l of product over queries of p(y_j | x_j, z_l)) / queries,  z_l ~ q(z | support)

    This is the joint likelihood of all queries, estimated by L draws. (The bound of the first paper underfits: its mean
    squared error was no better than that of a network from scratch.) `predict` returns the Gaussian with the mean and
    the variance of the mixture over draws.

    Args:
        size: length of an input.
        width: width of all hidden layers, and of the latent.
        outputs: length of a target.
        samples: L in training; in evaluation 32, with fixed noise.
    """

    loss_fn: LossFn = staticmethod(gaussian_nll)

    def __init__(self, size: int, *, width: int = 128, outputs: int = 1, samples: int = 8) -> None:
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

    def answers(self, state: Latent, x: Tensor) -> Float[Tensor, "samples n out"]:
        """Returns p(y | x, z) for each draw z of the latent."""
        z = state.mean + state.scale * self.noise().to(x.dtype)
        count, n = len(z), len(x)
        both = torch.cat([x[None].expand(count, n, -1), z[:, None].expand(count, n, -1)], 2)
        return bounded(self.answer(both.flatten(0, 1))).reshape(count, n, -1)

    def predict(self, state: Latent, x: Tensor, /) -> Float[Tensor, "n out"]:
        return mixture(self.answers(state, x))

    def meta_loss(self, task: Task) -> tuple[Float[Tensor, ""], Float[Tensor, "n out"]]:
        """Returns -log p(all queries | support) per query, estimated by draws of q(z | support)."""
        answers = self.answers(self.adapt(task.support), task.query.x)
        count = len(answers)
        y = task.query.y[None].expand(count, -1, -1).flatten(0, 1)
        each = -gaussian_nll(answers.flatten(0, 1), y).reshape(count, -1)
        together = torch.where(task.query.mask, each, 0.0).sum(1)
        likelihood = together.logsumexp(0) - torch.tensor(float(count), dtype=together.dtype).log()
        return -likelihood / task.query.mask.sum().clamp(min=1), mixture(answers)


def mixture(answers: Float[Tensor, "samples n d2"]) -> Float[Tensor, "n d2"]:
    """Returns the Gaussian with the mean and the variance of a mixture, [mean, log scale]."""
    means, logs = answers.chunk(2, -1)
    mean = means.mean(0)
    variance = (2 * logs).exp().mean(0) + (means - mean).square().mean(0)
    return torch.cat([mean, 0.5 * variance.log()], -1)


class CrossAttention(nn.Module):
    """Multi-head attention to the real examples of a set, and an MLP (Vaswani et al. 2017).

        a = softmax(q k / sqrt(d)) v of each head,   out = u + MLP(u),   u = from_ + a

    One learned token is added to the set; attending to it means that no example is near.
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
    """The representation of each support example, and which are real."""

    r: Float[Tensor, "n d"]
    mask: Bool[Tensor, " n"]


class ANP(Learner[Memory]):
    """Attentive neural process (Kim et al. 2019), its deterministic path: a query attends to the support set.

        r = self-attention of h([w(x_i), y_i]),   u = attention of e(w(x)) to r, twice,   p(y | x) = N(g(u))

    w(x) = [x, sin(A x), cos(A x)] with A learned, so that products of queries and keys can depend on x - x'. The
    paper's latent path, which makes samples coherent and is trained by a bound, is left out: training uses the
    likelihood.

    Args:
        size: length of an input.
        width: width of all hidden layers.
        outputs: length of a target.
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


def _check_sizes(inputs: Any, outputs: Any, width: Any) -> None:
    """Raises UpstairsError for a size that is no number, such as a network, which these learners bring."""
    check_type("inputs", inputs, int, "the length of one input, such as 1 (the learner makes its own network)")
    check_type("outputs", outputs, int, "the length of one target, such as 1")
    check_type("width", width, int, "the width of all hidden layers, such as 128")


def cnp(inputs: int = 1, *, outputs: int = 1, width: int = 128) -> CNP:
    """Conditional neural process (Garnelo et al. 2018): r = mean of h([x_i, y_i]),   p(y | x) = N(g([x, r])).

    Args:
        inputs, outputs: length of one x and of one y.
        width: width of all hidden layers.
    """
    _check_sizes(inputs, outputs, width)
    return CNP(inputs, width=width, outputs=outputs)


def lnp(inputs: int = 1, *, outputs: int = 1, width: int = 128) -> LNP:
    """Neural process with a latent (Garnelo et al. 2018b), by maximum likelihood: p(y | x, z) = N(g([x, z])).

    Args:
        inputs, outputs, width: as for `cnp`.
    """
    _check_sizes(inputs, outputs, width)
    return LNP(inputs, width=width, outputs=outputs)


def anp(inputs: int = 1, *, outputs: int = 1, width: int = 64) -> ANP:
    """Attentive neural process (Kim et al. 2019): queries attend to the support set, p(y | x) = N(g(attention(x))).

    Args:
        inputs, outputs, width: as for `cnp`.
    """
    _check_sizes(inputs, outputs, width)
    return ANP(inputs, width=width, outputs=outputs)
