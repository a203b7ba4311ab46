"""Generative learners, which model the examples of one class; some of them generate new ones.

Their tasks are sets of one class (a way of 1). The prediction for a query is one number, the higher the better: a lower
bound on its log-likelihood in nats, or another score.
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
    """Returns the loss of a generator, the negative prediction for each query; labels are ignored."""
    return -prediction[:, 0]


class Course(Noise):
    """The schedules of a variational autoencoder: its noise, the weight of its KL terms, and empty support sets.

    The KL weight `heat` rises from 0.1 to 1 over the first tenth of training. `kept` is 0 in one meta-step of eight,
    where the support set is left out so that the network also learns the prior over classes. In evaluation both are 1.
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
        """Returns noise for each example; the rows depend only on the examples, and differ between tasks."""
        numbers = self().to(x.dtype)
        return F.embedding(scatter(x) % len(numbers), numbers)


class Exemplars(NamedTuple):
    """The support pictures, an encoding of each, and which are real."""

    x: Float[Tensor, "n c h w"]
    summary: Float[Tensor, "n e"]
    mask: Bool[Tensor, " n"]

    def at(self, index: Int[Tensor, " m"]) -> tuple[Float[Tensor, "m c h w"], Float[Tensor, "m e"]]:
        """Returns the picture and its summary for each index."""
        return F.embedding(index, self.x.flatten(1)).reshape(-1, *self.x.shape[1:]), F.embedding(index, self.summary)

    @property
    def size(self) -> Int[Tensor, ""]:
        return self.mask.sum().clamp(min=1)

    def choose(self, noise: Float[Tensor, " m"]) -> Int[Tensor, " m"]:
        """Maps each standard normal number to the index of a real picture, uniformly."""
        share = 0.5 * (1 + torch.erf(noise / 2**0.5))  # uniform from 0 to 1
        return nth(self.mask, torch.minimum((share * self.size).long(), self.size - 1))


class GenerativeLearner(Learner[State]):
    """A learner that models the class of its support set; it predicts a bound on the log-likelihood of a query.

    A learner that generates new examples has `noise_size` and `draw`. `draw` is a pure, differentiable function of the
    state and of standard normal noise; equal noise under two states gives drawings of equal style.
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
    """A baseline for a generator: the same network with the state of an empty support set.

    It needs a generator that `conditions_on_none`, such as the Neural Statistician, whose prior is p(c).
    """

    def __init__(self, generator: Learner[State]) -> None:
        super().__init__()
        self.generator = generator

    def adapt(self, support: Examples, /) -> State:
        return self.generator.adapt(support._replace(mask=torch.zeros_like(support.mask)))

    def predict(self, state: State, x: Tensor, /) -> Float[Tensor, "n 1"]:
        return self.generator.predict(state, x)
