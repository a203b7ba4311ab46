"""MetaGAN: a generator makes near-misses of a task, and a few-shot classifier learns to refuse them."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.core import Examples, Learner, State, Task
from upstairs.learners.generative.games import Game, Side
from upstairs.learners.model_based.conditioned import Noise

MOST = 64  # near-misses of a task


class NearMisses(nn.Module):
    """A generator of inputs that look like a task's: G(z, c), c the mean of e(x_i) over the support set.

    Args:
        encoder: e, any module from inputs to vectors of `size` numbers.
        write: from vectors of 2 `size` numbers, [z, c], to inputs.
    """

    def __init__(self, encoder: nn.Module, write: nn.Module, *, size: int) -> None:
        super().__init__()
        self.encoder, self.write = encoder, write
        self.noise = Noise(size, samples=MOST, judged=MOST)

    def forward(self, support: Examples, count: int) -> Float[Tensor, "count *feature"]:
        z = self.noise()[: min(count, MOST)]
        return self.write(torch.cat([z, support.pool(self.encoder(support.x)).expand_as(z)], 1))


class Refusing(nn.Module):
    """A classifier, and the logit of the class "none of these: it was made up", the same for all inputs."""

    SCALE = 10.0  # so that a few hundred steps carry it to where the logits are

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner, self.refuse = learner, nn.Parameter(torch.zeros(()))

    def realness(self, logits: Float[Tensor, "n way"]) -> Float[Tensor, " n"]:
        """log p(real) - log p(made up)."""
        return logits.logsumexp(1) - self.SCALE * self.refuse


class MetaGAN(Game[State]):
    """Any few-shot classifier learns beside a generator that tries to be taken for one of the task's classes.

    Zhang, Che, Ghahramani, Bengio and Song 2018. The classifier has one class more, "made up", whose logit is learned:

        L_classifier = L_query  -  mean log p(real | x), x of the queries  -  mean log p(made up | G(z, support))
        L_generator  = -mean log p(real | G(z, support))

    with log p(real | x) = log sum_k exp(logit_k) - log(exp(refuse) + sum_k exp(logit_k)). The generator need not be
    good: what it makes just outside the classes draws their boundary closer. It makes as many as there are classes (at
    most 64), and in training alone; predictions are the classifier's.

    Args:
        learner: the classifier; its state and its predictions are this learner's.
        generator: makes near-misses of a task.
        weight: of the two terms about made-up inputs in the classifier's loss; 1 in the paper, 0 leaves the classifier.
        turns: steps of the classifier for each one of the generator.
    """

    def __init__(
        self, learner: Learner[State], generator: NearMisses, *, weight: float = 1.0, turns: int = 1
    ) -> None:  # fmt: skip
        super().__init__()
        self.classifier, self.generator, self.weight = Refusing(learner), generator, weight
        self.loss_fn, self.way = learner.loss_fn, learner.way
        self.sides = {"classifier": Side(turns), "generator": Side(betas=(0.5, 0.999))}

    @property
    def inner(self) -> Learner[State]:
        """The classifier, for as many classes as this learner."""
        return self.classifier.learner.for_way(self.way)

    @property
    def transductive(self) -> bool:
        return self.classifier.learner.transductive

    @property
    def second_order(self) -> bool:
        return self.classifier.learner.second_order

    @property
    def max_way(self) -> int | None:
        return self.classifier.learner.max_way

    def at(self, progress: float) -> None:
        self.classifier.learner.at(progress)
        self.generator.noise.at(progress)

    def adapt(self, support: Examples, /) -> State:
        return self.inner.adapt(support)

    def predict(self, state: State, x: Tensor, /) -> Float[Tensor, "n way"]:
        return self.inner.predict(state, x)

    def player_loss(self, name: str, task: Task) -> tuple[Tensor, Tensor]:
        made = self.generator(task.support, self.way)
        if name == "generator":
            answers = self.predict(self.adapt(task.support), made)
            return -F.logsigmoid(self.classifier.realness(answers)).mean(), answers
        loss, prediction = self.inner.meta_loss(task)
        answers = self.predict(self.adapt(task.support), made)
        real = task.query.mean(-F.logsigmoid(self.classifier.realness(prediction)))
        fake = -F.logsigmoid(-self.classifier.realness(answers)).mean()
        return loss + self.weight * (real + fake), prediction
