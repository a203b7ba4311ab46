"""Decides a run's settings from the user's values, the learner's defaults, and the data."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from upstairs.data.open import is_regression, with_paths
from upstairs.data.regression.rows import sizes_that_fit
from upstairs.data.source import Source
from upstairs.errors import UpstairsError
from upstairs.learners.registry import (
    ObjectOptions,
    changed,
    check_for_object,
    check_names,
    entry,
    make_settings,
    options_of,
)  # fmt: skip
from upstairs.nets.text import READINGS
from upstairs.settings import CONVOLUTIONAL, Net, Settings, TaskKind
from upstairs.training.presets import PRESETS

VALIDATION_SHARE = 0.2  # of the work of the meta-steps, at most, unless the user chose validations
LEAST_VALIDATION_TASKS = 20
FEW = 6  # speakers of a training task, if they are known

# Settings that replace the learner's defaults for a network. With a pretrained encoder a larger learning rate overfits
# the projection to the training classes, and scores fall below those of the bare features.
SUITED: dict[str, dict[str, Any]] = {
    "projection": {"lr": 1e-4, "scale": 0.3},
    "pretrained": {"lr": 3e-5, "scale": 0.3, "way": 20},  # 120 texts in a step
    "sound": {"way": 24, "query": 3},  # more steps of fewer recordings
    **{name: {"lr": 1e-2, "scale": 8.0} for name in READINGS},
}
# Learning rates by what is trained of an encoder, of texts and of others; of these, 30 are in a step.
RATES_OF_TEXTS = {"last": 3e-5, "norms": 1e-4, "lora": 1e-4, "all": 1e-5}
RATES = {"last": 3e-4, "norms": 1e-3, "lora": 1e-3, "all": 1e-4}


@dataclass(frozen=True)
class RunRequest:
    """The settings that a user asks for, completed by the learner's defaults.

    Attributes:
        given: names of the settings that the user chose. The data may change others, never these.
    """

    settings: Settings
    given: frozenset[str]

    @property
    def values(self) -> dict[str, Any]:
        """The given settings by name."""
        return {name: value for name, value in self.settings.to_json().items() if name in self.given}

    def changed(self, **values: Any) -> "RunRequest":
        """Returns the request with other values, which count as given."""
        budget = {"steps": None, "minutes": None} if {"steps", "minutes"} & set(values) else {}  # one budget
        return RunRequest(changed(self.settings, {**budget, **values}), self.given | set(values))


def request_run(learner: str, *, regression: bool | None = None, **values: Any) -> RunRequest:
    """Returns a request from the values that a user gave, and finds mistakes before any data is read.

    Args:
        learner: its published name, or that of a preset.
        regression: the tasks are functions; None: the name of the data decides.

    Raises:
        UpstairsError: an unknown learner or option, or an invalid value.
    """
    learner, values = expand_preset(learner, values)
    check_names(learner, values)
    values = with_paths({name: value for name, value in values.items() if value is not None})
    kinds: list[TaskKind] = [kind for kind in entry(learner).kinds if kind != "regression"]
    if regression if regression is not None else is_regression(values):
        kinds = ["regression"]
    extra: dict[str, Any] = {} if {"steps", "minutes"} & set(values) else {"minutes": 10.0}
    if values.get("start_from"):  # replaces pretraining
        extra["pretrain"] = 0.0
    if values.get("shards", 1) > 1:
        extra["threads"] = 1  # the same on every machine and for any number of processes
    settings = make_settings(learner, task_kind=next(iter(kinds), "classification"), **{**extra, **values})
    return RunRequest(settings, frozenset(values))


def plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings given in Python as files hold them: plain numbers, and a `shot` of 5 or (1, 5) as text."""
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
    if isinstance(shot := plain.get("shot"), int | tuple | list):
        plain["shot"] = "-".join(map(str, shot if isinstance(shot, tuple | list) else [shot]))
    return plain


def request_object(learner: Any, **values: Any) -> RunRequest:
    """Returns a request for a learner that is given as an object, from the values that a user gave."""
    values = with_paths({name: value for name, value in values.items() if value is not None})
    check_for_object(values)
    budget = {} if {"steps", "minutes"} & set(values) else {"minutes": 10.0}
    threads = {"threads": 1} if values.get("shards", 1) > 1 else {}
    asked: dict[str, Any] = {"way": learner.way, "norm": "none", **budget, **threads, **values}
    settings = Settings(learner=type(learner).__name__, own=ObjectOptions(), task_kind=learner.task_kind, **asked)
    return RunRequest(settings, frozenset(values) | {"way"})


def expand_preset(name: str, values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Returns the learner of a preset and its settings, overridden by `values`; other names are those of learners."""
    if name not in PRESETS:
        return name, values
    preset = dict(PRESETS[name].settings)
    if {"steps", "minutes"} & {n for n, value in values.items() if value is not None}:
        preset.pop("steps", None)  # one budget, the user's
    return preset.pop("learner"), {**preset, **values}


def fit_settings(request: RunRequest, source: Source) -> Settings:
    """Returns the settings of a run on these training classes.

    Defaults are lowered for small data (few classes or examples); given settings are never changed.
    """
    settings, given = request.settings, request.given
    if settings.task_kind == "regression":
        if settings.hard or settings.pretrain:
            raise UpstairsError(f"`hard` and `pretrain` are about classes and {source.name} has none: leave them out")
        shot, query = sizes_that_fit(source, settings.shots[1], settings.query)
        if "shot" not in given and shot < settings.shots[1]:
            settings = replace(settings, shot=str(shot))
        query = settings.query if "query" in given else query
        return fit_validations(replace(settings, query=query, outputs=source.targets), given)
    if settings.hard and source.parts:
        raise UpstairsError("`hard` draws classes of all data sets together: leave it out with several of them")
    settings = replace(settings, classes=len(source))
    if settings.net == ("pretrained" if "net" in given else "conv4"):
        net: Net = settings.net if "net" in given else net_for(source)
        settings = replace(settings, net=net, norm=settings.norm if net in CONVOLUTIONAL else "none")
        if not isinstance(settings.own, ObjectOptions):
            names = set(options_of(settings.learner)) - given
            suited = SUITED.get(net, {}) | (_suited_to_tune(settings, source) if net == "pretrained" else {})
            settings = changed(settings, {name: value for name, value in suited.items() if name in names})
    if "tune" in given and settings.net != "pretrained":
        raise UpstairsError(f"`tune` is about `net` pretrained and the network is {settings.net}: leave it out")
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
    return fit_validations(settings, given)


def _suited_to_tune(settings: Settings, source: Source) -> dict[str, Any]:
    if source.format is not None and source.format.is_text:
        return {"lr": RATES_OF_TEXTS[settings.tune]}
    return {"lr": RATES[settings.tune], "way": 5}


def validation_steps(settings: Settings, tasks: int) -> float:
    """Returns the number of meta-steps that take as much work as a validation on `tasks` tasks: examples are counted.

    An example is embedded once in a validation and, with its gradients, costs three times as much in a meta-step.
    """
    own = (settings.way or 1) * (settings.shots[1] + settings.query)
    one = min(5, settings.way) * 16 if settings.way else settings.shots[1] + 15
    calibrated = 8 * own * (settings.norm == "population")
    return (tasks * one + calibrated) / (3 * settings.tasks * own)


def fit_validations(settings: Settings, given: frozenset[str]) -> Settings:
    """Returns the settings with fewer validation tasks, then fewer validations, where they would take more of the work.

    It depends on no time, so that a run is the same on every machine. See `affordable` for a budget in minutes.
    """
    if settings.steps is None:
        return settings
    most = VALIDATION_SHARE * (1 - settings.pretrain) * settings.steps
    tasks, times = settings.validation_tasks, settings.validations
    fixed, each = validation_steps(settings, 0), validation_steps(settings, 1) - validation_steps(settings, 0)
    if "validation_tasks" not in given:
        tasks = max(min(tasks, LEAST_VALIDATION_TASKS), min(tasks, int((most / times - fixed) / each)))
    if not given & {"validations", "patience"}:
        times = max(1, min(times, int(most / validation_steps(settings, tasks))))
    return replace(settings, validation_tasks=tasks, validations=times)


def net_for(source: Source) -> Net:
    """Returns the default network for the inputs."""
    if source.format is not None and source.format.net is not None:
        return source.format.net
    shape = source.feature_shape
    return "conv4" if len(shape) == 3 and min(shape[1:]) >= 16 else "mlp"
