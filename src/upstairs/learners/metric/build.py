"""Builders of the metric learners from settings."""

from collections.abc import Callable

from upstairs.core import Learner
from upstairs.data.audio.augment import Hearing
from upstairs.learners.building import make_net, on_encoder, own_network, own_options, scale
from upstairs.learners.entries import Build, Shape
from upstairs.learners.gradient.proto_maml import proto_maml, unicorn_maml
from upstairs.learners.metric.bd_cspn import BDCSPN
from upstairs.learners.metric.closed_form import metaoptnet, r2d2
from upstairs.learners.metric.dn4 import DN4
from upstairs.learners.metric.early_exit import early_exit
from upstairs.learners.metric.metanas import MetaNAS
from upstairs.learners.metric.pretrained import BaselinePlusPlus, CoTraining, SimpleShot
from upstairs.learners.metric.protonet import MatchingNet, ProtoNet, RelationNet
from upstairs.learners.options import InnerLoopOptions, ScaleOptions
from upstairs.nets import embedding_size, mlp, picture_maps, relation_conv, sound_maps
from upstairs.nets.cells import cells, chain
from upstairs.settings import Settings


def pretrained(make: Callable[..., Learner]) -> Build:
    """Returns a builder of a learner that classifies all training classes."""
    return on_encoder(lambda net, size, s, way: make(net, size, classes=s.classes or way, way=way, centred=True))


def on_encoder_with_steps(make: Callable[..., Learner]) -> Build:
    """Returns a builder of a learner with an encoder and an inner loop."""

    def build(net, size, s, way):
        own = own_options(s, InnerLoopOptions)
        return make(net, size, s, way=way, inner_lr=own.inner_lr, steps=own.inner_steps)

    return on_encoder(build)


build_protonet = on_encoder(lambda net, size, s, way: ProtoNet(net, way=way, scale=scale(s, size)))
build_matchingnet = on_encoder(lambda net, size, s, way: MatchingNet(net, way=way))
build_r2d2 = on_encoder(lambda net, size, s, way: r2d2(net, way=way))
build_metaoptnet = on_encoder(lambda net, size, s, way: metaoptnet(net, way=way))
build_co_training, build_simpleshot, build_bd_cspn = (pretrained(kind) for kind in (CoTraining, SimpleShot, BDCSPN))
build_proto_maml = on_encoder_with_steps(
    lambda net, size, s, **options: proto_maml(net, scale=scale(s, size), **options)
)
build_unicorn_maml = on_encoder_with_steps(lambda net, size, s, **options: unicorn_maml(net, **options))
build_baseline_pp = on_encoder_with_steps(
    lambda net, size, s, way, **options: BaselinePlusPlus(net, size, classes=s.classes or way, way=way, **options)
)


def build_relationnet(settings: Settings, shape: Shape, way: int) -> Learner:
    if settings.net == "conv4":
        return RelationNet(*relation_conv(shape, width=settings.width, norm=settings.norm), way=way)
    encoder = make_net(settings, shape, None)
    size = embedding_size(encoder, shape)
    return RelationNet(encoder, mlp((2 * size,), widths=(settings.width,), out=1), way=way)


def build_dn4(settings: Settings, shape: Shape, way: int) -> Learner:
    if settings.net == "sound":
        maps = sound_maps(shape, width=settings.width, norm=settings.norm, dropout=settings.dropout)
        return DN4(maps, way=way, window=0.2, views=Hearing().voices)
    if settings.net == "conv4":
        maps = picture_maps(shape, width=settings.width, norm=settings.norm, dropout=settings.dropout)
        return DN4(maps, way=way)
    return DN4(make_net(settings, shape, None), way=way)


def build_early_exit(settings: Settings, shape: Shape, way: int) -> Learner:
    own_network(settings)
    stages = chain(shape, width=settings.width, norm=settings.norm)
    return early_exit(stages, way=way, shape=shape, scale=own_options(settings, ScaleOptions).scale)


def build_metanas(settings: Settings, shape: Shape, way: int) -> Learner:
    own_network(settings)
    encoder = cells(shape, width=settings.width, norm=settings.norm)
    return MetaNAS(encoder, way=way, scale=scale(settings, embedding_size(encoder, shape)))
