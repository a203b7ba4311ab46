"""Settings: everything that decides a training run, as one frozen value that travels in its checkpoint."""

import re
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Literal, get_args, get_origin

from upstairs.errors import UpstairsError
from upstairs.schedule import lr_factor

Net = Literal["conv4", "resnet12", "sound", "mlp", "bag", "cnn", "transformer", "projection", "pretrained"]
CONVOLUTIONAL: tuple[Net, ...] = ("conv4", "resnet12", "sound")
Norm = Literal["batch", "population", "per_step", "group", "none"]
Interpolation = Literal["none", "mlti", "metamix"]
TaskKind = Literal["classification", "regression", "generation"]
OLD_NAMES = {"rate": "lr", "inner_rate": "inner_lr"}  # of settings, in the files of older versions


def option(*parts: Any) -> Any:
    """A field that is an option of the command line: (default, what it is), or where it must be given what it is."""
    *default, text = parts
    return field(default=default[0] if default else MISSING, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The data of a run: what `open_splits` reads. `net` is here as it decides how texts with an encoder are read."""

    data: str = option(
        "glyphs", "`glyphs`, `languages`, `sinusoid`, `gp`, or the path of a folder, a zip, a table or a data set."
    )
    split: str | None = option(
        None, "How classes are split into train, val and test: `ratio`, `group`, or a name that the data set has."
    )
    split_seed: int = option(0, "Which random split, where the split is random.")
    mix: str | None = option(None, "Of several data sets (--data 'A + B'): shares, such as 2,1. Left out: equal.")
    columns: str | None = option(
        None, "A table's columns for text and label, such as utterance,intent. Left out: found by name."
    )
    encoder: str | None = option(
        None,
        "Texts: a pretrained transformer, a folder or a name. Its features are used; --net pretrained trains it.",
    )
    net: Net = option(
        "conv4",
        "The network: conv4 and resnet12 are for pictures, sound for recordings, bag, cnn and transformer for texts, "
        "projection for the features of --encoder, pretrained for the encoder itself, whose last layers are trained.",
    )
    train_classes: int | None = option(None, "Use only so many of the training classes, at random. Left out: all.")
    rotate_classes: bool = option(False, "Pictures: a class turned by 90, 180 or 270 degrees is one more class.")
    mirror_classes: bool = option(False, "Letters and drawings: a class mirrored left to right is one more class.")
    splice: int | None = option(
        None, "Sounds: so many more classes, of halves of two. Left out: two for each there is."
    )
    spoken: int | None = option(
        None, "Sounds: half of the training tasks are of so many made-up words, said by eSpeak NG. Left out: none."
    )
    train_on_validation: bool = option(
        False, "Train on the validation classes too. Nothing chooses among the weights then: the last are taken."
    )

    def __post_init__(self) -> None:
        for name, least in (("train_classes", 2), ("splice", 0), ("spoken", 24)):
            if (value := getattr(self, name)) is not None and value < least:
                raise UpstairsError(f"`{name}` is {value}: it must be at least {least}")


@dataclass(frozen=True, kw_only=True)
class Settings(DataOptions):
    """What `train` does. A learner's entry in the table has its own defaults for some of them."""

    learner: str = option("Published name, such as maml or protonet: see `upstairs list`.")
    jitter: bool = option(False, "Training pictures are changed at random: photos mirrored and shifted, ink bent.")
    views: Literal[1, 2, 10] = option(
        1, "Photos, in use: mean features of a picture and its mirror image, or ten crops."
    )
    speakers: int | None = option(None, "Sounds: speakers of a training task. Left out: 6 where they are known.")
    interpolate: Interpolation = option(
        "none", "More training tasks by mixing: mlti mixes two tasks, metamix the queries with support examples."
    )
    mixing: float = option(0.5, "Of --interpolate: shares are drawn from Beta(mixing, mixing).")
    way: int = option(5, "Classes in a training task.")
    shot: str = option("1", "Support examples of each class: a number, or a range such as 1-5, drawn for each task.")
    query: int = option(5, "Query examples of each class.")
    tasks: int = option(1, "Tasks in a meta-step.")
    chunk: int | None = option(None, "Tasks at a time; changes the speed, never the result. Left out: as many as fit.")
    memory: str | None = option(None, "Memory for a meta-step, such as 2GiB. Left out: half of the machine's.")
    compile: Literal["off", "on", "auto"] = option(
        "off", "Compile the meta-step: on, or auto where it pays (small networks)."
    )
    width: int = option(64, "Its width, in channels or units.")
    norm: Norm = option("population", "Normalisation: batch (transductive), population, per_step, group or none.")
    dropout: float = option(0.0, "Not for texts: share of the channels (or units) that training leaves out.")
    scale: float = option(0.8, "Metric learners: of the squared distance, over the square root of its dimension.")
    inner_steps: int = option(1, "Gradient learners: steps of the inner loop.")
    inner_lr: float = option(0.4, "Gradient learners: learning rate of the inner loop.")
    inner_batch: int | None = option(
        None, "Gradient learners: support examples in an inner step. Left out: all of them."
    )
    critic_steps: int = option(1, "Games: steps of the critic, or classifier, for each one of the generator.")
    start_from: str | None = option(None, "A run whose weights to start from, as far as their names and shapes fit.")
    pretrain: float = option(0.0, "Share of the budget that goes to classifying all training classes first.")
    hard: float = option(0.0, "Share of the meta-steps on classes that were the hardest of their tasks of late.")
    classes: int | None = option(None, "Training classes there are: filled in.")
    estimator: Literal["autograd", "es"] = option(
        "autograd", "The meta-gradient: autograd, or es (evolution strategies, by losses alone)."
    )
    pairs: int = option(1, "Evolution strategies: pairs of opposite perturbations of each task.")
    sigma: float = option(0.02, "Evolution strategies: standard deviation of a perturbation.")
    lr: float = option(2e-3, "Learning rate of the outer loop at its highest: see --schedule.")
    schedule: str = option(
        "cosine", "How it changes: cosine (after a warm-up to 0), linear, constant, halve:STEPS, or STEP:FACTOR,..."
    )
    optimizer: Literal["adamw", "sgd", "momentum"] = option(
        "adamw", "The outer loop's: adamw, sgd, or momentum (SGD with Nesterov's, 0.9)."
    )
    weight_decay: float = option(0.0, "Of the meta-parameters; decoupled from the rate by adamw.")
    label_smoothing: float = option(0.0, "Share of a query's label that is spread over all classes of its task.")
    clip: float = option(10.0, "The longest meta-gradient: a longer one is shortened to this norm.")
    steps: int | None = option(None, "The budget in meta-steps.")
    minutes: float | None = option(None, "The budget in minutes of training, instead of steps.")
    device: Literal["auto", "cpu", "cuda"] = option(
        "auto", "Where to compute: auto takes a CUDA device if there is one."
    )
    seed: int = option(0, "Of the initialisation and of the training tasks.")
    validations: int = option(10, "How many times the run stops to score the validation tasks.")
    validation_tasks: int = option(100, "How many validation tasks.")
    patience: int | None = option(
        None, "Stop early after so many validations in a row without a better one. Left out: the budget is spent."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(self)

    @property
    def task_kind(self) -> TaskKind:
        """What the tasks are: classes to tell apart, functions to fit, or sets of one class to make more of."""
        if self.way == 0:
            return "regression"
        return "generation" if self.way == 1 else "classification"

    @property
    def shots(self) -> tuple[int, int]:
        return parse_range(self.shot)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Settings":
        """Settings from a file; those of an older version may lack newer fields, or have older names."""
        known = {f.name for f in fields(cls)}
        values = {OLD_NAMES.get(name, name): value for name, value in values.items()}
        return cls(**{name: value for name, value in values.items() if name in known})


def check_settings(s: Settings) -> None:
    """Raise UpstairsError for a setting, or two of them, that cannot be."""
    for f in fields(s):
        check_choice(f.name, getattr(s, f.name))
    for name in ("width", "tasks", "pairs", "critic_steps", "validation_tasks"):
        if getattr(s, name) < 1:
            raise UpstairsError(f"`{name}` is {getattr(s, name)}: it must be at least 1")
    if s.memory is not None:
        parse_bytes(s.memory)
    for name in ("chunk", "inner_batch", "patience", "speakers"):
        if getattr(s, name) is not None and getattr(s, name) < 1:
            raise UpstairsError(f"`{name}` is {getattr(s, name)}: it must be at least 1")
    for name in ("lr", "inner_lr", "clip", "scale", "sigma", "mixing"):
        if not 0 < getattr(s, name) < float("inf"):
            raise UpstairsError(f"`{name}` is {getattr(s, name)}: it must be above 0")
    if s.steps is not None and s.minutes is not None:
        raise UpstairsError("both `steps` and `minutes` were given: a run has one budget, so give one of them")
    if (s.steps is not None and s.steps < 1) or (s.minutes is not None and not s.minutes > 0):
        raise UpstairsError(f"the budget is {s.steps or s.minutes}: it must be above 0")
    if s.inner_steps < 0 or s.weight_decay < 0 or s.validations < 1:
        raise UpstairsError("`inner_steps` and `weight_decay` must be 0 or more, and `validations` at least 1")
    if not (0 <= s.pretrain < 1 and 0 <= s.hard <= 0.5):
        raise UpstairsError("`pretrain` must be from 0 to below 1, and `hard` from 0 to 0.5: half of the meta-steps")
    if s.pretrain and s.start_from:
        raise UpstairsError("both `pretrain` and `start_from` were given: give one of them")
    lr_factor(s.schedule, done=0, step=0)  # refuses what is none
    check_regularization(s, *parse_range(s.shot))


def check_regularization(s: Settings, low: int, high: int) -> None:
    """Raise UpstairsError for a remedy against overfitting that cannot be, or not beside another setting."""
    for name in ("dropout", "label_smoothing"):
        if not 0 <= getattr(s, name) < 1:
            raise UpstairsError(f"`{name}` is {getattr(s, name)}: it must be from 0 to below 1")
    if s.interpolate == "mlti" and low != high:
        raise UpstairsError(f"mlti mixes example with example and `shot` is {s.shot}: give one number of shots")
    if s.interpolate != "none" and s.hard:
        raise UpstairsError("`hard` looks for the hardest classes and mixed tasks have none: give one of them")
    if s.label_smoothing and not s.way:
        raise UpstairsError("`label_smoothing` is about classes and the data is regression: leave it out")


def check_choice(name: str, value: Any) -> None:
    """Raise UpstairsError where the setting has choices, and this is none of them."""
    kind = next(f.type for f in fields(Settings) if f.name == name)
    if get_origin(kind) is Literal and value not in get_args(kind):
        raise UpstairsError(f"`{name}` is {value!r}: choose {', '.join(map(str, get_args(kind)))}")


def parse_range(text: str) -> tuple[int, int]:
    """'3' or '1-5' as (lowest, highest)."""
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
    """1500000, "1.5 MB" or "2 GiB" as bytes."""
    match = re.fullmatch(r"\s*([\d.]+)\s*([a-zA-Z]*)\s*", str(text))
    unit = match and match[2].lower()
    try:
        size = int(float(match[1]) * _UNITS[str(unit)]) if match else 0
    except (ValueError, KeyError):
        size = 0
    if size <= 0:
        raise UpstairsError(f'memory is {text!r}: give a number of bytes, or text such as "800 MiB" or "2 GiB"')
    return size
