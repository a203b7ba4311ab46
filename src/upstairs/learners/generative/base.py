"""Generative learners: they model the examples of one class, and some of them draw more of it.

Their tasks are sets of one class (a way of 1). The prediction for a query is one number: a lower bound on its
log-likelihood in nats, or the score that stands in its place; higher is better.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from upstairs.core import Examples, Learner, LossFn, State
from upstairs.learners.generative.likelihood import nth, scatter
from upstairs.learners.model_based.conditioned import Noise
from upstairs.settings import TaskKind


def minus(prediction: Float[Tensor, "n 1"], y: Tensor) -> Float[Tensor, " n"]:
    """The loss of a generator: less what it predicts of each query, whose label says nothing."""
    return -prediction[:, 0]


class Course(Noise):
    """What changes while a variational autoencoder trains: its noise, the weight of its KL terms, what it is shown.

    `heat` rises from 0.1 to 1 over the first tenth of training. `kept` is 0 in one meta-step of eight, where the
    support set is left out so that the network learns classes at large too; in evaluation both are 1.
    """

    heat: Tensor
    kept: Tensor

    def __init__(self, size: int, *, samples: int) -> None:
        super().__init__(size, samples=1024, judged=samples)

    def at(self, progress: float) -> None:
        super().at(progress)
        for name, value in (
            ("heat", min(1.0, 0.1 + 9 * progress)),
            ("kept", progress >= 1 or self.drawn[0, 0] > -1.15),
        ):
            self.register_buffer(name, torch.tensor(float(value)), persistent=False)

    def rows(self, x: Float[Tensor, "n *feature"]) -> Float[Tensor, "n size"]:
        """Noise for each example, other for each task: rows that depend on nothing but the examples."""
        numbers = self().to(x.dtype)
        return F.embedding(scatter(x) % len(numbers), numbers)


class Exemplars(NamedTuple):
    """The support pictures, a vector that tells what each is like, and which are real."""

    x: Float[Tensor, "n c h w"]
    summary: Float[Tensor, "n e"]
    mask: Bool[Tensor, " n"]

    def at(self, index: Int[Tensor, " m"]) -> tuple[Float[Tensor, "m c h w"], Float[Tensor, "m e"]]:
        """For each index the picture and its summary."""
        return F.embedding(index, self.x.flatten(1)).reshape(-1, *self.x.shape[1:]), F.embedding(index, self.summary)

    @property
    def size(self) -> Int[Tensor, ""]:
        return self.mask.sum().clamp(min=1)

    def choose(self, noise: Float[Tensor, " m"]) -> Int[Tensor, " m"]:
        """The place of a real picture for each standard normal number, all pictures alike."""
        share = 0.5 * (1 + torch.erf(noise / 2**0.5))  # uniform from 0 to 1
        return nth(self.mask, torch.minimum((share * self.size).long(), self.size - 1))


class GenerativeLearner(Learner[State]):
    """A learner that models the class of its support set: it predicts a bound on the log-likelihood of a query.

    One that draws more examples of the class has a `noise_size` and `draw`. All randomness comes in as standard normal
    numbers, so that `draw` is a pure function of the state and of them: it has a gradient, and the same numbers under
    two states show the same hand.
    """

    loss_fn: LossFn = staticmethod(minus)
    way = 1
    needs_hard_labels = "has one class in a task"

    @property
    def task_kind(self) -> TaskKind:
        return "generation"

    @property
    def max_way(self) -> int:
        return 1


class Unconditioned(GenerativeLearner[State]):
    """The same network without its examples: its state is that of an empty support set.

    It is the baseline of a generator that `conditions_on_none`, such as the Neural Statistician, whose prior is p(c).
    """

    def __init__(self, generator: Learner[State]) -> None:
        super().__init__()
        self.generator = generator

    def adapt(self, support: Examples, /) -> State:
        return self.generator.adapt(support._replace(mask=torch.zeros_like(support.mask)))

    def predict(self, state: State, x: Tensor, /) -> Float[Tensor, "n 1"]:
        return self.generator.predict(state, x)
