"""A variational autoencoder that redraws: an example of a class is another one, warped by a latent."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from upstairs.core import Examples, Task
from upstairs.errors import UpstairsError, check_type
from upstairs.learners.generative.base import Course, Exemplars, GenerativeLearner
from upstairs.learners.generative.likelihood import Gaussian, bernoulli_log_p, gaussian, nth, scatter
from upstairs.nets.drawing import Bender, pair_reader, picture_reader


class Redrawing(GenerativeLearner[Exemplars]):
    """A generator whose new pictures of a class are its support pictures redrawn, each with its own latent.

        p(x | S) = 1/|S| sum over s in S of integral of p(x | z, s) p(z | s) dz,   p(x | z, s) = Bernoulli(bender(z, s))
        meta-loss = mean over queries x, with s one of S, of KL(q(z | x, s) || p(z | s)) - log p(x | z, s)

    The decoder warps the support picture and redraws its strokes (`Bender`; one-shot generation with a spatial
    transformer: Rezende et al. 2016). Decoding from a code alone would blur unseen classes.

    `predict` returns the importance-weighted bound on log p(x | S) of each query; its samples are divided among the
    support pictures, the nearest first. Values above a half are ink (1), others paper (0).

    Args:
        shape: shape of one input, (1, height, width), of 16 pixels or more.
        width: channels of the drawing network at full size.
        latent: length of z.
        samples: number of samples in the bound of `predict`.
    """

    bounds_likelihood = True

    def __init__(self, shape: tuple[int, ...], *, width: int, latent: int, samples: int = 50) -> None:
        super().__init__()
        self.latent, self.noise_size, size = latent, 1 + latent, 8 * width
        self.summarise = picture_reader(shape, width=width, out=size)
        self.recognise = pair_reader(shape, width=width, out=2 * latent)
        self.prior = nn.Sequential(nn.ReLU(), last := nn.Linear(size, 2 * latent))
        with torch.no_grad():  # nearly a standard normal at the start
            last.weight.mul_(0.1), last.bias.zero_()
        self.bender = Bender(latent, size, shape, width=width)
        self.course = Course(latent, samples=samples)

    def at(self, progress: float) -> None:
        self.course.at(progress)

    def adapt(self, support: Examples, /) -> Exemplars:
        return Exemplars(support.x, self.summarise(support.x), support.mask)

    def meta_loss(self, task: Task) -> tuple[Tensor, Float[Tensor, "n 1"]]:
        """Returns the negative evidence lower bound per query, each given one of the support pictures."""
        x, state = task.query.x, self.adapt(task.support)
        s, h = state.at(nth(state.mask, scatter(x) // 7 % state.size))
        q = self.posterior(x, s)
        fit = bernoulli_log_p(self.bender(q.at(self.course.rows(x)), s, h), x)
        bound = fit - self.course.heat * q.kl(gaussian(self.prior(h)))
        return -task.query.mean(bound), bound[:, None]

    def posterior(self, x: Float[Tensor, "n c h w"], s: Float[Tensor, "n c h w"]) -> Gaussian:
        """Returns q(z | x, s)."""
        return gaussian(self.recognise(torch.cat([x, s], 1)))

    def predict(self, state: Exemplars, x: Tensor, /) -> Float[Tensor, "n 1"]:
        near, numbers, logs = self.nearest(state, x), self.course.fixed.to(x.dtype), []
        each = [self.posterior(x, state.at(index)[0]) for index in near.unbind(1)]
        means, scales = torch.stack([q.mean for q in each]), torch.stack([q.log_scale for q in each])
        places = torch.arange(len(state.mask), device=x.device)
        for k, row in enumerate(numbers):
            rank = torch.full_like(state.size, k) % state.size
            here = (places == rank).to(x.dtype)[:, None, None]
            q = Gaussian((here * means).sum(0), (here * scales).sum(0))
            s, h = state.at((near * (places == rank)).sum(1))
            z = q.at(row)
            fit = bernoulli_log_p(self.bender(z, s, h), x) + gaussian(self.prior(h)).log_p(z) - q.log_p(z)
            share = (len(numbers) - 1 - rank) // state.size + 1  # number of samples for this support picture
            logs.append(fit - (share * state.size).to(x.dtype).log())
        return torch.stack(logs).logsumexp(0)[:, None]

    def nearest(self, state: Exemplars, x: Tensor) -> Int[Tensor, "n m"]:
        """Returns for each query the indices of the support pictures, nearest first, padding last."""
        a, b = x.flatten(1), state.x.flatten(1)
        distance = b.square().sum(1) - 2 * a @ b.T
        return torch.where(state.mask, distance, torch.finfo(a.dtype).max).argsort(1)

    def draw(self, state: Exemplars, noise: Float[Tensor, "count k"], /) -> Tensor:
        s, h = state.at(state.choose(noise[:, 0]))
        logits = self.bender(gaussian(self.prior(h)).at(noise[:, 1:]), s, h)
        return (4 * (logits + 0.5)).sigmoid()  # sharpened, with ink above a probability of 0.38


def redrawing(shape: tuple[int, ...], *, width: int = 16) -> Redrawing:
    """A variational autoencoder that redraws: p(x | S) = 1/|S| sum over s of integral p(x | z, s) p(z | s) dz.

    Args:
        shape: shape of one picture, (1, height, width), of 16 pixels or more.
        width: channels of the drawing network at full size.

    Raises:
        UpstairsError: inputs of another shape.
    """
    check_type("shape", shape, (tuple, list), "the shape of one input, such as (1, 28, 28)")
    if len(shape) != 3 or shape[0] != 1 or min(shape[1:]) < 16:
        raise UpstairsError(
            f"redrawing takes pictures of one channel and 16x16 pixels or more and was given inputs of shape {shape}: "
            "use dagan for pictures of several channels, or resize smaller ones"
        )
    return Redrawing(shape, width=width, latent=4 * width)
