"""Learning of categories: what a class is, from embeddings of its examples."""

from collections.abc import Callable

import torch

from upstairs.core import Learner, evaluating
from upstairs.data.audio.augment import Hearing
from upstairs.learners.building import (
    FUNCTIONS,
    INNER_LOOP,
    METRIC,
    Build,
    Entry,
    Shape,
    length,
    make_net,
    on_encoder,
    own_network,
    scale,
)
from upstairs.learners.gradient.proto_maml import proto_maml, unicorn_maml
from upstairs.learners.metric.bd_cspn import BDCSPN
from upstairs.learners.metric.closed_form import R2D2, MetaOptNet
from upstairs.learners.metric.dn4 import DN4
from upstairs.learners.metric.early_exit import EarlyExit, costs_of
from upstairs.learners.metric.metanas import MetaNAS
from upstairs.learners.metric.pretrained import BaselinePlusPlus, CoTraining, SimpleShot
from upstairs.learners.metric.protonet import MatchingNet, ProtoNet, RelationNet
from upstairs.nets import mlp, picture_maps, relation_conv, sound_maps
from upstairs.nets.cells import Exit, cells, chain
from upstairs.settings import Settings


def _pretrained(make: Callable[..., Learner]) -> Build:
    return on_encoder(lambda net, size, s, way: make(net, size, classes=s.classes or way, way=way, centred=True))


def _relationnet(settings: Settings, shape: Shape, way: int) -> Learner:
    if settings.net == "conv4":
        return RelationNet(*relation_conv(shape, width=settings.width, norm=settings.norm), way=way)
    encoder = make_net(settings, shape, None)
    size = length(encoder, shape)
    return RelationNet(encoder, mlp((2 * size,), widths=(settings.width,), out=1), way=way)


def _dn4(settings: Settings, shape: Shape, way: int) -> Learner:
    if settings.net == "sound":
        maps = sound_maps(shape, width=settings.width, norm=settings.norm, dropout=settings.dropout)
        return DN4(maps, way=way, window=0.2, views=Hearing().voices)
    if settings.net == "conv4":
        maps = picture_maps(shape, width=settings.width, norm=settings.norm, dropout=settings.dropout)
        return DN4(maps, way=way)
    return DN4(make_net(settings, shape, None), way=way)


_PROTONET = on_encoder(lambda net, size, s, way: ProtoNet(net, way=way, scale=scale(s, size)))
_MATCHINGNET = on_encoder(lambda net, size, s, way: MatchingNet(net, way=way))
_R2D2 = on_encoder(
    lambda net, size, s, way: R2D2(net, way=way, strength=10.0 if way else 1.0, scale=10.0 if way else 1.0)
)
_METAOPTNET = on_encoder(lambda net, size, s, way: MetaOptNet(net, way=way, scale=10.0))
_PROTO_MAML = on_encoder(
    lambda net, size, s, way: proto_maml(net, way=way, inner_lr=s.inner_lr, steps=s.inner_steps, scale=scale(s, size))
)
_UNICORN = on_encoder(lambda net, size, s, way: unicorn_maml(net, way=way, inner_lr=s.inner_lr, steps=s.inner_steps))
_BASELINE_PP = on_encoder(
    lambda net, size, s, way: BaselinePlusPlus(
        net, size, classes=s.classes or way, way=way, inner_lr=s.inner_lr, steps=s.inner_steps
    )
)

_SOLVER = METRIC | {"way": 20, "tasks": 2}
_PRETRAINED = METRIC | {"way": 64, "query": 1}


def _early_exit(settings: Settings, shape: Shape, way: int) -> Learner:
    own_network(settings)
    stages = chain(shape, width=settings.width, norm=settings.norm)
    x, end, sizes = torch.zeros(1, *shape), Exit(), []
    with evaluating(stages):
        for stage in stages:
            x = stage(x)
            sizes.append(end(x).shape[1])
    return EarlyExit(stages, sizes=sizes, costs=costs_of(stages, shape), way=way, scale=settings.scale)


def _metanas(settings: Settings, shape: Shape, way: int) -> Learner:
    own_network(settings)
    encoder = cells(shape, width=settings.width, norm=settings.norm)
    return MetaNAS(encoder, way=way, scale=scale(settings, length(encoder, shape)))


METRIC_LEARNERS: dict[str, Entry] = {
    # learning of categories
    "protonet": Entry(
        _PROTONET, METRIC, "prototypical network: a class is the mean embedding of its examples (Snell 2017)"
    ),
    "matchingnet": Entry(
        _MATCHINGNET, METRIC, "matching network: attention to the support examples by cosine (Vinyals 2016)"
    ),
    "relationnet": Entry(
        _relationnet, METRIC | {"way": 5, "tasks": 4, "query": 10},
        "relation network: a learned comparison of query and class (Sung 2018)",
    ),
    "dn4": Entry(
        _dn4, METRIC | {"way": 20, "query": 2},
        "local features, each compared with those that it is most like (Li 2019)",
    ),
    "r2d2": Entry(
        _R2D2, _SOLVER, "ridge regression on each task, solved in closed form (Bertinetto 2019)", FUNCTIONS
    ),
    "metaoptnet": Entry(_METAOPTNET, _SOLVER, "a support vector machine on each task (Lee 2019)"),
    "proto_maml": Entry(
        _PROTO_MAML, METRIC | {"way": 20, "inner_lr": 0.1},
        "MAML from the head that ProtoNet amounts to (Triantafillou 2020)",
    ),
    "unicorn_maml": Entry(
        _UNICORN, INNER_LOOP, "MAML from a head that is the same for every class (Ye and Chao 2022)"
    ),
    "co_training": Entry(
        _pretrained(CoTraining), _PRETRAINED | {"lr": 6e-3},
        "prototypes, with an auxiliary classification of all training classes (Oreshkin 2018)",
    ),
    # no meta-learning: a network that classified all training classes
    "simpleshot": Entry(
        _pretrained(SimpleShot), _PRETRAINED,
        "no meta-learning: nearest mean of centred, normalised features (Wang 2019)",
    ),
    "baseline_pp": Entry(
        _BASELINE_PP, _PRETRAINED | {"inner_steps": 100, "inner_lr": 0.01},
        "no meta-learning: a cosine classifier trained on each task's features (Chen 2019)",
    ),
    "bd_cspn": Entry(
        _pretrained(BDCSPN), _PRETRAINED, "prototypes rectified by the queries; transductive (Liu 2020)"
    ),
    # learning of structure: what the network is, and how deep
    "metanas": Entry(
        _metanas, METRIC | {"way": 20, "width": 32},
        "MetaNAS: a search for the network across tasks, then that network as a ProtoNet (Elsken 2020)",
    ),
    "early_exit": Entry(
        _early_exit, METRIC | {"way": 20, "tasks": 3},
        "a ProtoNet of which each query reads only as many stages as it needs (Graves 2016, Teerapittayanon 2016)",
    ),
}  # fmt: skip
