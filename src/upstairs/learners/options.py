"""The learners' own options, a dataclass for each set; entries of the registry refer to these."""

from dataclasses import dataclass
from typing import Literal

from upstairs.settings import LearnerOptions, option


@dataclass(frozen=True, kw_only=True)
class InnerLoopOptions(LearnerOptions):
    """Options of learners with an inner loop."""

    inner_steps: int = option(1, "Steps of the inner loop.", least=0)
    inner_lr: float = option(0.4, "Learning rate of the inner loop.", above=0)


@dataclass(frozen=True, kw_only=True)
class GradientOptions(InnerLoopOptions):
    """Options of learners whose inner loop can use minibatches of the support set."""

    inner_batch: int | None = option(None, "Support examples in an inner step. Left out: all of them.", least=1)


@dataclass(frozen=True, kw_only=True)
class ScaleOptions(LearnerOptions):
    """Options of learners with a squared distance."""

    scale: float = option(
        0.8, "Factor of the squared distance, divided by the square root of the embedding size.", above=0
    )


@dataclass(frozen=True, kw_only=True)
class ViewOptions(LearnerOptions):
    """Options of metric learners with one embedding of each example."""

    views: Literal[1, 2, 10] = option(
        1, "Views of a photo in evaluation, whose features are averaged: with its mirror image (2), or ten crops (10)."
    )


@dataclass(frozen=True, kw_only=True)
class PrototypeOptions(ScaleOptions, ViewOptions):
    """Options of prototypes with a squared distance."""


@dataclass(frozen=True, kw_only=True)
class ProtoMamlOptions(InnerLoopOptions, ScaleOptions):
    """Options of an inner loop that starts from prototypes."""


@dataclass(frozen=True, kw_only=True)
class FineTuningOptions(InnerLoopOptions, ViewOptions):
    """Options of a classifier that is trained on the embeddings of each support set."""


@dataclass(frozen=True, kw_only=True)
class CriticOptions(LearnerOptions):
    """Options of a generator with a critic."""

    critic_steps: int = option(1, "Critic steps for each generator step.", least=1)
