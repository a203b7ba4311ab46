"""The settings of a training run, as one frozen value that is saved in its checkpoint."""

import re
from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields
from numbers import Real
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from upstairs.errors import UpstairsError
from upstairs.schedule import lr_factor

Net = Literal["conv4", "resnet12", "sound", "mlp", "bag", "cnn", "transformer", "projection", "pretrained"]
CONVOLUTIONAL: tuple[Net, ...] = ("conv4", "resnet12", "sound")
Tune = Literal["last", "norms", "lora", "all"]
Norm = Literal["batch", "population", "per_step", "group", "none"]
Interpolation = Literal["none", "mlti", "metamix"]
TaskKind = Literal["classification", "regression", "generation"]


def option(
    default: Any, help: str, *, least: float | None = None, above: float | None = None, below: float | None = None
) -> Any:
    """Returns a dataclass field that is an option, with its help and its range.

    If the default is None, the help ends in "Left out: " and the behaviour without a value.
    """
    return field(default=default, metadata={"help": help, "least": least, "above": above, "below": below})


@dataclass(frozen=True, kw_only=True)
class LearnerOptions:
    """The base class of a learner's own options, which are fields made by `option`."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The data, its split, and its training classes. `net` is one of them, since it decides how texts are read."""

    data: str = option(
        "glyphs", "`glyphs`, `languages`, `sinusoid`, `gp`, or the path of a folder, a zip, a table or a data set."
    )
    split: str | None = option(
        None,
        "How classes are split into train, val and test: `ratio`, `group`, or a name that the data set has. "
        "Left out: what suits the data.",
    )
    split_seed: int = option(0, "Seed of a random split.")
    ratio: str | None = option(
        None, "Shares of the classes for train, val and test, such as 0.6,0.2,0.2. Left out: 0.64,0.16,0.2."
    )
    mix: str | None = option(None, "Shares of several data sets (--data 'A + B'), such as 2,1. Left out: equal.")
    columns: str | None = option(
        None,
        "The table's columns for text (or path) and label, such as utterance,intent or title+body,label; by number, "
        "such as 2,1, if it has no header row. Left out: found by name.",
    )
    pattern: str | None = option(
        None,
        "How the names of the files hold their labels, such as '{label}_{speaker}_{n}' for 3_jackson_0.wav. "
        "Left out: folders or a table hold them.",
    )
    size: int | None = option(
        None, "Pictures: pixels along each side. Left out: 84; 32 for small ones, 28 for drawings.", least=8
    )
    channels: int | None = option(
        None, "Pictures: 1 (grey) or 3 (colour). Left out: 1 if all are grey, else 3.", least=1
    )
    seconds: float | None = option(
        None, "Sounds: the seconds of a recording that are heard. Left out: the length of nine in ten, at most 4."
    )
    target: str | None = option(
        None, "Regression tables: the columns to predict, such as load; --columns names the inputs. Left out: the last."
    )
    task_column: str | None = option(
        None,
        "Regression tables: the column that names the task of each row. Left out: found by name (city, site, ...).",
    )
    encoding: str | None = option(
        None, "Encoding of tables and texts, such as cp1252 or gb18030. Left out: UTF-8, or what is detected."
    )
    words: int | None = option(
        None,
        "Texts: number of words that are read, with --net pretrained of tokens. Left out: what 95% of the texts have, "
        "at most 512 words.",
        least=1,
    )
    skip_bad: bool = option(False, "Leave out inputs that cannot be read or have no label, and say so.")
    encoder: str | None = option(
        None,
        "A pretrained network, whose features are the inputs: a folder or a name that transformers knows, timm:NAME, "
        "FILE.onnx, package.module:function, mobilenet_v2 or efficientnet_lite0. --net pretrained trains it further. "
        "Left out: none.",
    )
    net: Net = option(
        "conv4",
        "The network: conv4 and resnet12 are for pictures, sound for recordings, bag, cnn and transformer for texts, "
        "projection for the features of --encoder, pretrained for the encoder itself, a part of which is trained: see "
        "--tune.",
    )
    train_classes: int | None = option(
        None, "Use only this number of the training classes, at random. Left out: all.", least=2
    )
    rotate_classes: bool = option(False, "Pictures: a class rotated by 90, 180 or 270 degrees is an additional class.")
    mirror_classes: bool = option(False, "Letters and drawings: a class mirrored left to right is an additional class.")
    splice: int | None = option(
        None,
        "Sounds: this number of additional classes, spliced from halves of two. Left out: two for each class there is.",
        least=0,
    )
    spoken: int | None = option(
        None,
        "Sounds: half of the training tasks are of this number of made-up words, spoken by eSpeak NG. Left out: none.",
        least=24,
    )
    train_on_validation: bool = option(
        False,
        "Train on the validation classes too. The last weights are then kept, since no validation can select any.",
    )

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class TrainingTaskOptions:
    """The training tasks: how they are drawn and changed."""

    way: int | None = option(5, "Classes in a training task; regression has none.", least=1)
    shot: str = option("1", "Support examples of each class: a number, or a range such as 1-5, drawn for each task.")
    query: int = option(5, "Query examples of each class.", least=1)
    tasks: int = option(1, "Tasks in a meta-step.", least=1)
    speakers: int | None = option(
        None, "Sounds: speakers of a training task. Left out: 6 where they are known.", least=1
    )
    jitter: bool = option(False, "Augment training pictures at random: mirror and shift photos, warp drawings.")
    interpolate: Interpolation = option(
        "none", "More training tasks by mixing: mlti mixes two tasks, metamix the queries with support examples."
    )
    mixing: float = option(0.5, "The shares of --interpolate are drawn from Beta(mixing, mixing).", above=0)
    hard: float = option(
        0.0, "Share of the meta-steps on the classes that were recently the hardest of their tasks.", least=0
    )


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """The network."""

    width: int = option(64, "Width of the network, in channels or units.", least=1)
    tune: Tune = option(
        "last",
        "What --net pretrained trains: last (its last two layers), norms (scales and shifts of its normalisation "
        "layers), lora (low-rank adapters beside its linear layers) or all.",
    )
    norm: Norm = option("population", "Normalisation: batch (transductive), population, per_step, group or none.")
    dropout: float = option(
        0.0, "Share of the channels (or units) that are dropped in training; not for texts.", least=0, below=1
    )


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """The outer loop: optimiser, budget, validation."""

    steps: int | None = option(None, "The budget in meta-steps. Left out: see --minutes.", above=0)
    minutes: float | None = option(
        None, "The budget in minutes of training, instead of steps. Left out: 10, unless --steps is given.", above=0
    )
    lr: float = option(2e-3, "Highest learning rate of the outer loop: see --schedule.", above=0)
    schedule: str = option(
        "cosine",
        "How the learning rate changes: cosine (after a warm-up to 0), linear, constant, halve:STEPS, or "
        "STEP:FACTOR,...",
    )
    optimizer: Literal["adamw", "sgd", "momentum"] = option(
        "adamw", "Optimiser of the outer loop: adamw, sgd, or momentum (SGD with Nesterov's momentum of 0.9)."
    )
    weight_decay: float = option(
        0.0, "Weight decay of the meta-parameters (decoupled, as in AdamW, where that is the optimiser).", least=0
    )
    label_smoothing: float = option(
        0.0, "Share of a query's label that is spread over all classes of its task.", least=0, below=1
    )
    clip: float = option(10.0, "Largest norm of the meta-gradient, which is clipped to it.", above=0)
    estimator: Literal["autograd", "es"] = option(
        "autograd", "Estimator of the meta-gradient: autograd, or es (evolution strategies, from losses alone)."
    )
    pairs: int = option(1, "Evolution strategies: pairs of opposite perturbations of each task.", least=1)
    sigma: float = option(0.02, "Evolution strategies: standard deviation of a perturbation.", above=0)
    start_from: str | None = option(
        None, "A run whose weights are copied at the start, if names and shapes fit. Left out: random weights."
    )
    pretrain: float = option(
        0.0, "Share of the budget for pretraining, which classifies all training classes.", least=0, below=1
    )
    validations: int = option(10, "Number of validations; fewer by default where the budget is small.", least=1)
    validation_tasks: int = option(
        100, "Number of validation tasks; fewer by default where the budget is small, at least 20.", least=1
    )
    patience: int | None = option(
        None,
        "Stop early after this number of validations in a row without a better one. Left out: the budget is spent.",
        least=1,
    )
    seed: int = option(0, "Seed of the initialisation and of the training tasks.")
    device: Literal["auto", "cpu", "cuda", "mps"] = option(
        "auto", "Device: auto is CUDA if available; mps is Apple's GPU."
    )
    chunk: int | None = option(
        None, "Number of tasks computed at a time, which changes only the speed. Left out: as many as fit.", least=1
    )
    memory: str | None = option(None, "Memory for a meta-step, such as 2GiB. Left out: half of the machine's memory.")
    compile: Literal["off", "on", "auto"] = option(
        "off", "Compile the meta-step: on, or auto where it pays (small networks)."
    )
    shards: int = option(
        1,
        "Parts of a meta-step with equal numbers of tasks, which several processes divide among them: see --processes.",
        least=1,
    )
    threads: int | None = option(
        None, "Threads of a process, on which the result depends. Left out: torch's own number, 1 with shards.", least=1
    )


GROUPS = (DataOptions, TrainingTaskOptions, NetworkOptions, TrainingOptions)


def options_in(group: Any) -> dict[str, Field[Any]]:
    """Returns the options of a class or an instance by name, in order."""
    return {f.name: f for f in fields(group) if "help" in f.metadata}


COMMON: dict[str, Field[Any]] = {name: f for group in GROUPS for name, f in options_in(group).items()}


def option_kinds(group: Any) -> dict[str, tuple[Any, ...]]:
    """Returns the types or the choices of each option of a class."""

    def flat(kind: Any) -> Iterator[Any]:
        parts = get_args(kind)
        yield from (
            [kind] if not parts else parts if get_origin(kind) is Literal else (p for k in parts for p in flat(k))
        )

    return {name: tuple(flat(kind)) for name, kind in get_type_hints(group).items()}


def check_options(options: Any) -> None:
    """Raises UpstairsError for an option that is not one of its choices, or out of range."""
    kinds = option_kinds(type(options))
    for name, one in options_in(options).items():
        check_option(one, kinds[name], getattr(options, name))


def check_option(one: Field[Any], kinds: tuple[Any, ...], value: Any) -> None:
    """Raises UpstairsError for a value that the option cannot have."""
    name, (least, above, below) = one.name, (one.metadata[bound] for bound in ("least", "above", "below"))
    if not any(isinstance(kind, type) for kind in kinds):
        if value not in kinds:
            raise UpstairsError(f"`{name}` is {value!r}: choose {', '.join(map(str, kinds))}")
        return
    if value is None and NoneType in kinds:
        return
    if {int, float} & set(kinds) and (not isinstance(value, Real) or isinstance(value, bool)):
        raise UpstairsError(f"`{name}` is {value!r}: give a number")
    if int in kinds and float not in kinds and not (float(value).is_integer() and abs(float(value)) < 2**63):
        raise UpstairsError(f"`{name}` is {value}: give a whole number below 2**63")
    if below is not None and not least <= value < below:
        raise UpstairsError(f"`{name}` is {value}: it must be from {least} to below {below}")
    if least is not None and not value >= least:
        raise UpstairsError(f"`{name}` is {value}: it must be at least {least}")
    if above is not None and not above < value < float("inf"):
        raise UpstairsError(f"`{name}` is {value}: it must be above {above}")


@dataclass(frozen=True, kw_only=True)
class Settings(DataOptions, TrainingTaskOptions, NetworkOptions, TrainingOptions):
    """The settings of a run: the options of every run, and the learner's own options in `own`.

    `task_kind`, `classes` (the number of training classes) and `outputs` (of regression targets) are derived. `way` is
    None for regression.
    """

    learner: str
    own: LearnerOptions = field(default_factory=LearnerOptions)
    task_kind: TaskKind = "classification"
    classes: int | None = None
    outputs: int = 1

    def __post_init__(self) -> None:
        check_options(self)
        check_settings(self)

    @property
    def shots(self) -> tuple[int, int]:
        return parse_range(self.shot)

    def to_json(self) -> dict[str, Any]:
        """Returns all options in one flat dict; `upstairs.learners.read_settings` is the inverse."""
        flat = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "own"}
        return flat | {f.name: getattr(self.own, f.name) for f in fields(self.own)}


def check_settings(s: Settings) -> None:
    """Raises UpstairsError for settings that exclude each other."""
    if s.memory is not None:
        parse_bytes(s.memory)
    lr_factor(s.schedule, done=0, step=0)  # raises for an unknown schedule
    low, high = parse_range(s.shot)
    if s.steps is not None and s.minutes is not None:
        raise UpstairsError("both `steps` and `minutes` were given: a run has one budget, so give one of them")
    if s.hard > 0.5:
        raise UpstairsError(f"`hard` is {s.hard}: it must be from 0 to 0.5, half of the meta-steps")
    if s.pretrain and s.start_from:
        raise UpstairsError("both `pretrain` and `start_from` were given: give one of them")
    if s.interpolate == "mlti" and low != high:
        raise UpstairsError(f"mlti mixes example with example and `shot` is {s.shot}: give one number of shots")
    if s.interpolate != "none" and s.hard:
        raise UpstairsError("`hard` looks for the hardest classes and mixed tasks have none: give one of them")
    if s.task_kind == "regression":
        if s.way is not None:
            raise UpstairsError(f"`way` is {s.way} and {s.data} is regression, which has no classes: leave it out")
        if s.label_smoothing:
            raise UpstairsError("`label_smoothing` is about classes and the data is regression: leave it out")
    elif s.way is None:
        raise UpstairsError("`way` is None and the tasks have classes: give the number of classes in a task")
    if s.task_kind == "generation" and s.way != 1:
        raise UpstairsError(f"`way` is {s.way} and '{s.learner}' makes more of one class: leave `way` out")
    if s.task_kind == "classification" and s.way == 1:
        raise UpstairsError("`way` is 1: it must be at least 2, for a learner that names classes")


def parse_range(text: str) -> tuple[int, int]:
    """Parses '3' or '1-5' as (lowest, highest)."""
    match = re.fullmatch(r"(-?\d+)(?:-(\d+))?", text.strip())
    if match is None:
        raise UpstairsError(f"`shot` is '{text}': give a number such as 1, or a range such as 1-5")
    low = int(match[1])
    high = int(match[2]) if match[2] else low
    if low < 1 or high < low:
        raise UpstairsError(f"`shot` is '{text}': the lowest must be at least 1, and the highest no lower")
    return low, high


_UNITS = {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse_bytes(text: int | str) -> int:
    """Parses 1500000, "1.5 MB" or "2 GiB" as bytes."""
    match = re.fullmatch(r"\s*([\d.]+)\s*([a-zA-Z]*)\s*", str(text))
    unit = match and match[2].lower()
    try:
        size = int(float(match[1]) * _UNITS[str(unit)]) if match else 0
    except (ValueError, KeyError):
        size = 0
    if size <= 0:
        raise UpstairsError(f'memory is {text!r}: give a number of bytes, or text such as "800 MiB" or "2 GiB"')
    return size
