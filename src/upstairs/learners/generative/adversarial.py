"""A penalty on a critic's gradient, and a score of generated inputs without a classifier."""

import math
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from upstairs.functional.differentiate import gradient

Critic = Callable[[Float[Tensor, "n *feature"]], Float[Tensor, " n"]]
SCALE = 0.25  # standard deviation of the Gaussian around each generated input, in `nearness`


def zero_slope(critic: Critic, x: Float[Tensor, "n *feature"]) -> Float[Tensor, ""]:
    """Returns half the mean squared norm of the critic's gradient at the inputs, as a differentiable penalty.

    At real inputs it is R1, at generated ones R2 (Mescheder et al. 2018).
    """
    grads = gradient(lambda inputs: critic(inputs["x"]).sum(), {"x": x}, create_graph=True)
    return grads["x"].flatten(1).square().sum(1).mean() / 2


def nearness(made: Float[Tensor, "m *feature"], x: Float[Tensor, "n *feature"]) -> Float[Tensor, "n 1"]:
    """Returns log 1/m sum over j of N(x; made_j, 0.25^2) for each x, in nats: Parzen windows (Goodfellow et al. 2014).

    Its mean over draws is a lower bound on the log-likelihood of x under the generator with that noise added. It falls
    where the generator has lost a mode.
    """
    a, b = x.flatten(1), made.flatten(1)
    distance = (a[:, None] - b[None]).square().sum(2)
    constant = a.shape[1] * math.log(SCALE * (2 * math.pi) ** 0.5) + math.log(len(b))
    return ((-distance / (2 * SCALE**2)).logsumexp(1) - constant)[:, None]
