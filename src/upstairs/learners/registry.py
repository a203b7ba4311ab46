"""The registry finds a learner by name, in the tables and among plug-ins. Nothing here imports torch."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import Field, dataclass, fields, is_dataclass, replace
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from upstairs.errors import UpstairsError
from upstairs.learners.entries import Entry
from upstairs.learners.generative.table import GENERATIVE_LEARNERS, REMOVED
from upstairs.learners.gradient.table import GRADIENT_LEARNERS
from upstairs.learners.metric.table import METRIC_LEARNERS
from upstairs.learners.model_based.table import MODEL_BASED_LEARNERS
from upstairs.settings import COMMON, LearnerOptions, NetworkOptions, Settings, TaskKind, options_in

LEARNERS: dict[str, Entry] = GRADIENT_LEARNERS | METRIC_LEARNERS | MODEL_BASED_LEARNERS | GENERATIVE_LEARNERS
OLD_NAMES = {"rate": "lr", "inner_rate": "inner_lr"}  # names of options in files of older versions


def learners() -> dict[str, Entry]:
    """Returns all learners: the tables, and installed plug-ins (entry-point group `upstairs.learners`) that load."""
    found = {}
    for point in entry_points(group="upstairs.learners"):
        with suppress(UpstairsError):  # a broken plug-in raises its error only when it is used
            found[point.name] = load_plugin(point)
    return {**found, **LEARNERS}


def load_plugin(point: EntryPoint) -> Entry:
    """Returns the entry of a plug-in.

    Raises:
        UpstairsError: it cannot be imported, is not an `Entry`, or its options are not valid.
    """
    name = f"the plug-in '{point.name}' ({point.value})"
    try:
        loaded = point.load()
    except Exception as error:
        raise UpstairsError(
            f"{name} cannot be loaded ({type(error).__name__}: {error}): fix or remove its package"
        ) from error
    if not isinstance(loaded, Entry):
        raise UpstairsError(f"{name} is a {type(loaded).__name__}: it must be an upstairs.learners.Entry")
    check_entry(loaded, name)
    return loaded


def check_entry(line: Entry, name: str) -> None:
    """Raises UpstairsError where the options of a plug-in, or its defaults, are not valid."""
    kind = line.options
    if not (is_dataclass(kind) and isinstance(kind, type) and issubclass(kind, LearnerOptions)):
        raise UpstairsError(f"{name} has options that are no dataclass of upstairs.learners.LearnerOptions: derive one")
    for own in fields(kind):
        if own.name in {f.name for f in fields(Settings)}:
            raise UpstairsError(
                f"{name} has an option '{own.name}' and every run has one of that name: choose another name for it"
            )
        if own.name not in options_in(kind):
            raise UpstairsError(f"{name} has an option '{own.name}' without a help: write it as option(default, help)")
    for defaults in (line.classification, line.regression, line.generation):
        for unknown in {*(defaults or {})} - {*COMMON, *options_in(kind)}:
            raise UpstairsError(f"{name} has a default for '{unknown}', which is no option: add it to its options")


def entry(name: str) -> Entry:
    """Returns the entry of a learner by name; the error lists all names."""
    if name in LEARNERS:
        return LEARNERS[name]
    for point in entry_points(group="upstairs.learners", name=name):
        return load_plugin(point)
    if name in REMOVED:
        raise UpstairsError(f"the learner '{name}' was removed, since it did not help: {REMOVED[name]}")
    known = sorted(learners())
    near = get_close_matches(name.lower().strip().replace("-", "_"), known, 1, 0.7)
    guess = f"{near[0]}, or another one" if near else "one"
    raise UpstairsError(f"there is no learner '{name}': choose {guess} of {', '.join(known)}")


@dataclass(frozen=True, kw_only=True)
class ObjectOptions(LearnerOptions):
    """Marks a run whose learner was given as an object. It has no options: the object was made with its own."""

    by_object: bool = True


def _no_builder(settings: Settings, shape: Any, way: int | None) -> Any:
    raise UpstairsError(
        f"the learner is an object of the class '{settings.learner}', which a file cannot rebuild: in Python make it "
        "as for the training, and upstairs.load(RUN, learner=learner) gives the run, which upstairs.evaluate, "
        "evaluate_run and report_runs (in upstairs.experiments) take"
    )


OBJECT = Entry(_no_builder, "a learner given as an object", ObjectOptions, {}, {}, {})


def check_for_object(names: Iterable[str]) -> None:
    """Raises UpstairsError for a name that is not an option of a run whose learner is an object."""
    known = set(COMMON) - {"net", "pretrain", *options_in(NetworkOptions)}
    for name in sorted({*names} - known):
        raise UpstairsError(
            f"`{name}` is no option of a run whose learner is an object, made with its own network and options: leave "
            f"it out, or choose among {', '.join(n for n in COMMON if n in known)}"
        )


def entry_of(settings: Settings) -> Entry:
    """Returns the entry of a run's learner; that of an object raises an error where it is built."""
    return OBJECT if isinstance(settings.own, ObjectOptions) else entry(settings.learner)


def options_of(learner: str) -> dict[str, Field[Any]]:
    """Returns every option of a run by name: the common ones, then the learner's own."""
    return COMMON | options_in(entry(learner).options)


def owners_of(name: str) -> list[str]:
    """Returns the names of the learners that have their own option of this name."""
    return sorted(n for n, line in learners().items() if name in options_in(line.options))


def check_names(learner: str, names: Iterable[str]) -> None:
    """Raises UpstairsError for a name that is not an option of the learner; it says whose option it is."""
    for name in sorted({*names} - {*options_of(learner)}):
        if owners := owners_of(name):
            raise UpstairsError(
                f"`{name}` is an option of {', '.join(owners)} and the learner is {learner}: leave it out"
            )
        raise UpstairsError(f"there is no setting '{name}': `upstairs train {learner} --help` names them all")


def defaults_for(learner: str, task_kind: TaskKind) -> Mapping[str, Any]:
    """Returns a learner's default options for a kind of task.

    Raises:
        UpstairsError: there is no such learner, or it does not support that kind of task.
    """
    found = entry(learner).defaults(task_kind)
    if found is None:
        needs, data, others = (
            ("classes", "regression", "choose data with classes, such as glyphs")
            if task_kind == "regression"
            else ("regression tasks", "classes", "choose `data` sinusoid or gp")
        )
        able = sorted(n for n, e in learners().items() if e.defaults(task_kind) is not None)
        raise UpstairsError(
            f"'{learner}' needs {needs} and the data is {data}: {others}, or a learner that can: {', '.join(able)}"
        )
    return found


def make_settings(learner: str, *, task_kind: TaskKind | None = None, **values: Any) -> Settings:
    """Returns the settings of a run: the learner's defaults for the kind of task, updated with `values`.

    Args:
        task_kind: None: the first of classification, generation and regression that the learner supports.
    """
    line = entry(learner)
    check_names(learner, values)
    kind = task_kind or line.kinds[0]
    common, own = _divided(line, {**defaults_for(learner, kind), **values})
    return Settings(learner=learner, task_kind=kind, own=line.options(**own), **common)


def changed(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """Returns the settings with new values of some options, common ones or the learner's own."""
    line = entry_of(settings)
    check_for_object(values) if line is OBJECT else check_names(settings.learner, values)
    common, own = _divided(line, values)
    return replace(settings, own=replace(settings.own, **own), **common)


def read_settings(values: Mapping[str, Any]) -> Settings:
    """Inverts `Settings.to_json`; a file of an older version may lack options or use older names.

    Files without a kind of task encode it by `way`: 0 for regression, 1 for generation.
    """
    values = {OLD_NAMES.get(name, name): value for name, value in values.items()}
    if "task_kind" not in values:
        kinds: dict[int, TaskKind] = {0: "regression", 1: "generation"}
        values |= {"task_kind": kinds.get(values["way"], "classification"), "way": values["way"] or None}
    line = OBJECT if values.get("by_object") else entry(values["learner"])
    known = {f.name for f in fields(Settings)} | set(options_in(line.options))
    common, own = _divided(line, {name: value for name, value in values.items() if name in known})
    return Settings(own=line.options(**own), **common)


def _divided(line: Entry, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits values into those of common options and those of the learner's own."""
    own = options_in(line.options)
    return {n: v for n, v in values.items() if n not in own}, {n: v for n, v in values.items() if n in own}
