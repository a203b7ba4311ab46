"""Opens the data that a run's options name, or that was made in Python, as splits of classes."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from upstairs.console import counting, tell_user
from upstairs.data import BUILT_IN
from upstairs.data.class_augmentation import training_classes
from upstairs.data.encoded.format import EncoderFormat
from upstairs.data.encoded.packed import encoded_splits
from upstairs.data.episodes import Episodes
from upstairs.data.files import count_of, listed
from upstairs.data.images.folders import format_for
from upstairs.data.images.format import read_picture
from upstairs.data.mixture import SIGN, mixed_splits
from upstairs.data.readers import format_by_encoder, reader_for
from upstairs.data.source import InputFormat, Source, refuse_masked
from upstairs.data.splits import Splits, parse_ratio, split_by_class
from upstairs.data.tables import is_table
from upstairs.errors import UpstairsError, reason
from upstairs.settings import DataOptions


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
        own = [_fitting(replace(options, data=part, mix=None)) for part in parts]
        return mixed_splits([open_splits(one, quiet=quiet, format=format) for one in own], mix)
    reader = reader_for(options.data, regression=asks_regression(vars(options)))
    with counting(f"reading {reader.name}", quiet=quiet) as progress:
        splits = _usable(reader.splits(options, format, progress))
    form = splits.train.format
    if format is None and isinstance(form, EncoderFormat) and (note := form.opened().note):
        splits = splits.noting(note)
    if splits.train.summary and not quiet:
        tell_user(splits.train.summary)
    return limited(splits, options, quiet=quiet)


def asks_regression(options: Mapping[str, Any]) -> bool:
    """Returns whether the options are those of regression tables."""
    return bool(options.get("target") or options.get("task_column"))


def is_regression(options: Mapping[str, Any]) -> bool:
    """Returns whether the options name data of regression: functions, or a table of numbers."""
    data = str(options.get("data", "glyphs"))
    return asks_regression(options) or reader_for(data).name in ("functions", "rows")


def _usable(splits: Splits) -> Splits:
    """Returns the splits without classes of one example, which no task can have, if each part keeps two classes."""
    kept = [[i for i, rows in enumerate(part.rows) if len(rows) > 1] for part in splits]
    left = [f"{part.labels[i]}" for part, own in zip(splits, kept, strict=True) if len(own) > 1
            for i in range(len(part)) if i not in own]  # fmt: skip
    if not left:
        return splits
    parts = (part.subset(own) if len(own) > 1 else part for part, own in zip(splits, kept, strict=True))
    left_out = f"{count_of(len(left), 'class')} with fewer than two examples left out: {listed(left)}"
    return Splits(*parts).noting(left_out)


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
        return limited(_encoded(data, options), options)
    if isinstance(data, Episodes | Source):
        source = data.source if isinstance(data, Episodes) else data
    else:
        source = read_dataset(data, format_by_encoder(options, "image") if options.encoder else None)
    if source.functions:  # none is ever drawn twice
        return Splits(source, source, source)
    if isinstance(data, Episodes):
        return _encoded(Splits(source, source.subset([]), source.subset([])), options)
    if options.split not in (None, "group", "ratio"):
        raise UpstairsError(f"`split` is '{options.split}' and {source.name} is data of your own: give ratio or group")
    splits = split_by_class(source, options.split, parse_ratio(options.ratio), seed=options.split_seed)
    return limited(_encoded(splits, options), options)


def _encoded(splits: Splits, options: DataOptions) -> Splits:
    """Returns the splits as the encoder that the options name reads them, if their inputs are no texts."""
    form = splits.train.format
    if not options.encoder or isinstance(form, EncoderFormat) or (form is not None and form.is_text):
        return splits
    return encoded_splits(splits, format_by_encoder(options, "image"))


def read_dataset(dataset: Any, encoded: EncoderFormat | None = None) -> Source:
    """Reads every item of a torch `Dataset`, a pair (input, label), into memory; random transforms are drawn once.

    Inputs are arrays or tensors of one shape, or PIL pictures. `dataset.classes`, if any, names the labels.

    Args:
        encoded: the format of an encoder, which reads PIL pictures at their own size; None decides by the pictures.

    Raises:
        UpstairsError: no `Dataset` with a length, items that are no such pairs, or inputs of several shapes.
    """
    name = type(dataset).__name__
    if (
        not hasattr(dataset, "__getitem__")
        or not hasattr(dataset, "__len__")
        or isinstance(dataset, Mapping)
        or hasattr(dataset, "iloc")
    ):
        raise UpstairsError(
            f"`data` is a {name}: give a path, a Source, Splits, Episodes, or a torch Dataset with a length, whose "
            "items are (input, label)"
        )
    items = [_item(dataset, place) for place in range(len(dataset))]
    if not items:
        raise UpstairsError(f"{name}: no examples were given")
    for place, item in enumerate(items):
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise UpstairsError(f"item {place} of {name} is a {type(item).__name__}: it must be a pair (input, label)")
        if math.prod(np.shape(item[1])) != 1:
            raise UpstairsError(
                f"item {place} of {name} has a label of shape {list(np.shape(item[1]))}: give one value"
            )
    inputs, format = [x for x, _ in items], None
    labels = [y.item() if hasattr(y, "item") else y for _, y in items]
    if items and all(isinstance(x, Image.Image) for x in inputs):
        format = encoded or format_for([read_picture(x) for x in inputs[:: max(1, len(inputs) // 32)]])
        inputs = list(format.read_many(inputs))
    for place, x in enumerate(inputs):
        refuse_masked(x, f"input {place} of {name} has")
    rows = [np.asarray(x) for x in inputs]
    for place, row in enumerate(rows):
        if row.shape != rows[0].shape or row.dtype.kind not in "biuf":
            what = f"of shape {row.shape} and type {row.dtype}, and input 0 of shape {rows[0].shape}"
            raise UpstairsError(f"input {place} of {name} is {what}: give numbers of one shape")
    names = [str(known) for known in getattr(dataset, "classes", ())]
    if len(set(names)) == len(names) and all(isinstance(k, int) and 0 <= k < len(names) for k in labels):
        labels = [names[k] for k in labels]
    source = Source.from_arrays(np.stack(rows), labels, name=name)
    again = _item(dataset, 0)[0]
    random = not np.array_equal(np.asarray(items[0][0]), np.asarray(again))
    return replace(source, format=format, random=random)


def _item(dataset: Any, place: int) -> Any:
    try:
        return dataset[place]
    except Exception as error:
        raise UpstairsError(
            f"item {place} of {type(dataset).__name__} raised a {type(error).__name__} ({reason(error)}): fix its "
            "__getitem__, or leave the item out"
        ) from error


# Options and the readers of the data that they are for.
ABOUT = {
    "encoder": ("texts", "sounds", "arrays", "pictures"),
    "words": ("texts",), "encoding": ("texts", "rows"), "size": ("pictures",),
    "columns": ("texts", "rows", "sounds", "arrays", "pictures"), "channels": ("pictures",), "seconds": ("sounds",),
    "pattern": ("texts", "sounds", "arrays", "pictures"), "ratio": ("texts", "rows", "sounds", "arrays", "pictures"),
    "target": ("rows",), "task_column": ("rows",),
}  # fmt: skip


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
    for name in ("target", "task_column"):
        if getattr(options, name) and (len(parts) > 1 or not is_table(Path(options.data))):
            raise UpstairsError(f"`{name}` is about a table for regression and {options.data} is none: leave it out")
    kinds = {reader_for(part, regression=asks_regression(vars(options))).name for part in parts}
    for name, readers in ABOUT.items():
        if getattr(options, name) and not kinds & set(readers):
            raise UpstairsError(f"`{name}` is about {' and '.join(readers)} and {options.data} has none: leave it out")


def _fitting(options: DataOptions) -> DataOptions:
    """Returns the options without those that are for data of other kinds."""
    name = reader_for(options.data).name
    left: dict[str, Any] = {option: None for option, readers in ABOUT.items() if name not in readers}
    return replace(options, **left)


def parse_mix(text: str) -> list[float]:
    """Parses shares such as "2,1"."""
    try:
        return [float(share) for share in text.split(",")]
    except ValueError:
        raise UpstairsError(f"`mix` is '{text}': give a number for each data set, such as 2,1") from None
