"""How the generative learners are built from settings."""

from dataclasses import replace
from math import prod

from torch import nn

from upstairs.core import Learner
from upstairs.errors import UpstairsError
from upstairs.learners.building import length, make_net, own_network, own_options, scale
from upstairs.learners.entry import Shape
from upstairs.learners.generative.dagan import DAGAN, Redrawer
from upstairs.learners.generative.figr import FIGR
from upstairs.learners.generative.likelihood import likelihood_for
from upstairs.learners.generative.metagan import MetaGAN, NearMisses
from upstairs.learners.generative.neural_statistician import NeuralStatistician
from upstairs.learners.generative.redrawing import Redrawing
from upstairs.learners.metric.protonet import ProtoNet
from upstairs.learners.options import CriticOptions, InnerLoopOptions
from upstairs.nets import mlp
from upstairs.nets.drawing import Bender, PictureWriter, picture_reader
from upstairs.nets.generator import critic, writer
from upstairs.settings import Settings


def build_statistician(settings: Settings, shape: Shape, way: int) -> Learner:
    likelihood, width, size = likelihood_for(shape), settings.width, 4 * settings.width
    read: nn.Module
    write: nn.Module
    latent, values = 2 * width, prod(shape)
    if len(shape) == 3 and min(shape[1:]) >= 16:
        read = picture_reader(shape, width=width, out=size)
        write = PictureWriter(2 * latent, (likelihood.parameters * shape[0], *shape[1:]), width=width)
    else:
        read = mlp(shape, widths=(size, size), out=size)
        write = mlp((2 * latent,), widths=(size, size), out=likelihood.parameters * values)
        if len(shape) > 1:
            write = nn.Sequential(write, nn.Unflatten(1, (likelihood.parameters * shape[0], *shape[1:])))
    return NeuralStatistician(read, write, size, latent=latent, values=values, likelihood=likelihood)


def build_redrawing(settings: Settings, shape: Shape, way: int) -> Learner:
    if len(shape) != 3 or shape[0] != 1 or min(shape[1:]) < 16:
        raise UpstairsError(
            f"redrawing takes pictures of one channel and 16x16 pixels or more and was given inputs of shape {shape}: "
            "use neural_statistician"
        )
    return Redrawing(shape, width=settings.width, latent=4 * settings.width)


def build_metagan(settings: Settings, shape: Shape, way: int) -> Learner:
    own_network(settings)
    encoder = make_net(settings, shape, None)
    classifier = ProtoNet(encoder, way=way, scale=scale(settings, length(encoder, shape)))
    small = replace(settings, width=max(8, settings.width // 4))
    context = make_net(small, shape, None)
    size = length(context, shape)
    generator = NearMisses(context, writer(2 * size, shape, width=small.width), size=size)
    return MetaGAN(classifier, generator, turns=own_options(settings, CriticOptions).critic_steps)


def build_dagan(settings: Settings, shape: Shape, way: int) -> Learner:
    if len(shape) != 3 or min(shape[1:]) < 16:
        raise UpstairsError(
            f"dagan takes pictures of 16x16 pixels or more and was given inputs of shape {shape}: use figr"
        )
    size = 2 * settings.width
    read = picture_reader(shape, width=settings.width, out=2 * size)
    generator = Redrawer(read, Bender(size, 2 * size, shape, width=settings.width))
    return DAGAN(
        generator, critic((3 * shape[0], *shape[1:]), width=2 * settings.width), size=size, turns=own_options(settings, CriticOptions).critic_steps
    )


def build_figr(settings: Settings, shape: Shape, way: int) -> Learner:
    own_network(settings)
    own, size = own_options(settings, InnerLoopOptions), 2 * settings.width
    return FIGR(
        writer(size, shape, width=settings.width), critic(shape, width=settings.width), size=size,
        inner_lr=own.inner_lr, steps=own.inner_steps,
    )  # fmt: skip
