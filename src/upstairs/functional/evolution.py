"""Evolution strategies: gradients from losses alone, in antithetic pairs (Salimans et al. 2017; Vicol et al. 2021).

    grad J(theta)  ~  mean over pairs of  xi (J(theta + e) - J(theta - e)) / (2 sigma^2),   e ~ N(0, sigma^2 I)

xi is e itself (ES), or the sum of a pair's perturbations since its loop began (PES). It is the gradient of J smoothed
by a Gaussian of width sigma, and nothing need be differentiable. N pairs in M parameters have with the true gradient a
squared cosine of N / (N + M - 1) on average (`upstairs.engine.evolution`).
"""

import torch
from torch import Tensor

from upstairs.functional.call import Params


def draw_noise(params: Params, sigma: float, count: int, generator: torch.Generator | None = None) -> Params:
    """`count` perturbations e of all parameters, along a new first axis."""
    return {
        n: sigma * torch.randn(count, *p.shape, dtype=p.dtype, device=p.device, generator=generator)
        for n, p in params.items()
    }


def perturb(params: Params, noise: Params, sign: int) -> Params:
    """theta + e for a sign of 1 and theta - e for -1, as constants."""
    return {n: p.detach() + sign * noise[n] for n, p in params.items()}


def antithetic_gradient(xi: Params, rises: Tensor, sigma: float) -> Params:
    """The mean over pairs of xi (J(theta + e) - J(theta - e)) / (2 sigma^2).

    Args:
        xi: by name [pair, *shape].
        rises: J(theta + e) - J(theta - e) of each pair.
    """
    slopes = rises / (2 * sigma**2 * len(rises))
    return {n: torch.tensordot(slopes.to(x.dtype), x, 1) for n, x in xi.items()}
