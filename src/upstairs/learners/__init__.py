"""Every learner by its published name, with defaults that train well with no option given.

Adding one touches three places: its class or function in a file of this room, an entry here, a row in the tests' table.
"""

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, NamedTuple

import torch

from upstairs.core import Learner, evaluating
from upstairs.errors import UpstairsError
from upstairs.learners.closed_form import R2D2, MetaOptNet
from upstairs.learners.gradient import GradientLearner, anil, fomaml, maml, scratch, with_steps
from upstairs.learners.heads import HeadPerTask, proto_maml, unicorn_maml
from upstairs.learners.metric import MatchingNet, ProtoNet, RelationNet, nearest_centroid
from upstairs.learners.pretrained import BaselinePlusPlus, SimpleShot
from upstairs.learners.rules import SGD, UpdateRule
from upstairs.learners.transductive import BDCSPN
from upstairs.nets import conv4, mlp, relation_conv
from upstairs.settings import Settings

Shape = tuple[int, ...]


class Entry(NamedTuple):
    """One line of the table: how to make it, its default settings, what it is in a sentence."""

    make: Callable[[Settings, Shape, int], Learner]  # (settings, shape of one input, way) -> learner
    defaults: dict[str, Any]
    summary: str


def make_net(settings: Settings, shape: Shape, out: int | None) -> Any:
    """The network that `settings.net` names: an encoder where `out` is None, else a classifier with `out` logits."""
    if settings.net == "conv4":
        return conv4(shape, width=settings.width, norm=settings.norm, out=out)
    return mlp(shape, widths=(settings.width * 4, settings.width), out=out)


def _gradient(make: Callable[..., GradientLearner]) -> Callable[[Settings, Shape, int], Learner]:
    def build(settings: Settings, shape: Shape, way: int) -> Learner:
        return make(make_net(settings, shape, way), way=way, rate=settings.inner_rate, steps=settings.inner_steps)

    return build


def _on_encoder(make: Callable[..., Learner]) -> Callable[[Settings, Shape, int], Learner]:
    """From (encoder, length of its embeddings, settings, way)."""

    def build(settings: Settings, shape: Shape, way: int) -> Learner:
        encoder = make_net(settings, shape, None)
        with evaluating(encoder):
            size = encoder(torch.zeros(1, *shape)).shape[-1]
        return make(encoder, size, settings, way)

    return build


def _scale(settings: Settings, size: int) -> float:
    """Of the squared distance between embeddings of `size` numbers."""
    return settings.scale / size**0.5


def _relationnet(settings: Settings, shape: Shape, way: int) -> Learner:
    if settings.net == "conv4":
        return RelationNet(*relation_conv(shape, width=settings.width, norm=settings.norm), way=way)
    pair = mlp((2 * settings.width,), widths=(settings.width,), out=1)
    return RelationNet(make_net(settings, shape, None), pair, way=way)


_INNER_LOOP = {
    "way": 5,
    "shot": "1",
    "query": 5,
    "tasks": 4,
    "width": 32,
    "norm": "batch",
    "inner_steps": 1,
    "inner_rate": 0.4,
    "rate": 3e-3,
}

_METRIC = {"way": 60, "shot": "1", "query": 5, "tasks": 1, "width": 64, "norm": "population", "rate": 2e-3}

LEARNERS: dict[str, Entry] = {
    "maml": Entry(_gradient(maml), _INNER_LOOP, "MAML: a start from which few gradient steps suffice (Finn 2017)"),
    "fomaml": Entry(_gradient(fomaml), _INNER_LOOP, "first-order MAML: inner gradients as constants (Finn 2017)"),
    "anil": Entry(_gradient(anil), _INNER_LOOP, "ANIL: MAML that adapts its last layer alone (Raghu 2020)"),
    "protonet": Entry(
        _on_encoder(lambda net, size, s, way: ProtoNet(net, way=way, scale=_scale(s, size))),
        _METRIC,
        "prototypical network: a class is the mean embedding of its examples (Snell 2017)",
    ),
    "matchingnet": Entry(
        _on_encoder(lambda net, size, s, way: MatchingNet(net, way=way)),
        _METRIC,
        "matching network: attention to the support examples by cosine (Vinyals 2016)",
    ),
    "relationnet": Entry(
        _relationnet,
        _METRIC | {"way": 20},
        "relation network: a learned comparison of query and class (Sung 2018)",
    ),
    "r2d2": Entry(
        _on_encoder(lambda net, size, s, way: R2D2(net, way=way, strength=10.0, scale=10.0)),
        _METRIC | {"way": 20, "tasks": 2},
        "ridge regression on each task, solved in closed form (Bertinetto 2019)",
    ),
    "metaoptnet": Entry(
        _on_encoder(lambda net, size, s, way: MetaOptNet(net, way=way, scale=10.0)),
        _METRIC | {"way": 20, "tasks": 2},
        "a support vector machine on each task (Lee 2019)",
    ),
    "proto_maml": Entry(
        _on_encoder(
            lambda net, size, s, way: proto_maml(
                net, way=way, rate=s.inner_rate, steps=s.inner_steps, scale=_scale(s, size)
            )
        ),
        _METRIC | {"way": 20, "inner_rate": 0.1},
        "MAML from the head that ProtoNet amounts to (Triantafillou 2020)",
    ),
    "unicorn_maml": Entry(
        _on_encoder(
            lambda net, size, s, way: unicorn_maml(net, way=way, rate=s.inner_rate, steps=s.inner_steps)
        ),
        _INNER_LOOP,
        "MAML from a head that is the same for every class (Ye and Chao 2022)",
    ),
    "simpleshot": Entry(
        _on_encoder(lambda net, size, s, way: SimpleShot(net, way=way, centred=size)),
        _METRIC,
        "no meta-learning: nearest mean of centred, normalised features (Wang 2019)",
    ),
    "baseline_pp": Entry(
        _on_encoder(
            lambda net, size, s, way: BaselinePlusPlus(net, way=way, rate=s.inner_rate, steps=s.inner_steps)
        ),
        _METRIC | {"inner_steps": 100, "inner_rate": 0.01},
        "no meta-learning: a cosine classifier trained on each task's features (Chen 2019)",
    ),
    "bd_cspn": Entry(
        _on_encoder(lambda net, size, s, way: BDCSPN(net, way=way, centred=size)),
        _METRIC,
        "prototypes rectified by the queries; transductive (Liu 2020)",
    ),
}  # fmt: skip


def learners() -> dict[str, Entry]:
    """The table, with the plug-ins (entry-point group `upstairs.learners`) that are installed."""
    plugins = {point.name: point.load() for point in entry_points(group="upstairs.learners")}
    return {**plugins, **LEARNERS}


def entry(name: str) -> Entry:
    """The table's line for a published name; its error lists the names there are."""
    table = learners()
    if name not in table:
        raise UpstairsError(f"there is no learner '{name}': choose one of {', '.join(sorted(table))}")
    return table[name]


def make_learner(settings: Settings, shape: Shape, way: int) -> Learner:
    """The learner that the settings name, with fresh meta-parameters from torch's global generator."""
    return entry(settings.learner).make(settings, shape, way)


def seeded_learner(settings: Settings, shape: Shape, way: int) -> Learner:
    """Fresh meta-parameters that depend on the seed alone; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return make_learner(settings, shape, way)


def baselines_for(settings: Settings, shape: Shape, way: int) -> dict[str, Learner]:
    """The plain opponents: nearest centroid on raw inputs, and a network trained from scratch on each support set.

    The network is of the run's kind, with 32 channels, and batch norm with the statistics of the batch; it depends on
    the kind alone, so that runs of one kind meet the same opponents.
    """
    norm = "none" if settings.net == "mlp" else "batch"
    plain = Settings(learner="maml", net=settings.net, width=32, norm=norm)
    net = seeded_learner(plain, shape, way).get_submodule("net")
    return {"nearest_centroid": nearest_centroid(way=way), "scratch": scratch(net, way=way)}


__all__ = [
    "BDCSPN",
    "LEARNERS",
    "R2D2",
    "SGD",
    "BaselinePlusPlus",
    "Entry",
    "GradientLearner",
    "HeadPerTask",
    "MatchingNet",
    "MetaOptNet",
    "ProtoNet",
    "RelationNet",
    "SimpleShot",
    "UpdateRule",
    "anil",
    "baselines_for",
    "entry",
    "fomaml",
    "learners",
    "make_learner",
    "maml",
    "nearest_centroid",
    "proto_maml",
    "scratch",
    "seeded_learner",
    "unicorn_maml",
    "with_steps",
]
