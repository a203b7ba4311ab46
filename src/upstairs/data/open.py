"""Opens data: the table of readers, and the splits that a run's options name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
from PIL import Image

from upstairs.console import counting, tell_user
from upstairs.data import BUILT_IN
from upstairs.data.audio.folders import is_sound, open_sounds, sound_splits
from upstairs.data.audio.format import AudioFormat
from upstairs.data.cache import Progress
from upstairs.data.class_augmentation import training_classes
from upstairs.data.episodes import Episodes
from upstairs.data.files import SOUNDS
from upstairs.data.images.datasets import open_data, open_source
from upstairs.data.images.folders import files_by_class, format_for
from upstairs.data.images.format import ImageFormat, read_picture
from upstairs.data.mixture import SIGN, mixed_splits
from upstairs.data.regression import FUNCTIONS, function_splits
from upstairs.data.source import InputFormat, Source
from upstairs.data.splits import Splits, split_by_class
from upstairs.data.text.embeddings import FrozenFormat
from upstairs.data.text.hashed import TextFormat
from upstairs.data.text.tables import is_text, open_texts, read_texts, text_splits
from upstairs.data.text.tokens import PieceFormat
from upstairs.errors import UpstairsError
from upstairs.settings import DataOptions


@dataclass(frozen=True)
class DataReader:
    """Reads one kind of data.

    Attributes:
        name: the kind of inputs, for messages.
        kinds: the names that `upstairs list` shows for it.
        matches: name or path -> can this reader open it? The first match in `READERS` is used.
        splits: (options, format, progress) -> training, validation and test classes. `format` is that of the trained
            run that will receive the data, or None.
        source: (data, columns, format, progress) -> all data as one source.
        support: path of a support set -> {label: inputs}, or inputs and labels.
        formats: the formats of its sources, by which a checkpoint finds its reader.
        has_splits: False for functions, which are never drawn twice and need no split.
    """

    name: str
    kinds: tuple[str, ...]
    matches: Callable[[str], bool]
    splits: Callable[[DataOptions, InputFormat | None, Progress | None], Splits]
    source: Callable[[str, str | None, InputFormat | None, Progress | None], Source]
    support: Callable[[Path], Any]
    formats: tuple[type[InputFormat] | type[None], ...]
    has_splits: bool = True


def _texts(options: DataOptions, format: InputFormat | None, progress: Progress | None) -> Splits:
    return text_splits(
        options.data, split=options.split, seed=options.split_seed, columns=options.columns, encoder=options.encoder,
        adapted=options.net == "pretrained", format=format, progress=progress,
    )  # fmt: skip


def _sounds(options: DataOptions, format: InputFormat | None, progress: Progress | None) -> Splits:
    own = sound_format(format)
    return sound_splits(options.data, split=options.split, seed=options.split_seed, format=own, progress=progress)


def _pictures(options: DataOptions, format: InputFormat | None, progress: Progress | None) -> Splits:
    asked = pixels_of(format)
    return open_data(options.data, split=options.split, seed=options.split_seed, progress=progress, **asked)


def sound_format(format: InputFormat | None) -> AudioFormat | None:
    """Returns the format if it is that of sounds, else None."""
    return format if isinstance(format, AudioFormat) else None


def pixels_of(format: InputFormat | None) -> dict[str, Any]:
    """Returns the arguments that make pictures fit a trained run."""
    if not isinstance(format, ImageFormat):
        return {}
    return {"size": format.size, "channels": format.channels, "ink": format.ink}


READERS = (
    DataReader(
        "functions", ("sinusoid", "gp"), lambda data: data in FUNCTIONS,
        splits=lambda options, format, progress: function_splits(options.data),
        source=lambda data, columns, format, progress: function_splits(data).test,
        support=files_by_class, formats=(NoneType,), has_splits=False,
    ),
    DataReader(
        "texts", ("table", "texts", "languages"), is_text, _texts,
        source=lambda data, columns, format, progress: open_texts(
            data, columns=columns, format=format, progress=progress
        ),
        support=lambda path: read_texts(path)[:2], formats=(TextFormat, FrozenFormat, PieceFormat),
    ),
    DataReader(
        "sounds", ("sounds",), lambda data: data != "glyphs" and is_sound(data), _sounds,
        source=lambda data, columns, format, progress: open_sounds(
            data, format=sound_format(format), progress=progress
        ),
        support=lambda path: files_by_class(path, SOUNDS), formats=(AudioFormat,),
    ),
    DataReader(
        "pictures", ("glyphs", "folder", "zip", "omniglot", "cifar", "arrays"), lambda data: True, _pictures,
        source=lambda data, columns, format, progress: open_source(data, progress=progress, **pixels_of(format)),
        support=files_by_class, formats=(ImageFormat, NoneType),
    ),
)  # fmt: skip
FORMATS = {kind.kind: kind for reader in READERS for kind in reader.formats if issubclass(kind, InputFormat)}


def reader_for(data: str) -> DataReader:
    """Returns the reader of a data set; for a mixture, that of its first one."""
    first = data.split(SIGN)[0]
    return next(reader for reader in READERS if reader.matches(first))


def reader_of(format: InputFormat | None) -> DataReader:
    """Returns the reader of a format; arrays have no format and use that of pictures."""
    return next(reader for reader in reversed(READERS) if isinstance(format, reader.formats))


def read_format(value: dict[str, Any]) -> InputFormat:
    """Returns the format that `to_json` described.

    Raises:
        UpstairsError: an unknown kind of inputs.
    """
    if (kind := value.get("kind")) not in FORMATS:
        raise UpstairsError(
            f"the inputs are of the kind '{kind}' and this version reads {', '.join(FORMATS)}: train anew, or use the "
            "version of upstairs that wrote the file"
        )
    return FORMATS[kind].from_json(value)


def absolute(data: str | Path) -> str:
    """Returns the absolute path of the data; names of built-in data and paths that do not exist stay as they are."""
    if SIGN in str(data):
        return SIGN.join(absolute(part) for part in str(data).split(SIGN))
    named = not str(data) or data in BUILT_IN  # an empty path would be the working directory
    return str(data) if named or not Path(data).exists() else str(Path(data).resolve())


def with_paths(given: dict[str, Any]) -> dict[str, Any]:
    """Returns the given settings with absolute paths."""
    return given | {name: absolute(given[name]) for name in ("data", "start_from", "encoder") if given.get(name)}


def open_splits(options: DataOptions, *, quiet: bool, format: InputFormat | None = None) -> Splits:
    """Opens the data that the options name, with a progress bar while it is decoded for the first time.

    Args:
        format: the format of a trained run that will receive the data; None lets the data decide.

    Raises:
        UpstairsError: data that cannot be read, or an option that does not apply to this data.
    """
    parts = options.data.split(SIGN)
    check_data_options(options, parts)
    if len(parts) > 1:
        mix = parse_mix(options.mix) if options.mix else None
        own = [replace(options, data=part, mix=None) for part in parts]
        own = [one if is_text(one.data) else replace(one, columns=None, encoder=None) for one in own]
        return mixed_splits([open_splits(one, quiet=quiet, format=format) for one in own], mix)
    reader = reader_for(options.data)
    with counting(f"reading {reader.name}", quiet=quiet) as progress:
        splits = reader.splits(options, format, progress)
    if splits.train.summary and not quiet:
        tell_user(splits.train.summary)
    return limited(splits, options, quiet=quiet)


def limited(splits: Splits, options: DataOptions, *, quiet: bool = True) -> Splits:
    """Returns the splits with the training classes that the options ask for."""
    with counting("saying words", quiet=quiet or not options.spoken) as progress:
        return training_classes(
            splits, count=options.train_classes, rotate=options.rotate_classes, mirror=options.mirror_classes,
            splice=options.splice, spoken=options.spoken or 0, seed=options.split_seed,
            validation=options.train_on_validation, progress=progress,
        )  # fmt: skip


def split_own(data: Any, options: DataOptions) -> Splits:
    """Splits data that was made in Python: `Splits`, a `Source`, `Episodes`, or a torch `Dataset` (see `read_dataset`).

    Classes are split at random, by group where there are groups; those of episodes are for training only.
    """
    if isinstance(data, Splits):
        return limited(data, options)
    source = data.source if isinstance(data, Episodes) else data if isinstance(data, Source) else read_dataset(data)
    if source.functions:  # none is ever drawn twice
        return Splits(source, source, source)
    if isinstance(data, Episodes):
        return Splits(source, source.subset([]), source.subset([]))
    if options.split not in (None, "group", "ratio"):
        raise UpstairsError(f"`split` is '{options.split}' and {source.name} is data of your own: give ratio or group")
    few = 6 <= len(source) < 10  # validation and test need two classes each
    ratio = (1 - 4 / len(source), 2 / len(source), 2 / len(source)) if few else (0.64, 0.16, 0.2)
    return limited(split_by_class(source, options.split, ratio, seed=options.split_seed), options)


def read_dataset(dataset: Any) -> Source:
    """Reads every item of a torch `Dataset`, a pair (input, label), into memory; random transforms are drawn once.

    Inputs are arrays or tensors of one shape, or PIL pictures. `dataset.classes`, if any, names the labels.

    Raises:
        UpstairsError: no `Dataset` with a length, items that are no such pairs, or inputs of several shapes.
    """
    name = type(dataset).__name__
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__") or isinstance(dataset, Mapping):
        raise UpstairsError(
            f"`data` is a {name}: give a path, a Source, Splits, Episodes, or a torch Dataset with a length, whose "
            "items are (input, label)"
        )
    items = [dataset[place] for place in range(len(dataset))]
    for place, item in enumerate(items):
        if not isinstance(item, tuple | list) or len(item) != 2 or np.ndim(item[1]):
            raise UpstairsError(f"item {place} of {name} is a {type(item).__name__}: it must be a pair (input, label)")
    inputs, format = [x for x, _ in items], None
    labels = [y.item() if hasattr(y, "item") else y for _, y in items]
    if items and all(isinstance(x, Image.Image) for x in inputs):
        format = format_for([read_picture(x) for x in inputs[:: max(1, len(inputs) // 32)]])
        inputs = [format.read(x) for x in inputs]
    rows = [np.asarray(x) for x in inputs]
    for place, row in enumerate(rows):
        if row.shape != rows[0].shape or row.dtype.kind not in "biuf":
            what = f"of shape {row.shape} and type {row.dtype}, and input 0 of shape {rows[0].shape}"
            raise UpstairsError(f"input {place} of {name} is {what}: give numbers of one shape")
    names = [str(known) for known in getattr(dataset, "classes", ())]
    if len(set(names)) == len(names) and all(isinstance(k, int) and 0 <= k < len(names) for k in labels):
        labels = [names[k] for k in labels]
    return replace(Source.from_arrays(np.stack(rows) if rows else np.zeros(0), labels, name=name), format=format)


def check_data_options(options: DataOptions, parts: list[str]) -> None:
    """Raises UpstairsError for an option that does not apply to this data."""
    if not all(part.strip() for part in parts):
        raise UpstairsError(f"`data` is '{options.data}': name a data set on each side of '+'")
    if options.mix and len(parts) == 1:
        raise UpstairsError(f"`mix` is '{options.mix}' and there is one data set: name several, as `data` 'A + B'")
    if options.spoken and len(parts) > 1:
        raise UpstairsError(
            f"`spoken` adds made-up words to one data set and `data` is {options.data}: name one, or leave it out"
        )
    for name in ("columns", "encoder"):
        if getattr(options, name) and not any(is_text(part) for part in parts):
            raise UpstairsError(f"`{name}` is about texts and {options.data} has none: leave it out")


def parse_mix(text: str) -> list[float]:
    """Parses shares such as "2,1"."""
    try:
        return [float(share) for share in text.split(",")]
    except ValueError:
        raise UpstairsError(f"`mix` is '{text}': give a number for each data set, such as 2,1") from None
