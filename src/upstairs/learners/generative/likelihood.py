"""Distributions of the generative learners: Gaussians over latents, and likelihoods of examples."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

LogLikelihood = Callable[[Tensor, Tensor], Tensor]  # (outputs of a network, x) -> nats per example


class Gaussian(NamedTuple):
    """A Gaussian with a diagonal covariance."""

    mean: Float[Tensor, "*n d"]
    log_scale: Float[Tensor, "*n d"]

    def at(self, noise: Float[Tensor, "*m d"]) -> Float[Tensor, "*b d"]:
        """Returns the sample for this standard normal noise."""
        return self.mean + self.log_scale.exp() * noise

    def log_p(self, z: Float[Tensor, "*m d"]) -> Float[Tensor, "*b"]:
        """Returns the log density in nats, summed over dimensions."""
        error = (z - self.mean) * (-self.log_scale).exp()
        return -(0.5 * error.square() + self.log_scale + 0.5 * math.log(2 * math.pi)).sum(-1)

    def kl(self, other: "Gaussian") -> Float[Tensor, "*b"]:
        """Returns KL(self || other) in nats."""
        ratio = 2 * (self.log_scale - other.log_scale)
        error = (self.mean - other.mean) * (-other.log_scale).exp()
        return 0.5 * (ratio.exp() + error.square() - 1 - ratio).sum(-1)


def gaussian(numbers: Float[Tensor, "*n d2"]) -> Gaussian:
    """Converts [mean, log scale] to a Gaussian; scales are clamped between 0.0025 and 7.4."""
    mean, log_scale = numbers.chunk(2, -1)
    return Gaussian(mean, log_scale.clamp(-6.0, 2.0))


def bernoulli_log_p(logits: Float[Tensor, "n *feature"], x: Float[Tensor, "n *feature"]) -> Float[Tensor, " n"]:
    """Returns the Bernoulli log-likelihood of pictures, whose values above a half are ink (1), others paper (0)."""
    ink = (x > 0.5).to(logits.dtype)
    return (ink * logits - F.softplus(logits)).flatten(1).sum(1)


def gaussian_log_p(parameters: Float[Tensor, "n *f2"], x: Float[Tensor, "n *feature"]) -> Float[Tensor, " n"]:
    """Returns the Gaussian log-likelihood, with two parameters per value; scales are at least 0.05 to bound it."""
    mean, scale = parameters.chunk(2, 1)
    return Gaussian(mean.flatten(1), (0.05 + 0.95 * F.softplus(scale)).log().flatten(1)).log_p(x.flatten(1))


def scatter(x: Float[Tensor, "n *feature"]) -> Int[Tensor, " n"]:
    """Returns integers that depend only on the examples, and differ between examples and between tasks."""
    ink = (x.flatten(1) > 0.5).sum(1)
    return 97 * ink.sum() + 31 * ink + torch.arange(len(x), device=x.device)


def nth(mask: Bool[Tensor, " n"], rank: Int[Tensor, " m"]) -> Int[Tensor, " m"]:
    """Returns the indices of the real examples with these ranks."""
    found = (mask.long().cumsum(0)[None] == rank[:, None] + 1) & mask[None]
    return found.long().argmax(1)
