"""Evolution strategies: gradients from losses alone, in antithetic pairs (Salimans et al. 2017; Vicol et al. 2021).

    grad J(theta)  ~  mean over pairs of  xi (J(theta + e) - J(theta - e)) / (2 sigma^2),   e ~ N(0, sigma^2 I)

xi is e itself (ES), or the sum of a pair's perturbations since its loop began (PES). It estimates the gradient of J
smoothed by a Gaussian of width sigma; J need not be differentiable. With N pairs and M parameters, the squared cosine
with the true gradient is N / (N + M - 1) on average (`upstairs.engine.evolution`).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from upstairs.functional.call import Params


def draw_noise(
    params: Mapping[str, Tensor], sigma: float, count: int, generator: torch.Generator | None = None
) -> Params:
    """Draws `count` perturbations e of all parameters, along a new first axis."""
    return {
        n: sigma * torch.randn(count, *p.shape, dtype=p.dtype, device=p.device, generator=generator)
        for n, p in params.items()
    }


def perturb(params: Mapping[str, Tensor], noise: Params, sign: int) -> Params:
    """Returns theta + sign * e, as constants."""
    return {n: p.detach() + sign * noise[n] for n, p in params.items()}


def antithetic_gradient(xi: Params, rises: Tensor, sigma: float) -> Params:
    """Computes the mean over pairs of xi (J(theta + e) - J(theta - e)) / (2 sigma^2).

    Args:
        xi: by name [pair, *shape].
        rises: [pair], J(theta + e) - J(theta - e).
    """
    slopes = rises / (2 * sigma**2 * len(rises))
    return {n: torch.tensordot(slopes.to(x.dtype), x, 1) for n, x in xi.items()}
