"""The plain opponents of regression: the mean of the support targets, and the exact posterior of a Gaussian process."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from upstairs.core import Examples, Learner, LossFn, squared_error
from upstairs.tasks.functions import GaussianProcess


class SupportMean(Learner[Tensor]):
    """The opponent without learning: every query has the mean of the support targets."""

    loss_fn: LossFn = staticmethod(squared_error)

    def adapt(self, support: Examples, /) -> Float[Tensor, " d"]:
        return torch.where(support.mask[:, None], support.y, 0.0).sum(0) / support.mask.sum().clamp(min=1)

    def predict(self, mean: Float[Tensor, " d"], x: Tensor, /) -> Float[Tensor, "n d"]:
        return mean.expand(len(x), -1)


class Posterior(NamedTuple):
    """The support inputs and the weight of each: (K + noise^2 I)^-1 y, zero on padding."""

    x: Float[Tensor, "n 1"]
    weights: Float[Tensor, "n 1"]


class GaussianPosterior(Learner[Posterior]):
    """The best possible on tasks of a Gaussian process: its posterior mean
    (Rasmussen and Williams 2006, equation 2.25).

        f(x) = k(x, X) (K + noise^2 I)^-1 y,   K = k(X, X)

    Args:
        process: the one that the tasks were drawn from, with its length and noise.
    """

    loss_fn: LossFn = staticmethod(squared_error)

    def __init__(self, process: GaussianProcess) -> None:
        super().__init__()
        self.process = process

    def adapt(self, support: Examples, /) -> Posterior:
        real = support.mask[:, None]
        both = (real & support.mask).to(support.x.dtype)
        noise = torch.where(support.mask, self.process.noise**2, 1.0)
        covariance = self.process.kernel(support.x, support.x) * both + torch.diag(noise)
        return Posterior(support.x, torch.linalg.solve(covariance, torch.where(real, support.y, 0.0)))

    def predict(self, posterior: Posterior, x: Tensor, /) -> Float[Tensor, "n 1"]:
        return self.process.kernel(x, posterior.x) @ posterior.weights
