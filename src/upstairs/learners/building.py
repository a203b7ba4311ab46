"""How an entry of the table makes its learner: networks that settings name, and defaults that families share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from upstairs.core import Learner, evaluating
from upstairs.errors import UpstairsError
from upstairs.learners.gradient.maml import GradientLearner
from upstairs.nets import conv4, mlp, pretrained_transformer, projection, resnet12, sound_conv, text_net
from upstairs.nets.text import READINGS
from upstairs.settings import CONVOLUTIONAL, Settings

Shape = tuple[int, ...]
Build = Callable[[Settings, Shape, int], Learner]  # (settings, shape of one input, way) -> learner; way 0: regression


class Entry(NamedTuple):
    """One line of the table: how to make it, its default settings, what it is in a sentence."""

    make: Build
    defaults: dict[str, Any] | None  # None where it does not classify
    summary: str
    regression: dict[str, Any] | None = None  # its default settings for regression; None where it does not regress


def make_net(settings: Settings, shape: Shape, out: int | None) -> Any:
    """The network that `settings.net` names: an encoder where `out` is None, else a classifier with `out` logits."""
    if settings.net in CONVOLUTIONAL:
        make = {"conv4": conv4, "resnet12": resnet12, "sound": sound_conv}[settings.net]
        common = {"norm": settings.norm, "steps": settings.inner_steps, "dropout": settings.dropout}
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
        return pretrained_transformer(settings.encoder, out=out)
    if settings.net == "projection":
        return projection(shape, out=out)
    widths = (settings.width * (4 if settings.way else 1), settings.width)
    return mlp(shape, widths=widths, out=out, dropout=settings.dropout)


def on_net(make: Callable[..., GradientLearner], wrap: Callable[[Any], Any] = lambda net: net) -> Build:
    """On a network with a last layer, as `wrap` changes it."""

    def build(settings: Settings, shape: Shape, way: int) -> Learner:
        net, rate = wrap(make_net(settings, shape, way or 1)), settings.inner_lr
        return make(net, way=way, inner_lr=rate, steps=settings.inner_steps, batch=settings.inner_batch)

    return build


def on_encoder(make: Callable[[nn.Module, int, Settings, int], Learner]) -> Build:
    """From (encoder, length of its embeddings, settings, way)."""

    def build(settings: Settings, shape: Shape, way: int) -> Learner:
        encoder = make_net(settings, shape, None)
        return make(encoder, length(encoder, shape), settings, way)

    return build


def own_network(settings: Settings) -> None:
    """Refuse inputs for which a learner that brings a network of its own has none."""
    if settings.net not in (*CONVOLUTIONAL, "mlp"):
        raise UpstairsError(
            f"{settings.learner} brings a network of its own, for pictures and vectors, and `net` is {settings.net} ("
            "what texts and frozen features need): choose another learner, such as protonet"
        )


def length(encoder: nn.Module, shape: Shape) -> int:
    """Of one embedding."""
    with evaluating(encoder):
        return encoder(torch.zeros(1, *shape)).shape[-1]


def scale(settings: Settings, size: int) -> float:
    """Of the squared distance between embeddings of `size` numbers."""
    return settings.scale / size**0.5


INNER_LOOP = {
    "way": 5, "shot": "1", "query": 5, "tasks": 4, "width": 32, "norm": "batch", "inner_steps": 1, "inner_lr": 0.4,
    "lr": 3e-3,
}  # fmt: skip
SMALL_STEPS = INNER_LOOP | {"inner_steps": 5, "inner_lr": 0.1}  # no second order mends what one large step spoils
METRIC = {"way": 60, "shot": "1", "query": 5, "tasks": 1, "width": 64, "norm": "population", "lr": 2e-3}
FUNCTIONS = {
    "way": 0, "shot": "5", "query": 10, "tasks": 25, "net": "mlp", "width": 40, "norm": "none", "inner_steps": 1,
    "inner_lr": 0.01, "lr": 1e-3,
}  # fmt: skip
