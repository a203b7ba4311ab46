"""Builders of the generative learners from settings."""

from upstairs.core import Learner
from upstairs.learners.building import own_options
from upstairs.learners.entries import Shape
from upstairs.learners.generative.dagan import dagan
from upstairs.learners.generative.neural_statistician import neural_statistician
from upstairs.learners.generative.redrawing import redrawing
from upstairs.learners.options import CriticOptions
from upstairs.settings import Settings


def build_statistician(settings: Settings, shape: Shape, way: int | None) -> Learner:
    return neural_statistician(shape, width=settings.width)


def build_redrawing(settings: Settings, shape: Shape, way: int | None) -> Learner:
    return redrawing(shape, width=settings.width)


def build_dagan(settings: Settings, shape: Shape, way: int | None) -> Learner:
    return dagan(shape, width=settings.width, turns=own_options(settings, CriticOptions).critic_steps)
