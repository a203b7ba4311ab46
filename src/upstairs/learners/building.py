"""Builds a learner and its network from settings."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from upstairs.core import Learner
from upstairs.errors import UpstairsError
from upstairs.functional.exclusive import alone
from upstairs.learners.entries import Build, Shape
from upstairs.learners.options import GradientOptions, InnerLoopOptions, ScaleOptions, ViewOptions
from upstairs.learners.registry import entry_of
from upstairs.nets import conv4, embedding_size, mlp, pretrained_net, projection, resnet12, sound_conv, text_net
from upstairs.nets.text import READINGS
from upstairs.settings import CONVOLUTIONAL, LearnerOptions, Settings

Options = TypeVar("Options", bound=LearnerOptions)


def make_learner(settings: Settings, shape: Shape, way: int | None) -> Learner:
    """Builds the learner of the settings, with meta-parameters drawn from torch's global generator."""
    learner = entry_of(settings).builder(settings, shape, way)
    if isinstance(settings.own, ViewOptions):
        learner.views = settings.own.views
    return learner


def seeded_learner(settings: Settings, shape: Shape, way: int | None) -> Learner:
    """As `make_learner`, drawn from the settings' seed; torch's global generator is not changed."""
    with alone(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return make_learner(settings, shape, way)


def own_options(settings: Settings, kind: type[Options]) -> Options:
    """Returns the learner's own options, checked to be of this class."""
    if not isinstance(settings.own, kind):
        raise TypeError(f"'{settings.learner}' has {type(settings.own).__name__}: its entry must name {kind.__name__}")
    return settings.own


def make_net(settings: Settings, shape: Shape, out: int | None) -> Any:
    """Builds the network `settings.net`: an encoder where `out` is None, else a network with `out` outputs."""
    if settings.net in CONVOLUTIONAL:
        make = {"conv4": conv4, "resnet12": resnet12, "sound": sound_conv}[settings.net]
        steps = settings.own.inner_steps if isinstance(settings.own, InnerLoopOptions) else 1
        common = {"norm": settings.norm, "steps": steps, "dropout": settings.dropout}
        return make(shape, width=settings.width, out=out, **common)
    if settings.dropout and settings.net != "mlp":
        raise UpstairsError(
            f"`dropout` is for pictures, sounds and mlp, and the network is {settings.net}: leave it out"
        )
    if settings.net in READINGS:
        if len(shape) != 2:
            raise UpstairsError(
                f"`net` {settings.net} reads texts and was given inputs of shape {shape}: use conv4 or mlp"
            )
        return text_net(settings.net, settings.width, words=shape[0], out=out)
    if settings.net == "pretrained":
        return pretrained_net(settings.encoder, shape, tuned=settings.tune, out=out)
    if settings.net == "projection":
        return projection(shape, out=out)
    widths = (settings.width * (1 if settings.task_kind == "regression" else 4), settings.width)
    return mlp(shape, widths=widths, out=out, dropout=settings.dropout)


def on_net(make: Callable[..., Learner]) -> Build:
    """Returns a builder that calls `make` with a network with a last layer."""

    def build(settings: Settings, shape: Shape, way: int | None) -> Learner:
        net, own = (
            make_net(settings, shape, settings.outputs if way is None else way),
            own_options(settings, GradientOptions),
        )
        return make(net, way=way, inner_lr=own.inner_lr, steps=own.inner_steps, batch=own.inner_batch)

    return build


def on_encoder(make: Callable[..., Learner]) -> Build:
    """Returns a builder that calls `make` with (encoder, length of its embeddings, settings, way)."""

    def build(settings: Settings, shape: Shape, way: int | None) -> Learner:
        encoder = make_net(settings, shape, None)
        return make(encoder, embedding_size(encoder, shape), settings, way)

    return build


def own_network(settings: Settings) -> None:
    """Raises UpstairsError for inputs that a learner with its own network cannot read."""
    if settings.net not in (*CONVOLUTIONAL, "mlp"):
        raise UpstairsError(
            f"{settings.learner} brings a network of its own, for pictures and vectors, and `net` is {settings.net} ("
            "what texts and frozen features need): choose another learner, such as protonet"
        )


def scale(settings: Settings, size: int) -> float:
    """Returns the factor of the squared distance between embeddings of length `size`."""
    return own_options(settings, ScaleOptions).scale / size**0.5
