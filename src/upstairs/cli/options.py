"""Options that several commands share, and the options of a run, which depend on its learner."""

from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, fields, make_dataclass
from inspect import cleandoc
from pathlib import Path
from types import NoneType
from typing import Annotated, Any

import tyro
from tyro.conf import OmitArgPrefixes, arg

from upstairs.errors import UpstairsError
from upstairs.learners.registry import check_names, entry, owners_of
from upstairs.settings import COMMON, GROUPS, LearnerOptions, TaskKind, option_kinds, options_in
from upstairs.training.presets import PRESETS

OWN = "the options of one learner: see `upstairs train NAME --help`"
GROUP_NAMES = dict(zip(("data", "training_task", "network", "training"), GROUPS, strict=True))


@dataclass(frozen=True)
class Named:
    """A learner with the settings of a preset, as a name on the command line."""

    learner: str
    settings: Mapping[str, Any]

    @classmethod
    def find(cls, name: str) -> "Named":
        """Returns the learner or preset of this name, which may be a plug-in's."""
        settings = dict(PRESETS[name].settings) if name in PRESETS else {"learner": name}
        return cls(settings.pop("learner"), settings)

    @property
    def options(self) -> type[LearnerOptions]:
        """The class of the learner's own options."""
        return entry(self.learner).options


def parse_run(
    command: type[Any], words: Sequence[str], *, prog: str, named: Named | None
) -> tuple[Any, dict[str, Any]]:
    """Parses the arguments of a command on a run, and returns them with the settings that were given.

    Args:
        command: a dataclass of the command's own arguments.
        named: the learner whose options are accepted; None: the options that all learners have.

    Raises:
        UpstairsError: an option of other learners, which the error names.
    """
    groups = GROUP_NAMES | ({named.learner: named.options} if named and options_in(named.options) else {})
    known = {*(f.name for f in fields(command)), *(name for group in groups.values() for name in options_in(group))}
    for name in flags_in(words) - known:
        if named is not None and owners_of(name):
            check_names(named.learner, [name])
        if named is None and (owners := owners_of(name)):
            raise UpstairsError(f"`{name}` is an option of {', '.join(owners)}: name the learner, then its options")
    made = [(key, OmitArgPrefixes[kind], kind()) for key, kind in _option_classes(groups, named).items()]
    everything = make_dataclass("Command", made, bases=(command,), frozen=True, kw_only=True)
    hint = f"\n\nThere are also {OWN}." if named is None else ""
    parsed: Any = tyro.cli(everything, prog=prog, args=list(words), description=cleandoc(str(command.__doc__)) + hint)
    given = {n: v for key, _, left in made for n, v in vars(getattr(parsed, key)).items() if v != getattr(left, n)}
    return parsed, given


def flags_in(words: Sequence[str]) -> set[str]:
    """Returns the names of all flags among the words, known or not."""
    names = (word[2:].split("=")[0] for word in words if word.startswith("--"))
    return {name.replace("-", "_").removeprefix("no_") for name in names if name}


def first_name(words: Sequence[str]) -> str | None:
    """Returns the first word that is neither an option nor the value of one."""
    switches = {name for name, f in COMMON.items() if f.type is bool} | {"resume", "quiet", "help"}
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            return word
        if not flags_in([word]) <= switches and "=" not in word and word != "-h":
            next(rest, None)
    return None


def _option_classes(groups: Mapping[str, type[Any]], named: Named | None) -> dict[str, type[Any]]:
    """Returns a class for each group, whose fields are optional and whose help shows the learner's defaults."""
    defaults: dict[TaskKind, dict[str, Any]] = {}
    if named is not None:
        line = entry(named.learner)
        defaults = {kind: {**(line.defaults(kind) or {}), **named.settings} for kind in line.kinds}
    classes = {}
    for key, group in groups.items():
        kinds, made = option_kinds(group), []
        for name, one in options_in(group).items():
            own = {kind: values.get(name, one.default) for kind, values in defaults.items()} or {None: one.default}
            described = _describe(one, kinds[name], own)
            if bool in kinds[name]:
                made.append((name, Annotated[bool, described], next(iter(own.values()))))
            else:  # choices are checked later, with a better error
                value = next((kind if isinstance(kind, type) else type(kind)) for kind in kinds[name])
                made.append((name, Annotated[value | None, described], None))
        classes[key] = make_dataclass(group.__name__, made, frozen=True, namespace={"__doc__": group.__doc__})
    return classes


def _describe(one: Field[Any], kinds: Sequence[Any], own: Mapping[Any, Any]) -> Any:
    """Returns an option's help, with its default for each kind of task (from `own`) and a short name for its value."""
    help, _, left_out = one.metadata["help"].partition(" Left out: ")
    said = {kind: _write(one.name, value, left_out) for kind, value in own.items()}
    texts = [*dict.fromkeys(text for text in said.values() if text)] or ["none"]
    hint = texts[0] + "".join(f"; for {kind} {text}" for kind, text in said.items() if text in texts[1:])
    hint = f"(default: {hint})"
    if bool in kinds:
        return arg(help=help, help_behavior_hint=hint)
    words = [kind.__name__.upper() if isinstance(kind, type) else str(kind) for kind in kinds if kind is not NoneType]
    return arg(help=help, help_behavior_hint=hint, metavar="|".join(words))


def _write(name: str, value: Any, left_out: str) -> str:
    """Returns a default in words."""
    if name == "net" and value == "conv4":
        return "what suits the data"
    if isinstance(value, bool):
        return "on" if value else "off"
    return left_out.rstrip(".") if value is None else str(value)


def optional(help: str, default: str, *, metavar: str) -> Any:
    """Returns the help of an optional flag, whose default is described in words."""
    return arg(metavar=metavar, help=help, help_behavior_hint=f"(default: {default})")


InnerSteps = Annotated[int | None, optional("Gradient learners: inner steps.", "as trained", metavar="INT")]
RunDirectory = Annotated[
    Path | None, optional("The run's directory: checkpoints, settings, learning curve.", "runs/NAME", metavar="PATH")
]
Page = Annotated[Path | None, optional("The page to write.", "report.html in the first run", metavar="PATH")]
Quiet = Annotated[bool, arg(help="Print no progress.")]
Columns = Annotated[
    str | None,
    optional("A table's columns for text and label, such as utterance,intent.", "found by name", metavar="NAMES"),
]
Pattern = Annotated[
    str | None,
    optional("How names of files hold labels: '{label}_{n}'.", "folders or a table hold them", metavar="PATTERN"),
]
Json = Annotated[bool, arg(help="Print the result as JSON.")]


@dataclass(frozen=True)
class TaskOptions:
    """The tasks that runs are evaluated on."""

    data: Annotated[str | None, optional("Data to test on.", "the run's test classes", metavar="PATH")] = None
    split: Annotated[
        str | None,
        optional("The classes to test on: train, val, test or all.", "test; all of other data", metavar="NAME"),
    ] = None
    columns: Columns = None
    pattern: Pattern = None
    way: Annotated[int | None, optional("Classes in a task.", "5, or what the learner can", metavar="INT")] = None
    shot: Annotated[
        int | None, optional("Support examples of each class.", "1; for regression as trained", metavar="INT")
    ] = None
    query: Annotated[
        int | None, optional("Query examples of each class.", "15, or what the classes have", metavar="INT")
    ] = None
    tasks: Annotated[int, arg(help="Number of tasks; use 600 or more for a reliable score.")] = 600
    seed: Annotated[
        int, arg(help="Seed of the frozen list of tasks: with the same seed, every learner receives the same tasks.")
    ] = 0
    baselines: Annotated[
        bool, arg(help="Score baselines without meta-learning, such as training from scratch, on the same tasks.")
    ] = True
