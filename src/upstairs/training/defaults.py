"""What a run's settings are, from what the user gave, the learner's defaults, and what the data allows."""

from dataclasses import dataclass, replace
from typing import Any

from upstairs.data.open import with_paths
from upstairs.data.regression import FUNCTIONS
from upstairs.data.source import Source
from upstairs.errors import UpstairsError
from upstairs.learners.registry import changed, check_names, entry, make_settings, options_of
from upstairs.nets.text import READINGS
from upstairs.settings import CONVOLUTIONAL, Net, Settings, TaskKind
from upstairs.training.presets import PRESETS

FEW = 6  # speakers of a training task, where they are known: as many as there may be in another

# What suits a network better than the learner's own defaults. A pretrained encoder's features are good already: larger
# steps fit the projection to the training classes, and the score on others falls below that of the bare features.
SUITED: dict[str, dict[str, Any]] = {
    "projection": {"lr": 1e-4, "scale": 0.3},
    "pretrained": {"lr": 3e-5, "scale": 0.3, "way": 20},  # a step is 120 texts
    "sound": {"way": 24, "query": 3},  # more steps of fewer recordings
    **{name: {"lr": 1e-2, "scale": 8.0} for name in READINGS},
}


@dataclass(frozen=True)
class RunRequest:
    """What a user asks of a run: its settings, with the learner's defaults for what was left out.

    Args:
        given: names of the settings that the user chose. The data decide others, never these.
    """

    settings: Settings
    given: frozenset[str]

    @property
    def values(self) -> dict[str, Any]:
        """What was given, by name."""
        return {name: value for name, value in self.settings.to_json().items() if name in self.given}

    def changed(self, **values: Any) -> "RunRequest":
        """The same with other values, which count as given."""
        budget = {"steps": None, "minutes": None} if {"steps", "minutes"} & set(values) else {}  # one budget
        return RunRequest(changed(self.settings, {**budget, **values}), self.given | set(values))


def request_run(learner: str, *, regression: bool | None = None, **values: Any) -> RunRequest:
    """A request from the values that a user gave: mistakes show before any data is read.

    Args:
        learner: its published name, or that of a preset.
        regression: are the tasks functions? None: the name of the data says it.

    Raises:
        UpstairsError: no such learner, an option that it does not have, or a value that cannot be.
    """
    learner, values = expand_preset(learner, values)
    check_names(learner, values)
    values = with_paths({name: value for name, value in values.items() if value is not None})
    kinds: list[TaskKind] = [kind for kind in entry(learner).kinds if kind != "regression"]
    if regression if regression is not None else values.get("data") in FUNCTIONS:
        kinds = ["regression"]
    extra: dict[str, Any] = {} if {"steps", "minutes"} & set(values) else {"minutes": 10.0}
    if values.get("start_from"):  # in place of pretraining
        extra["pretrain"] = 0.0
    settings = make_settings(learner, task_kind=next(iter(kinds), "classification"), **{**extra, **values})
    return RunRequest(settings, frozenset(values))


def expand_preset(name: str, values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The learner of a preset, and its settings with `values` in their place; any other name is that of a learner."""
    if name not in PRESETS:
        return name, values
    preset = dict(PRESETS[name].settings)
    if {"steps", "minutes"} & {n for n, value in values.items() if value is not None}:
        preset.pop("minutes", None)  # one budget, the user's
    return preset.pop("learner"), {**preset, **values}


def fit_settings(request: RunRequest, source: Source) -> Settings:
    """The settings of a run on these training classes: what was not given suits them.

    A default gives way to small data (fewer classes, fewer examples); what was given is never changed.
    """
    settings, given = request.settings, request.given
    if settings.task_kind == "regression":
        if settings.hard or settings.pretrain:
            raise UpstairsError(f"`hard` and `pretrain` are about classes and {source.name} has none: leave them out")
        return settings
    if settings.hard and source.parts:
        raise UpstairsError("`hard` draws classes of all data sets together: leave it out with several of them")
    settings = replace(settings, classes=len(source))
    if settings.net == ("pretrained" if "net" in given else "conv4"):
        net: Net = settings.net if "net" in given else net_for(source)
        settings = replace(settings, net=net, norm=settings.norm if net in CONVOLUTIONAL else "none")
        names = set(options_of(settings.learner)) - given
        settings = changed(settings, {name: value for name, value in SUITED.get(net, {}).items() if name in names})
    if settings.speakers is None and all(part.speakers for part in source.parts or (source,)):
        settings = replace(settings, speakers=FEW)
    smallest = min((len(rows) for rows in source.rows), default=0)
    if "way" not in given and settings.task_kind == "classification":
        settings = replace(settings, way=max(2, min(settings.way or 2, source.most_way)))
    if "query" not in given:
        settings = replace(settings, query=max(1, min(settings.query, smallest - settings.shots[0])))
    if "shot" not in given:
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
