"""Every learner by its published name, with defaults that train well with no option given.

Adding one touches three places: its class or function in a file of this room, an entry here, a row in the tests' table.
"""

from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

import torch

from upstairs.core import Learner, evaluating
from upstairs.errors import UpstairsError
from upstairs.learners.closed_form import R2D2, MetaOptNet
from upstairs.learners.context import cavia, modulated
from upstairs.learners.gradient import (
    GradientLearner,
    anil,
    boil,
    fomaml,
    imaml,
    maml,
    meta_curvature,
    meta_sgd,
    scratch,
    with_steps,
)
from upstairs.learners.heads import HeadPerTask, proto_maml, unicorn_maml
from upstairs.learners.metric import MatchingNet, ProtoNet, RelationNet, nearest_centroid
from upstairs.learners.multi_step import MultiStep, maml_pp
from upstairs.learners.pretrained import BaselinePlusPlus, SimpleShot
from upstairs.learners.regression import GaussianPosterior, SupportMean
from upstairs.learners.reptile import Reptile, reptile
from upstairs.learners.rules import SGD, LearnedRates, MetaCurvature, StepRates, UpdateRule
from upstairs.learners.transductive import BDCSPN
from upstairs.nets import conv4, mlp, relation_conv
from upstairs.settings import Settings
from upstairs.tasks.functions import GaussianProcess
from upstairs.tasks.sources import Source

Shape = tuple[int, ...]


class Entry(NamedTuple):
    """One line of the table: how to make it, its default settings, what it is in a sentence."""

    make: Callable[[Settings, Shape, int], Learner]  # (settings, shape of one input, way) -> learner; way 0: regression
    defaults: dict[str, Any] | None  # None where it does not classify
    summary: str
    regression: dict[str, Any] | None = None  # its default settings for regression; None where it does not regress


def make_net(settings: Settings, shape: Shape, out: int | None) -> Any:
    """The network that `settings.net` names: an encoder where `out` is None, else a classifier with `out` logits."""
    if settings.net == "conv4":
        return conv4(shape, width=settings.width, norm=settings.norm, steps=settings.inner_steps, out=out)
    return mlp(shape, widths=(settings.width * (4 if settings.way else 1), settings.width), out=out)


def _gradient(make: Callable[..., GradientLearner]) -> Callable[[Settings, Shape, int], Learner]:
    def build(settings: Settings, shape: Shape, way: int) -> Learner:
        net, rate = make_net(settings, shape, way or 1), settings.inner_rate
        return make(net, way=way, rate=rate, steps=settings.inner_steps, batch=settings.inner_batch)

    return build


def _cavia(settings: Settings, shape: Shape, way: int) -> Learner:
    net = make_net(settings, shape, way or 1)
    context = modulated(net, size=100)
    return cavia(context, way=way, rate=settings.inner_rate, steps=settings.inner_steps, batch=settings.inner_batch)


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

_FUNCTIONS = {
    "way": 0,
    "shot": "5",
    "query": 10,
    "tasks": 25,
    "net": "mlp",
    "width": 40,
    "norm": "none",
    "inner_steps": 1,
    "inner_rate": 0.01,
    "rate": 1e-3,
}

_REPTILE = {"shot": "10", "tasks": 4, "inner_steps": 8, "inner_batch": 10, "inner_rate": 0.1}
_SMALL_STEPS = {"inner_steps": 5, "inner_rate": 0.1}  # no second order mends what one large step spoils
_METRIC = {"way": 60, "shot": "1", "query": 5, "tasks": 1, "width": 64, "norm": "population", "rate": 2e-3}

LEARNERS: dict[str, Entry] = {
    "maml": Entry(
        _gradient(maml), _INNER_LOOP, "MAML: a start from which few gradient steps suffice (Finn 2017)", _FUNCTIONS
    ),
    "fomaml": Entry(
        _gradient(fomaml), _INNER_LOOP | _SMALL_STEPS,
        "first-order MAML: inner gradients as constants (Finn 2017)", _FUNCTIONS,
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
    "meta_sgd": Entry(
        _gradient(meta_sgd), _INNER_LOOP, "Meta-SGD: MAML with a learned rate for each weight (Li 2017)", _FUNCTIONS
    ),
    "meta_curvature": Entry(
        _gradient(meta_curvature), _INNER_LOOP,
        "MAML with a learned preconditioner of the gradient (Park 2019)", _FUNCTIONS,
    ),
    "imaml": Entry(
        _gradient(imaml), _INNER_LOOP | _SMALL_STEPS,
        "iMAML: meta-gradients at the minimum (Rajeswaran 2019)", _FUNCTIONS,
    ),
    "cavia": Entry(
        _cavia, _INNER_LOOP | {"inner_rate": 20.0, "inner_steps": 3},
        "CAVIA: a context that the network reads is all that adapts (Zintgraf 2019)", _FUNCTIONS,
    ),
    "reptile": Entry(
        _gradient(reptile), _INNER_LOOP | _REPTILE, "Reptile: the start moves to where tasks end (Nichol 2018)",
        _FUNCTIONS,
    ),
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
    """The table, with the plug-ins (entry-point group `upstairs.learners`) that are installed and can be loaded."""
    found = {}
    for point in entry_points(group="upstairs.learners"):
        with suppress(UpstairsError):  # one that is broken is named when it is asked for, and harms no other
            found[point.name] = load_plugin(point)
    return {**found, **LEARNERS}


def load_plugin(point: EntryPoint) -> Entry:
    """A plug-in's line of the table.

    Raises:
        UpstairsError: it cannot be imported, or is no `Entry`.
    """
    try:
        loaded = point.load()
    except Exception as error:
        raise UpstairsError(
            f"the plug-in '{point.name}' ({point.value}) cannot be loaded ({type(error).__name__}: {error}): "
            "mend or remove its package"
        ) from error
    if not isinstance(loaded, Entry):
        raise UpstairsError(
            f"the plug-in '{point.name}' ({point.value}) is a {type(loaded).__name__}: it must be an "
            "upstairs.learners.Entry"
        )
    return loaded


def entry(name: str) -> Entry:
    """The table's line for a published name; its error lists the names there are."""
    if name in LEARNERS:
        return LEARNERS[name]
    for point in entry_points(group="upstairs.learners", name=name):
        return load_plugin(point)
    raise UpstairsError(f"there is no learner '{name}': choose one of {', '.join(sorted(learners()))}")


def defaults_for(name: str, *, regression: bool) -> dict[str, Any]:
    """A learner's default settings for the kind of task.

    Raises:
        UpstairsError: there is no such learner, or it is not for that kind of task.
    """
    line = entry(name)
    found = line.regression if regression else line.defaults
    if found is None:
        needs, data, others = (
            ("classes", "regression", "choose data with classes, such as glyphs")
            if regression
            else ("regression tasks", "classes", "choose --data sinusoid or gp")
        )
        able = sorted(n for n, e in learners().items() if (e.regression if regression else e.defaults) is not None)
        raise UpstairsError(
            f"'{name}' needs {needs} and the data is {data}: {others}, or a learner that can: {', '.join(able)}"
        )
    return found


def make_learner(settings: Settings, shape: Shape, way: int) -> Learner:
    """The learner that the settings name, with fresh meta-parameters from torch's global generator."""
    return entry(settings.learner).make(settings, shape, way)


def seeded_learner(settings: Settings, shape: Shape, way: int) -> Learner:
    """Fresh meta-parameters that depend on the seed alone; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return make_learner(settings, shape, way)


def baselines_for(settings: Settings, source: Source, way: int) -> dict[str, Learner]:
    """The plain opponents: nearest centroid on raw inputs, and a network trained from scratch on each support set.

    The network is of the run's kind, with 32 channels, and batch norm with the statistics of the batch; it depends on
    the kind alone, so that runs of one kind meet the same opponents. On functions (way 0): the mean of the support
    targets, a network of the usual kind from scratch, and where they are a Gaussian process the best possible.
    """
    if way == 0:
        plain = Settings(learner="maml", way=0, net="mlp", width=40, norm="none")
        net = seeded_learner(plain, source.feature_shape, way).get_submodule("net")
        process = source.functions
        best = {"exact_posterior": GaussianPosterior(process)} if isinstance(process, GaussianProcess) else {}
        return {"support_mean": SupportMean(), "scratch": scratch(net, way=0, rate=0.02, steps=100), **best}
    norm = "none" if settings.net == "mlp" else "batch"
    plain = Settings(learner="maml", net=settings.net, width=32, norm=norm)
    net = seeded_learner(plain, source.feature_shape, way).get_submodule("net")
    return {"nearest_centroid": nearest_centroid(way=way), "scratch": scratch(net, way=way)}


__all__ = [
    "BDCSPN",
    "LEARNERS",
    "R2D2",
    "SGD",
    "BaselinePlusPlus",
    "Entry",
    "GaussianPosterior",
    "GradientLearner",
    "HeadPerTask",
    "LearnedRates",
    "MatchingNet",
    "MetaCurvature",
    "MetaOptNet",
    "MultiStep",
    "ProtoNet",
    "RelationNet",
    "Reptile",
    "SimpleShot",
    "StepRates",
    "SupportMean",
    "UpdateRule",
    "anil",
    "baselines_for",
    "boil",
    "cavia",
    "defaults_for",
    "entry",
    "fomaml",
    "imaml",
    "learners",
    "make_learner",
    "make_net",
    "maml",
    "maml_pp",
    "meta_curvature",
    "meta_sgd",
    "modulated",
    "nearest_centroid",
    "proto_maml",
    "reptile",
    "scratch",
    "seeded_learner",
    "unicorn_maml",
    "with_steps",
]
