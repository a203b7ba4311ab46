"""What generates: a learner whose state, from a few examples of one class, draws more of that class.

Its tasks are sets of one class (a way of 1). What it predicts of a query is one number: a lower bound on its
log-likelihood in nats, or what it has in place of one; higher is better.
"""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from upstairs.core import Examples, Learner, LossFn, State
from upstairs.learners.generative.likelihood import scatter
from upstairs.learners.model_based.conditioned import Noise


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


class GenerativeLearner(Learner[State]):
    """A learner that makes more examples of the class whose examples it has seen.

    All randomness comes in as standard normal numbers, so that `draw` is a pure function of the state and of them: it
    runs inside another learner's `adapt`, has a gradient, and the same numbers under two states show the same hand.
    """

    loss_fn: LossFn = staticmethod(minus)
    way = min_way = 1
    needs_hard_labels = "has one class in a task"

    @abstractmethod
    def draw(self, state: State, noise: Float[Tensor, "count k"], /) -> Float[Tensor, "count *feature"]:
        """An example for each row of `noise_size` standard normal numbers, in the range of the inputs."""

    @property
    def max_way(self) -> int:
        return 1


class Unconditioned(GenerativeLearner[State]):
    """The same network without its examples: its state is that of an empty support set, what it knows of all classes.

    It is the baseline of a generator that `conditions_on_none`, such as the Neural Statistician, whose prior is p(c).
    """

    def __init__(self, generator: Learner[State]) -> None:
        super().__init__()
        self.generator, self.noise_size = generator, generator.noise_size

    def adapt(self, support: Examples, /) -> State:
        return self.generator.adapt(support._replace(mask=torch.zeros_like(support.mask)))

    def predict(self, state: State, x: Tensor, /) -> Float[Tensor, "n 1"]:
        return self.generator.predict(state, x)

    def draw(self, state: State, noise: Float[Tensor, "count k"], /) -> Tensor:
        return self.generator.draw(state, noise)
