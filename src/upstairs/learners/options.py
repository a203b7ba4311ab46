"""The options that only some learners have, a class for each set of them; entries of the registry name these."""

from dataclasses import dataclass
from typing import Literal

from upstairs.settings import LearnerOptions, option


@dataclass(frozen=True, kw_only=True)
class InnerLoopOptions(LearnerOptions):
    """Learners with an inner loop."""

    inner_steps: int = option(1, "Steps of the inner loop.", least=0)
    inner_lr: float = option(0.4, "Learning rate of the inner loop.", above=0)


@dataclass(frozen=True, kw_only=True)
class GradientOptions(InnerLoopOptions):
    """Learners whose inner loop can take minibatches of the support set."""

    inner_batch: int | None = option(None, "Support examples in an inner step. Left out: all of them.", least=1)


@dataclass(frozen=True, kw_only=True)
class ScaleOptions(LearnerOptions):
    """Learners that compare by squared distance."""

    scale: float = option(
        0.8, "Factor of the squared distance, which is also divided by the square root of its dimension.", above=0
    )


@dataclass(frozen=True, kw_only=True)
class ViewOptions(LearnerOptions):
    """Metric learners, which compare one embedding of each example."""

    views: Literal[1, 2, 10] = option(
        1, "Photos, in use: the mean features of a picture and its mirror image (2), or of ten crops (10)."
    )


@dataclass(frozen=True, kw_only=True)
class PrototypeOptions(ScaleOptions, ViewOptions):
    """Prototypes by squared distance."""


@dataclass(frozen=True, kw_only=True)
class ProtoMamlOptions(InnerLoopOptions, ScaleOptions):
    """An inner loop from prototypes."""


@dataclass(frozen=True, kw_only=True)
class FineTuningOptions(InnerLoopOptions, ViewOptions):
    """A classifier that is trained on the embeddings of each support set."""


@dataclass(frozen=True, kw_only=True)
class CriticOptions(LearnerOptions):
    """Games of a generator against a critic."""

    critic_steps: int = option(1, "Steps of the critic for each one of the generator.", least=1)
