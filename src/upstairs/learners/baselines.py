"""The baselines of regression: the mean of the support targets, and the exact posterior of a Gaussian process."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from upstairs.core import Examples, Learner, LossFn, gaussian_nll, squared_error
from upstairs.data.regression import GaussianProcess


class SupportMean(Learner[Tensor]):
    """A baseline without learning: every query has the mean of the support targets."""

    loss_fn: LossFn = staticmethod(squared_error)

    def adapt(self, support: Examples, /) -> Float[Tensor, " d"]:
        return support.pool(support.y)

    def predict(self, mean: Float[Tensor, " d"], x: Tensor, /) -> Float[Tensor, "n d"]:
        return mean.expand(len(x), -1)


class Posterior(NamedTuple):
    """The support inputs, the weight of each, and the precision (K + noise^2 I)^-1; both are zero on padding."""

    x: Float[Tensor, "n 1"]
    weights: Float[Tensor, "n 1"]
    precision: Float[Tensor, "n n"]


class GaussianPosterior(Learner[Posterior]):
    """The best possible on tasks of a Gaussian process: the predictive distribution of its posterior
    (Rasmussen and Williams 2006, equations 2.25 and 2.26, with the noise of the target that is to be predicted).

        mean = k(x, X) P y,   variance = k(x, x) - k(x, X) P k(X, x) + noise^2,   P = (k(X, X) + noise^2 I)^-1

    Args:
        process: the one that the tasks were drawn from, with its length and noise.
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
        variance = (1 - explained).clamp(min=0) + self.process.noise**2  # clamped: rounding may leave less than none
        return torch.cat([near @ posterior.weights, 0.5 * variance.log()], 1)
