"""Opens data: the table of readers, and the splits that a run's options name."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
from PIL import Image

from upstairs.console import counting, tell_user
from upstairs.data import BUILT_IN
from upstairs.data.audio.folders import open_sounds, sound_splits
from upstairs.data.audio.format import AudioFormat
from upstairs.data.cache import Progress
from upstairs.data.class_augmentation import training_classes
from upstairs.data.encoded.format import (
    EncodedImageFormat,
    EncodedSoundFormat,
    EncodedTextFormat,
    EncoderFormat,
    encoded_format,
)
from upstairs.data.encoded.packed import encoded_splits
from upstairs.data.encoded.prepared import PixelFormat, PreparedImageFormat, PreparedSoundFormat, prepared_format
from upstairs.data.episodes import Episodes
from upstairs.data.files import ARRAYS, LABEL_TABLES, PICTURES, SOUNDS, Files, count_of, extension_of, listed, open_tree
from upstairs.data.images.arrays import ArrayFormat, array_splits, is_packed, read_arrays
from upstairs.data.images.datasets import open_data, open_source, published_kind
from upstairs.data.images.folders import files_by_class, format_for
from upstairs.data.images.format import ImageFormat, read_picture
from upstairs.data.layouts.classes import JOINED
from upstairs.data.mixture import SIGN, mixed_splits
from upstairs.data.regression import FUNCTIONS, RowFormat, function_splits, is_task_table, task_source, task_splits
from upstairs.data.source import InputFormat, Source, refuse_masked
from upstairs.data.splits import Splits, split_by_class
from upstairs.data.tables import is_table, read_table
from upstairs.data.text.embeddings import FrozenFormat
from upstairs.data.text.hashed import TextFormat
from upstairs.data.text.tables import is_text, open_texts, read_texts, tables_in, text_splits
from upstairs.data.text.tokens import PieceFormat
from upstairs.encoders.base import Modality
from upstairs.errors import UpstairsError, reason
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
        source: (options, format, progress) -> all data as one source.
        support: (path of a support set, columns, pattern) -> {label: inputs}, or inputs and labels.
        formats: the formats of its sources, by which a checkpoint finds its reader.
        has_splits: False for functions, which are never drawn twice and need no split.
    """

    name: str
    kinds: tuple[str, ...]
    matches: Callable[[str], bool]
    splits: Callable[[DataOptions, InputFormat | None, Progress | None], Splits]
    source: Callable[[DataOptions, InputFormat | None, Progress | None], Source]
    support: Callable[[Path, str | None, str | None], Any]
    formats: tuple[type[InputFormat] | type[None], ...]
    has_splits: bool = True


def _texts(options: DataOptions, format: InputFormat | None, progress: Progress | None) -> Splits:
    return text_splits(
        options.data, **_split(options), **_read_as(options), encoder=options.encoder, words=options.words,
        adapted=options.net == "pretrained", format=format, progress=progress,
    )  # fmt: skip


def _read_as(options: DataOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("columns", "pattern", "encoding", "skip_bad")}


def _rows(options: DataOptions, format: InputFormat | None, progress: Progress | None) -> Splits:
    if options.split not in (None, "ratio"):
        raise UpstairsError(f"`split` is '{options.split}' and {options.data} is split at random: leave it out")
    return task_splits(
        Path(options.data), task=options.task_column, inputs=options.columns, targets=options.target,
        seed=options.split_seed, ratio=parse_ratio(options.ratio), encoding=options.encoding,
        skip_bad=options.skip_bad, format=format if isinstance(format, RowFormat) else None,
    )  # fmt: skip


def _row_source(options: DataOptions, format: InputFormat | None, progress: Progress | None) -> Source:
    if not isinstance(format, RowFormat):
        raise UpstairsError(
            f"{options.data} is a table of regression tasks and the run reads other inputs: give other data"
        )
    return task_source(Path(options.data), format, encoding=options.encoding, skip_bad=options.skip_bad)


def _split(options: DataOptions) -> dict[str, Any]:
    return {"split": options.split, "seed": options.split_seed, "ratio": parse_ratio(options.ratio)}


def _named(data: str) -> Files | None:
    """Returns the kind of files that the first rows of a table, or of a folder's tables, name; None for other data."""
    path = Path(data)
    if path.is_dir():
        return next((found for table in tables_in(path) if (found := _named(str(table)))), None)
    if path.suffix.lower() not in LABEL_TABLES or not path.is_file():
        return None
    with suppress(UpstairsError):
        cells = [str(cell).strip() for row in read_table(path, head=True).rows[:20] for cell in row.values()]
        return next((files for files in (PICTURES, SOUNDS, ARRAYS) if any(cell in files for cell in cells)), None)
    return None


def _holds(files: Files) -> Callable[[str], bool]:
    """Returns a test of data: are most of its files of this kind, or would be if they could be read?"""

    def matches(data: str) -> bool:
        if data in BUILT_IN or Path(data).suffix.lower() in LABEL_TABLES:
            return _named(data) is files
        with suppress(UpstairsError), open_tree(data, files) as tree:
            kinds = Counter(extension_of(name) for name in tree.others)
            own = len(tree.stamps) or sum(kinds[kind] for kind in files.others)
            return own > 0 and own >= sum(kinds[kind] for kind in PICTURES.extensions)
        return False

    return matches


def _support_of(files: Files) -> Callable[[Path, str | None, str | None], Any]:
    """Returns a reader of support sets in folders or tables of labels."""
    return lambda path, columns, pattern: files_by_class(path, files, columns, pattern)


def _texts_of_support(path: Path, columns: str | None, pattern: str | None) -> tuple[list[Any], list[str]]:
    """Reads the texts and labels of a support set, which has no split."""
    found = read_texts(path, columns, pattern=pattern, encoding="", skip_bad=None)
    if found.parts or any(JOINED in note for note in found.notes):
        raise UpstairsError(f"{path} is divided into train and test: give the part with the examples to learn from")
    return found.texts, found.labels


def _files_reader(
    name: str, kinds: tuple[str, ...], matches: Callable[[str], bool], files: Files, splits: Callable[..., Splits],
    source: Callable[..., Source], formats: tuple[type[InputFormat] | type[None], ...], *own: str,
) -> DataReader:  # fmt: skip
    """Returns the reader of one kind of files; `own` are the options that it alone has."""
    modality: Modality = "audio" if files is SOUNDS else "image"

    def given(options: DataOptions, format: InputFormat | None, progress: Progress | None) -> dict[str, Any]:
        values = {option: getattr(options, option) for option in ("columns", "pattern", "skip_bad", *own)}
        if format is None and options.encoder:
            _check_encoder(options)
            return values | {"format": _format_of(options, modality), "progress": progress}
        fits = isinstance(format, formats[0]) or (isinstance(format, EncoderFormat) and format.modality == modality)
        return values | {"format": format if fits else None, "progress": progress}

    return DataReader(
        name, kinds, matches,
        lambda options, format, progress: splits(options.data, **_split(options), **given(options, format, progress)),
        lambda options, format, progress: source(options.data, **given(options, format, progress)),
        _support_of(files), formats,
    )  # fmt: skip


def _format_of(options: DataOptions, modality: Modality) -> Any:
    """Returns the format of the options' encoder; of sounds to train it with, a function of the seconds."""
    encoder = str(options.encoder)
    if options.net != "pretrained":
        return encoded_format(encoder, modality, seconds=options.seconds)
    if modality == "audio":
        return partial(prepared_format, encoder, modality)
    return prepared_format(encoder, modality)


def _check_encoder(options: DataOptions) -> None:
    """Raises UpstairsError for an option that has no effect on what an encoder reads."""
    for option in ("size", "channels", "rotate_classes", "mirror_classes", "splice", "spoken"):
        if getattr(options, option):
            raise UpstairsError(
                f"`{option}` changes what is read and `encoder` reads its inputs in its own way: leave one of them out"
            )


def _holds_texts(data: str) -> bool:
    """Returns whether this is texts; the lists of names beside public data sets of pictures are none."""
    return published_kind(Path(data)) is None and is_text(data) and _named(data) is None


READERS = (
    DataReader(
        "functions", ("sinusoid", "gp"), lambda data: data in FUNCTIONS,
        splits=lambda options, format, progress: function_splits(options.data),
        source=lambda options, format, progress: function_splits(options.data).test,
        support=_support_of(PICTURES), formats=(NoneType,), has_splits=False,
    ),
    DataReader(
        "rows", ("rows",), is_task_table, _rows, _row_source, support=_support_of(PICTURES), formats=(RowFormat,),
    ),
    DataReader(
        "texts", ("table", "texts", "languages"), _holds_texts, _texts,
        source=lambda options, format, progress: open_texts(
            options.data, **_read_as(options), format=format, progress=progress
        ),
        support=_texts_of_support,
        formats=(TextFormat, FrozenFormat, PieceFormat, EncodedTextFormat),
    ),
    _files_reader(
        "sounds", ("sounds",), _holds(SOUNDS), SOUNDS, sound_splits, open_sounds,
        (AudioFormat, EncodedSoundFormat, PreparedSoundFormat), "seconds",
    ),
    _files_reader(
        "arrays", ("npy",), lambda data: is_packed(data) or _holds(ARRAYS)(data), ARRAYS, array_splits,
        lambda data, **options: read_arrays(data, **options)[0], (ArrayFormat,),
    ),
    _files_reader(
        "pictures", ("glyphs", "folder", "zip", "omniglot", "cifar", "arrays"), lambda data: True, PICTURES,
        open_data, open_source, (ImageFormat, EncodedImageFormat, PixelFormat, PreparedImageFormat, NoneType),
        "size", "channels",
    ),
)  # fmt: skip
FORMATS = {kind.kind: kind for reader in READERS for kind in reader.formats if issubclass(kind, InputFormat)}


def reader_for(data: str, *, regression: bool = False) -> DataReader:
    """Returns the reader of a data set; for a mixture, that of its first one; with `regression` that of its tables."""
    first = data.split(SIGN)[0]
    if regression and is_text(first):
        return next(reader for reader in READERS if RowFormat in reader.formats)
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
        source = read_dataset(data, _format_of(options, "image") if options.encoder else None)
    if source.functions:  # none is ever drawn twice
        return Splits(source, source, source)
    if isinstance(data, Episodes):
        return _encoded(Splits(source, source.subset([]), source.subset([])), options)
    if options.split not in (None, "group", "ratio"):
        raise UpstairsError(f"`split` is '{options.split}' and {source.name} is data of your own: give ratio or group")
    return limited(_encoded(split_by_class(source, **_split(options)), options), options)


def _encoded(splits: Splits, options: DataOptions) -> Splits:
    """Returns the splits as the encoder that the options name reads them, if their inputs are no texts."""
    form = splits.train.format
    if not options.encoder or isinstance(form, EncoderFormat) or (form is not None and form.is_text):
        return splits
    return encoded_splits(splits, _format_of(options, "image"))


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


def parse_ratio(text: str | None) -> tuple[float, float, float] | None:
    """Parses the shares of train, val and test, such as "0.6,0.2,0.2"; they need not sum to 1."""
    if text is None:
        return None
    try:
        train, val, test = (float(share) for share in text.split(","))
        total = train + val + test
        if min(train, val, test) < 0 or not 0 < total < float("inf"):
            raise ValueError
    except ValueError:
        raise UpstairsError(
            f"`ratio` is '{text}': give three shares, of train, val and test, such as 0.6,0.2,0.2"
        ) from None
    return train / total, val / total, test / total


def parse_mix(text: str) -> list[float]:
    """Parses shares such as "2,1"."""
    try:
        return [float(share) for share in text.split(",")]
    except ValueError:
        raise UpstairsError(f"`mix` is '{text}': give a number for each data set, such as 2,1") from None
