"""Every learner by its published name, with defaults that train well with no option given.

Adding one touches three places: its class or function in a file of this room, an entry here, a row in the tests' table.
"""

from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

import torch
from torch import nn

from upstairs.core import Learner, evaluating
from upstairs.errors import UpstairsError
from upstairs.learners.gradient import GradientLearner, anil, fomaml, maml, scratch, with_steps
from upstairs.learners.metric import ProtoNet, nearest_centroid
from upstairs.learners.regression import GaussianPosterior, SupportMean
from upstairs.learners.rules import SGD, UpdateRule
from upstairs.learners.transfer import Pretrained, mtl
from upstairs.nets import conv4, mlp
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
        return conv4(shape, width=settings.width, norm=settings.norm, out=out)
    return mlp(shape, widths=(settings.width * (4 if settings.way else 1), settings.width), out=out)


def _gradient(make: Callable[..., GradientLearner]) -> Callable[[Settings, Shape, int], Learner]:
    def build(settings: Settings, shape: Shape, way: int) -> Learner:
        return make(make_net(settings, shape, way or 1), way=way, rate=settings.inner_rate, steps=settings.inner_steps)

    return build


def _encoder(settings: Settings, shape: Shape) -> tuple[nn.Module, int]:
    """An encoder, and the length of its embeddings."""
    encoder = make_net(settings, shape, None)
    with evaluating(encoder):
        return encoder, encoder(torch.zeros(1, *shape)).shape[-1]


def _protonet(settings: Settings, shape: Shape, way: int) -> Learner:
    encoder, size = _encoder(settings, shape)
    return ProtoNet(encoder, way=way, scale=settings.scale / size**0.5)


def _pretrained(settings: Settings, shape: Shape, way: int) -> Learner:
    encoder, size = _encoder(settings, shape)
    return Pretrained(encoder, size, classes=settings.classes or way, way=way)


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

_STRATEGY = {"estimator": "es", "tasks": 25, "pairs": 2, "sigma": 0.02, "rate": 1e-2}

LEARNERS: dict[str, Entry] = {
    "maml": Entry(
        _gradient(maml), _INNER_LOOP, "MAML: a start from which few gradient steps suffice (Finn 2017)", _FUNCTIONS
    ),
    "fomaml": Entry(
        _gradient(fomaml), _INNER_LOOP, "first-order MAML: inner gradients as constants (Finn 2017)", _FUNCTIONS
    ),
    "anil": Entry(
        _gradient(anil), _INNER_LOOP, "ANIL: MAML that adapts its last layer alone (Raghu 2020)", _FUNCTIONS
    ),
    "es_maml": Entry(
        _gradient(maml), _INNER_LOOP | _STRATEGY | {"width": 8, "inner_steps": 5, "tasks": 16, "pairs": 1, "sigma": 0.1},
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
    "pretrain": Entry(
        _pretrained,
        {"way": 64, "shot": "1", "query": 1, "tasks": 1, "width": 64, "norm": "population", "rate": 2e-3},
        "no meta-learning: a classifier of all training classes, then nearest class means of its features",
    ),
    "protonet": Entry(
        _protonet,
        {"way": 60, "shot": "1", "query": 5, "tasks": 1, "width": 64, "norm": "population", "rate": 2e-3},
        "prototypical network: a class is the mean embedding of its examples (Snell 2017)",
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
    "LEARNERS",
    "SGD",
    "Entry",
    "GaussianPosterior",
    "GradientLearner",
    "Pretrained",
    "ProtoNet",
    "SupportMean",
    "UpdateRule",
    "anil",
    "baselines_for",
    "defaults_for",
    "entry",
    "fomaml",
    "learners",
    "make_learner",
    "make_net",
    "maml",
    "mtl",
    "nearest_centroid",
    "scratch",
    "seeded_learner",
    "with_steps",
]
