"""The table: every learner by its published name, with defaults that train well with no option given.

Adding one touches three places: its class or function in a file of this room, an entry here, a row in the tests' table.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from upstairs.core import Learner, evaluating
from upstairs.errors import UpstairsError
from upstairs.learners.closed_form import R2D2, MetaOptNet
from upstairs.learners.context import cavia, modulated
from upstairs.learners.gradient import GradientLearner, anil, boil, fomaml, imaml, maml, meta_curvature, meta_sgd
from upstairs.learners.heads import proto_maml, unicorn_maml
from upstairs.learners.metric import MatchingNet, ProtoNet, RelationNet
from upstairs.learners.multi_step import maml_pp
from upstairs.learners.pretrained import BaselinePlusPlus, SimpleShot
from upstairs.learners.reptile import reptile
from upstairs.learners.transductive import BDCSPN
from upstairs.learners.transfer import mtl
from upstairs.nets import bag, conv4, mlp, projection, relation_conv
from upstairs.settings import Settings

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
    if settings.net == "conv4":
        return conv4(shape, width=settings.width, norm=settings.norm, steps=settings.inner_steps, out=out)
    if settings.net == "bag":
        if len(shape) != 2:
            raise UpstairsError(f"--net bag reads texts and was given inputs of shape {shape}: use conv4 or mlp")
        return bag(settings.width, out=out)
    if settings.net == "projection":
        return projection(shape, out=out)
    return mlp(shape, widths=(settings.width * (4 if settings.way else 1), settings.width), out=out)


def _gradient(make: Callable[..., GradientLearner], wrap: Callable[[Any], Any] = lambda net: net) -> Build:
    """On a network with a last layer, as `wrap` changes it."""

    def build(settings: Settings, shape: Shape, way: int) -> Learner:
        net, rate = wrap(make_net(settings, shape, way or 1)), settings.inner_rate
        return make(net, way=way, rate=rate, steps=settings.inner_steps, batch=settings.inner_batch)

    return build


def _on_encoder(make: Callable[[nn.Module, int, Settings, int], Learner]) -> Build:
    """From (encoder, length of its embeddings, settings, way)."""

    def build(settings: Settings, shape: Shape, way: int) -> Learner:
        encoder = make_net(settings, shape, None)
        return make(encoder, _size(encoder, shape), settings, way)

    return build


def _size(encoder: nn.Module, shape: Shape) -> int:
    with evaluating(encoder):
        return encoder(torch.zeros(1, *shape)).shape[-1]


def _pretrained(make: Callable[..., Learner]) -> Build:
    return _on_encoder(lambda net, size, s, way: make(net, size, classes=s.classes or way, way=way, centred=True))


def _scale(settings: Settings, size: int) -> float:
    """Of the squared distance between embeddings of `size` numbers."""
    return settings.scale / size**0.5


def _relationnet(settings: Settings, shape: Shape, way: int) -> Learner:
    if settings.net == "conv4":
        return RelationNet(*relation_conv(shape, width=settings.width, norm=settings.norm), way=way)
    encoder = make_net(settings, shape, None)
    size = _size(encoder, shape)
    return RelationNet(encoder, mlp((2 * size,), widths=(settings.width,), out=1), way=way)


_PROTONET = _on_encoder(lambda net, size, s, way: ProtoNet(net, way=way, scale=_scale(s, size)))
_MATCHINGNET = _on_encoder(lambda net, size, s, way: MatchingNet(net, way=way))
_R2D2 = _on_encoder(
    lambda net, size, s, way: R2D2(net, way=way, strength=10.0 if way else 1.0, scale=10.0 if way else 1.0)
)
_METAOPTNET = _on_encoder(lambda net, size, s, way: MetaOptNet(net, way=way, scale=10.0))
_PROTO_MAML = _on_encoder(
    lambda net, size, s, way: proto_maml(net, way=way, rate=s.inner_rate, steps=s.inner_steps, scale=_scale(s, size))
)
_UNICORN = _on_encoder(lambda net, size, s, way: unicorn_maml(net, way=way, rate=s.inner_rate, steps=s.inner_steps))
_BASELINE_PP = _on_encoder(
    lambda net, size, s, way: BaselinePlusPlus(
        net, size, classes=s.classes or way, way=way, rate=s.inner_rate, steps=s.inner_steps
    )
)

_INNER_LOOP = {
    "way": 5, "shot": "1", "query": 5, "tasks": 4, "width": 32, "norm": "batch", "inner_steps": 1, "inner_rate": 0.4,
    "rate": 3e-3,
}  # fmt: skip
_SMALL_STEPS = _INNER_LOOP | {"inner_steps": 5, "inner_rate": 0.1}  # no second order mends what one large step spoils
_METRIC = {"way": 60, "shot": "1", "query": 5, "tasks": 1, "width": 64, "norm": "population", "rate": 2e-3}
_SOLVER = _METRIC | {"way": 20, "tasks": 2}
_PRETRAINED = _METRIC | {"way": 64, "query": 1}
_FUNCTIONS = {
    "way": 0, "shot": "5", "query": 10, "tasks": 25, "net": "mlp", "width": 40, "norm": "none", "inner_steps": 1,
    "inner_rate": 0.01, "rate": 1e-3,
}  # fmt: skip
_STRATEGY = {"estimator": "es", "tasks": 25, "pairs": 2, "sigma": 0.02, "rate": 1e-2}

LEARNERS: dict[str, Entry] = {
    # meta gradient descent
    "maml": Entry(
        _gradient(maml), _INNER_LOOP, "MAML: a start from which few gradient steps suffice (Finn 2017)", _FUNCTIONS
    ),
    "anil": Entry(
        _gradient(anil), _INNER_LOOP, "ANIL: MAML that adapts its last layer alone (Raghu 2020)", _FUNCTIONS
    ),
    "boil": Entry(
        _gradient(boil), _INNER_LOOP, "BOIL: MAML that adapts all but its last layer (Oh 2021)", _FUNCTIONS
    ),
    "maml_pp": Entry(
        _gradient(maml_pp), _INNER_LOOP | {"inner_steps": 3},
        "MAML++: judged after each step, a learned rate for each step and layer (Antoniou 2019)", _FUNCTIONS,
    ),
    "imaml": Entry(
        _gradient(imaml), _SMALL_STEPS, "iMAML: meta-gradients at the minimum (Rajeswaran 2019)",
        _FUNCTIONS | {"inner_steps": 16, "inner_rate": 0.003},  # larger steps diverge within a few thousand
    ),
    "cavia": Entry(
        _gradient(cavia, lambda net: modulated(net, size=100)), _INNER_LOOP | {"inner_rate": 20.0, "inner_steps": 3},
        "CAVIA: a context that the network reads is all that adapts (Zintgraf 2019)", _FUNCTIONS,
    ),
    # meta stochastic gradient descent
    "fomaml": Entry(
        _gradient(fomaml), _SMALL_STEPS, "first-order MAML: inner gradients as constants (Finn 2017)", _FUNCTIONS
    ),
    "meta_sgd": Entry(
        _gradient(meta_sgd), _INNER_LOOP, "Meta-SGD: MAML with a learned rate for each weight (Li 2017)", _FUNCTIONS
    ),
    "meta_curvature": Entry(
        _gradient(meta_curvature), _INNER_LOOP,
        "MAML with a learned preconditioner of the gradient (Park 2019)", _FUNCTIONS,
    ),
    # meta transfer learning
    "reptile": Entry(
        _gradient(reptile), _INNER_LOOP | {"shot": "10", "inner_steps": 8, "inner_batch": 10, "inner_rate": 0.1},
        "Reptile: the start moves to where tasks end (Nichol 2018)",
        _FUNCTIONS | {"shot": "10", "inner_steps": 8, "inner_rate": 0.02},
    ),
    "es_maml": Entry(
        _gradient(maml),
        _INNER_LOOP | _STRATEGY | {"width": 8, "inner_steps": 5, "tasks": 16, "pairs": 1, "sigma": 0.1},
        "ES-MAML: MAML by evolution strategies, from losses alone (Song 2020)", _FUNCTIONS | _STRATEGY,
    ),
    "mtl": Entry(
        _gradient(mtl),
        {
            "way": 5, "shot": "1", "query": 5, "tasks": 4, "width": 64, "norm": "population", "inner_steps": 10,
            "inner_rate": 0.1, "rate": 2e-3, "pretrain": 0.6, "hard": 0.2,
        },
        "meta-transfer learning: scale and shift of a pretrained, frozen network (Sun 2019)",
    ),
    # learning of categories
    "protonet": Entry(
        _PROTONET, _METRIC, "prototypical network: a class is the mean embedding of its examples (Snell 2017)"
    ),
    "matchingnet": Entry(
        _MATCHINGNET, _METRIC, "matching network: attention to the support examples by cosine (Vinyals 2016)"
    ),
    "relationnet": Entry(
        _relationnet, _METRIC | {"way": 5, "tasks": 4, "query": 10},
        "relation network: a learned comparison of query and class (Sung 2018)",
    ),
    "r2d2": Entry(
        _R2D2, _SOLVER, "ridge regression on each task, solved in closed form (Bertinetto 2019)", _FUNCTIONS
    ),
    "metaoptnet": Entry(_METAOPTNET, _SOLVER, "a support vector machine on each task (Lee 2019)"),
    "proto_maml": Entry(
        _PROTO_MAML, _METRIC | {"way": 20, "inner_rate": 0.1},
        "MAML from the head that ProtoNet amounts to (Triantafillou 2020)",
    ),
    "unicorn_maml": Entry(
        _UNICORN, _INNER_LOOP, "MAML from a head that is the same for every class (Ye and Chao 2022)"
    ),
    # no meta-learning: a network that classified all training classes
    "simpleshot": Entry(
        _pretrained(SimpleShot), _PRETRAINED,
        "no meta-learning: nearest mean of centred, normalised features (Wang 2019)",
    ),
    "baseline_pp": Entry(
        _BASELINE_PP, _PRETRAINED | {"inner_steps": 100, "inner_rate": 0.01},
        "no meta-learning: a cosine classifier trained on each task's features (Chen 2019)",
    ),
    "bd_cspn": Entry(
        _pretrained(BDCSPN), _PRETRAINED, "prototypes rectified by the queries; transductive (Liu 2020)"
    ),
}  # fmt: skip
