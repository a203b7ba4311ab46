"""How the generative learners are built from settings."""

from math import prod

from torch import nn

from upstairs.core import Learner
from upstairs.errors import UpstairsError
from upstairs.learners.building import own_options
from upstairs.learners.entries import Shape
from upstairs.learners.generative.dagan import DAGAN, Redrawer
from upstairs.learners.generative.likelihood import bernoulli_log_p, gaussian_log_p
from upstairs.learners.generative.neural_statistician import NeuralStatistician
from upstairs.learners.generative.redrawing import Redrawing
from upstairs.learners.options import CriticOptions
from upstairs.nets import mlp
from upstairs.nets.drawing import Bender, PictureWriter, critic, picture_reader
from upstairs.settings import Settings


def build_statistician(settings: Settings, shape: Shape, way: int | None) -> Learner:
    drawings = len(shape) == 3 and shape[0] == 1  # ink or paper; all else has a mean and a scale for each value
    likelihood, parameters = (bernoulli_log_p, 1) if drawings else (gaussian_log_p, 2)
    width, size = settings.width, 4 * settings.width
    read: nn.Module
    write: nn.Module
    latent = 2 * width
    if len(shape) == 3 and min(shape[1:]) >= 16:
        read = picture_reader(shape, width=width, out=size)
        write = PictureWriter(2 * latent, (parameters * shape[0], *shape[1:]), width=width)
    else:
        read = mlp(shape, widths=(size, size), out=size)
        write = mlp((2 * latent,), widths=(size, size), out=parameters * prod(shape))
        if len(shape) > 1:
            write = nn.Sequential(write, nn.Unflatten(1, (parameters * shape[0], *shape[1:])))
    return NeuralStatistician(read, write, size, latent=latent, likelihood=likelihood)


def build_redrawing(settings: Settings, shape: Shape, way: int | None) -> Learner:
    if len(shape) != 3 or shape[0] != 1 or min(shape[1:]) < 16:
        raise UpstairsError(
            f"redrawing takes pictures of one channel and 16x16 pixels or more and was given inputs of shape {shape}: "
            "use dagan for pictures of several channels, or resize smaller ones"
        )
    return Redrawing(shape, width=settings.width, latent=4 * settings.width)


def build_dagan(settings: Settings, shape: Shape, way: int | None) -> Learner:
    if len(shape) != 3 or min(shape[1:]) < 16:
        raise UpstairsError(
            f"dagan takes pictures of 16x16 pixels or more and was given inputs of shape {shape}: resize smaller ones"
        )
    size = 2 * settings.width
    read = picture_reader(shape, width=settings.width, out=2 * size)
    generator = Redrawer(read, Bender(size, 2 * size, shape, width=settings.width))
    judge = critic((3 * shape[0], *shape[1:]), width=2 * settings.width)
    return DAGAN(generator, judge, size=size, turns=own_options(settings, CriticOptions).critic_steps)
