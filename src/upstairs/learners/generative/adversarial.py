"""What a generator and a critic play for: losses, penalties on the critic's gradient, and a score that needs no judge.

relativistic    critic softplus(D(made) - D(real)), generator softplus(D(real) - D(made))
                (Jolicoeur-Martineau 2019; with both penalties at zero it converges and keeps all modes: Huang et
                al. 2024, R3GAN)
Wasserstein     critic D(made) - D(real), generator -D(made), and the critic's slope between them is held at 1
                (WGAN-GP, Gulrajani et al. 2017)
"""

import math
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from upstairs.functional.differentiate import gradient

Critic = Callable[[Float[Tensor, "n *feature"]], Float[Tensor, " n"]]
SCALE = 0.25  # of the Gaussian around each made input, in the score of what was made


def slopes(critic: Critic, x: Float[Tensor, "n *feature"]) -> Float[Tensor, " n"]:
    """The squared length of the critic's gradient at each input; it has a gradient itself."""
    grads = gradient(lambda inputs: critic(inputs["x"]).sum(), {"x": x}, create_graph=True)
    return grads["x"].flatten(1).square().sum(1)


def zero_slope(critic: Critic, x: Float[Tensor, "n *feature"]) -> Float[Tensor, ""]:
    """Half the mean squared slope at the inputs: R1 at real ones, R2 at made ones (Mescheder et al. 2018)."""
    return slopes(critic, x).mean() / 2


def unit_slope(
    critic: Critic, real: Float[Tensor, "n *feature"], made: Float[Tensor, "n *feature"], share: Float[Tensor, " n"]
) -> Float[Tensor, ""]:
    """The mean of (slope - 1)^2 at points between real and made inputs, `share` of the way (Gulrajani et al. 2017)."""
    share = share.reshape(-1, *(1,) * (real.ndim - 1))
    return ((slopes(critic, real + share * (made - real)) + 1e-12).sqrt() - 1).square().mean()


def nearness(made: Float[Tensor, "m *feature"], x: Float[Tensor, "n *feature"]) -> Float[Tensor, "n 1"]:
    """log 1/m sum over j of N(x; made_j, 0.25^2) for each x, in nats: Parzen windows (Goodfellow et al. 2014).

    The mean over draws is a lower bound on the log-likelihood of x under the generator with that much noise on top. A
    copy made well is near one x, many different ones are near all: it falls where the generator has lost a mode.
    """
    a, b = x.flatten(1), made.flatten(1)
    distance = (a[:, None] - b[None]).square().sum(2)
    constant = a.shape[1] * math.log(SCALE * (2 * math.pi) ** 0.5) + math.log(len(b))
    return ((-distance / (2 * SCALE**2)).logsumexp(1) - constant)[:, None]
