"""Every learner by its published name, with defaults that train well with no option given.

Adding one touches three places: its class or function in a file of this room, an entry here, a row in the tests' table.
"""

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, NamedTuple

import torch

from upstairs.core import Learner, evaluating
from upstairs.errors import UpstairsError
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
from upstairs.learners.metric import ProtoNet, nearest_centroid
from upstairs.learners.multi_step import MultiStep, maml_pp
from upstairs.learners.reptile import Reptile, reptile
from upstairs.learners.rules import SGD, LearnedRates, MetaCurvature, StepRates, UpdateRule
from upstairs.nets import conv4, mlp
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
        net, rate = make_net(settings, shape, way), settings.inner_rate
        return make(net, way=way, rate=rate, steps=settings.inner_steps, batch=settings.inner_batch)

    return build


def _cavia(net: Any, **options: Any) -> GradientLearner:
    return cavia(modulated(net, size=100), **options)


def _protonet(settings: Settings, shape: Shape, way: int) -> Learner:
    encoder = make_net(settings, shape, None)
    with evaluating(encoder):
        dimension = encoder(torch.zeros(1, *shape)).shape[-1]
    return ProtoNet(encoder, way=way, scale=settings.scale / dimension**0.5)


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

_REPTILE = {"shot": "10", "tasks": 4, "inner_steps": 8, "inner_batch": 10, "inner_rate": 0.1}
_SMALL_STEPS = {"inner_steps": 5, "inner_rate": 0.1}  # no second order mends what one large step spoils

LEARNERS: dict[str, Entry] = {
    "maml": Entry(_gradient(maml), _INNER_LOOP, "MAML: a start from which few gradient steps suffice (Finn 2017)"),
    "fomaml": Entry(
        _gradient(fomaml), {**_INNER_LOOP, **_SMALL_STEPS}, "first-order MAML: inner gradients as constants (Finn 2017)"
    ),
    "anil": Entry(_gradient(anil), _INNER_LOOP, "ANIL: MAML that adapts its last layer alone (Raghu 2020)"),
    "boil": Entry(_gradient(boil), _INNER_LOOP, "BOIL: MAML that adapts all but its last layer (Oh 2021)"),
    "maml_pp": Entry(
        _gradient(maml_pp), {**_INNER_LOOP, "inner_steps": 3},
        "MAML++: judged after each step, a learned rate for each step and layer (Antoniou 2019)",
    ),
    "meta_sgd": Entry(_gradient(meta_sgd), _INNER_LOOP, "Meta-SGD: MAML with a learned rate for each weight (Li 2017)"),
    "meta_curvature": Entry(
        _gradient(meta_curvature), _INNER_LOOP, "MAML with a learned preconditioner of the gradient (Park 2019)"
    ),
    "imaml": Entry(
        _gradient(imaml), {**_INNER_LOOP, **_SMALL_STEPS}, "iMAML: meta-gradients at the minimum (Rajeswaran 2019)"
    ),
    "cavia": Entry(
        _gradient(_cavia), {**_INNER_LOOP, "inner_rate": 20.0, "inner_steps": 3},
        "CAVIA: a context that the network reads is all that adapts (Zintgraf 2019)",
    ),
    "reptile": Entry(
        _gradient(reptile), {**_INNER_LOOP, **_REPTILE}, "Reptile: the start moves to where tasks end (Nichol 2018)"
    ),
    "protonet": Entry(
        _protonet,
        {"way": 60, "shot": "1", "query": 5, "tasks": 1, "width": 64, "norm": "population", "rate": 2e-3},
        "prototypical network: a class is the mean embedding of its examples (Snell 2017)",
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
    "LEARNERS",
    "SGD",
    "Entry",
    "GradientLearner",
    "LearnedRates",
    "MetaCurvature",
    "MultiStep",
    "ProtoNet",
    "Reptile",
    "StepRates",
    "UpdateRule",
    "anil",
    "baselines_for",
    "boil",
    "cavia",
    "entry",
    "fomaml",
    "imaml",
    "learners",
    "make_learner",
    "maml",
    "maml_pp",
    "meta_curvature",
    "meta_sgd",
    "modulated",
    "nearest_centroid",
    "reptile",
    "scratch",
    "seeded_learner",
    "with_steps",
]
