"""What a run's settings are, from what the user gave, the learner's defaults, and what the data allows."""

from dataclasses import replace
from typing import Any

from upstairs.data.source import Source
from upstairs.errors import UpstairsError
from upstairs.learners import defaults_for
from upstairs.nets.text import READINGS
from upstairs.settings import CONVOLUTIONAL, Net, Settings

FEW = 6  # speakers of a training task, where they are known: as many as there may be in another

# What suits a network better than the learner's own defaults. A pretrained encoder's features are good already: larger
# steps fit the projection to the training classes, and the score on others falls below that of the bare features.
SUITED: dict[str, dict[str, Any]] = {
    "projection": {"lr": 1e-4, "scale": 0.3},
    "pretrained": {"lr": 3e-5, "scale": 0.3, "way": 20},  # a step is 120 texts
    "sound": {"way": 24, "query": 3},  # more steps of fewer recordings
    **{name: {"lr": 1e-2, "scale": 8.0} for name in READINGS},
}


def draft(given: dict[str, Any], *, regression: bool) -> Settings:
    """Settings from what the user gave and the learner's defaults, before the data is read: mistakes show at once."""
    defaults: dict[str, Any] = defaults_for(given["learner"], regression=regression)
    if given.get("start_from"):  # in place of pretraining
        defaults = defaults | {"pretrain": 0.0}
    return Settings(**{**defaults, **{name: value for name, value in given.items() if value is not None}})


def resolve(given: dict[str, Any], source: Source) -> Settings:
    """Settings from what the user gave, the learner's defaults, and what the training classes allow.

    A default gives way to small data (fewer classes, fewer examples); what was given is never changed.
    """
    settings = draft(given, regression=source.functions is not None)
    if settings.steps is None and settings.minutes is None:
        settings = replace(settings, minutes=10.0)
    if source.functions:
        if settings.hard or settings.pretrain:
            raise UpstairsError(f"`hard` and `pretrain` are about classes and {source.name} has none: leave them out")
        return settings
    if settings.hard and source.parts:
        raise UpstairsError("`hard` draws classes of all data sets together: leave it out with several of them")
    settings = replace(settings, classes=len(source))
    asked = given.get("net")
    if asked == "pretrained" or (asked is None and settings.net == "conv4"):
        net: Net = asked or net_for(source)
        settings = replace(settings, net=net, norm=settings.norm if net in CONVOLUTIONAL else "none")
        settings = replace(settings, **{n: v for n, v in SUITED.get(net, {}).items() if given.get(n) is None})
    if settings.speakers is None and all(part.speakers for part in source.parts or (source,)):
        settings = replace(settings, speakers=FEW)
    smallest = min((len(rows) for rows in source.rows), default=0)
    if "way" not in given or given["way"] is None:
        settings = replace(settings, way=max(min(2, settings.way), min(settings.way, source.most_way)))
    if given.get("query") is None:
        settings = replace(settings, query=max(1, min(settings.query, smallest - settings.shots[0])))
    if given.get("shot") is None:
        low = settings.shots[0]
        high = max(low, min(settings.shots[1], smallest - settings.query))
        settings = replace(settings, shot=str(low) if low == high else f"{low}-{high}")
    return settings


def net_for(source: Source) -> Net:
    """The network that suits the inputs."""
    if source.format is not None and source.format.net is not None:
        return source.format.net
    shape = source.feature_shape
    return "conv4" if len(shape) == 3 and min(shape[1:]) >= 16 else "mlp"
