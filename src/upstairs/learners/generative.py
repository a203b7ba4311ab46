"""What generates: a learner whose state, from a few examples of one class, draws more of that class.

Its tasks are sets of one class (a way of 1). What it predicts of a query is one number: a lower bound on its
log-likelihood in nats, or what it has in place of one; higher is better.
"""

from abc import abstractmethod
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from upstairs.core import Learner, LossFn, State


def minus(prediction: Float[Tensor, "n 1"], y: Tensor) -> Float[Tensor, " n"]:
    """The loss of a generator: less what it predicts of each query, whose label says nothing."""
    return -prediction[:, 0]


class GenerativeLearner(Learner[State]):
    """A learner that makes more examples of the class whose examples it has seen.

    All randomness comes in as standard normal numbers, so that `draw` is a pure function of the state and of them: it
    runs inside another learner's `adapt`, has a gradient, and the same numbers under two states show the same hand.
    """

    loss_fn: LossFn = staticmethod(minus)
    way = min_way = 1
    noise_size: int  # standard normal numbers for one example

    @abstractmethod
    def draw(self, state: State, noise: Float[Tensor, "count k"], /) -> Float[Tensor, "count *feature"]:
        """An example for each row of `noise_size` standard normal numbers, in the range of the inputs."""

    @final
    def sample(self, state: State, count: int, generator: torch.Generator) -> Float[Tensor, "count *feature"]:
        """`count` new examples of the class."""
        return self.draw(state, torch.randn(count, self.noise_size, generator=generator))

    @property
    def max_way(self) -> int:
        return 1
