"""Finding a learner by its name, among those of the table and those of plug-ins; the baselines of a run."""

from contextlib import suppress
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import torch

from upstairs.core import Learner
from upstairs.data.regression import GaussianProcess
from upstairs.data.source import Source
from upstairs.data.text.hashed import TextFormat
from upstairs.data.text.tokens import PieceFormat
from upstairs.errors import UpstairsError
from upstairs.learners.baselines import GaussianPosterior, SupportMean
from upstairs.learners.building import Entry, Shape
from upstairs.learners.generative.table import GENERATIVE_LEARNERS
from upstairs.learners.gradient.maml import scratch
from upstairs.learners.gradient.table import GRADIENT_LEARNERS
from upstairs.learners.metric.protonet import Cosine, ProtoNet, nearest_centroid
from upstairs.learners.metric.table import METRIC_LEARNERS
from upstairs.learners.model_based.table import MODEL_BASED_LEARNERS
from upstairs.nets import PretrainedTransformer, TfIdf
from upstairs.nets.text import READINGS
from upstairs.settings import CONVOLUTIONAL, Settings

LEARNERS: dict[str, Entry] = GRADIENT_LEARNERS | METRIC_LEARNERS | MODEL_BASED_LEARNERS | GENERATIVE_LEARNERS


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
            else ("regression tasks", "classes", "choose `data` sinusoid or gp")
        )
        able = sorted(n for n, e in learners().items() if (e.regression if regression else e.defaults) is not None)
        raise UpstairsError(
            f"'{name}' needs {needs} and the data is {data}: {others}, or a learner that can: {', '.join(able)}"
        )
    return found


def make_learner(settings: Settings, shape: Shape, way: int) -> Learner:
    """The learner that the settings name, with fresh meta-parameters from torch's global generator."""
    learner = entry(settings.learner).make(settings, shape, way)
    if learner.averages_views:
        learner.views = settings.views
    return learner


def seeded_learner(settings: Settings, shape: Shape, way: int) -> Learner:
    """Fresh meta-parameters that depend on the seed alone; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return make_learner(settings, shape, way)


def plain_baselines(source: Source, way: int) -> dict[str, Learner]:
    """Baselines without learning that suit a source.

    Classes: the nearest centroid of raw inputs; of texts by TF-IDF (words, pairs of words, characters) and cosine, its
    frequencies counted over all texts without their labels. Functions (way 0): the mean of the support targets, and
    where they are a Gaussian process the best possible. What generates (way 1) has none.
    """
    if way == 0:
        process = source.functions
        best = {"exact_posterior": GaussianPosterior(process)} if isinstance(process, GaussianProcess) else {}
        return {"support_mean": SupportMean(), **best}
    if way == 1 or isinstance(source.format, PieceFormat):  # nothing to tell apart; numbers of tokens are no vectors
        return {}
    if isinstance(source.format, TextFormat):
        return {"tf_idf": Cosine(TfIdf(*(part.inputs for part in source.parts or (source,))), way=way)}
    return {"nearest_centroid": nearest_centroid(source, way=way)}


def baselines_for(settings: Settings, source: Source, way: int) -> dict[str, Learner]:
    """The baselines of a run: `plain_baselines`, and a network trained from scratch on each support set.

    The network is of the run's kind (of functions, the usual one), with 32 channels, and batch norm with the statistics
    of the batch; it depends on the kind alone, so that runs of one kind meet the same baselines. Where a pretrained
    transformer is adapted, there is only the nearest centroid of its features before.
    """
    plain = plain_baselines(source, way)
    if way == 0:
        net = seeded_learner(Settings(learner="maml", way=0, net="mlp", width=40, norm="none"), source.feature_shape, 0)
        trained = scratch(net.get_submodule("net"), way=0, inner_lr=0.02, steps=100)
        return {"support_mean": plain["support_mean"], "scratch": trained, **plain}
    if way == 1:
        return plain
    if settings.net == "pretrained":
        return {"nearest_centroid": ProtoNet(PretrainedTransformer(settings.encoder or "", trained=0), way=way)}
    norm = "batch" if settings.net in CONVOLUTIONAL else "none"
    kind = "bag" if settings.net in READINGS else settings.net
    net = seeded_learner(Settings(learner="maml", net=kind, width=32, norm=norm), source.feature_shape, way)
    return {**plain, "scratch": scratch(net.get_submodule("net"), way=way)}
