"""The table of readers: each kind of data, how it is recognised, and how it is read and split."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any

from upstairs.data import BUILT_IN
from upstairs.data.audio.folders import open_sounds, sound_splits
from upstairs.data.audio.format import AudioFormat
from upstairs.data.cache import Progress
from upstairs.data.encoded.format import (
    EncodedImageFormat,
    EncodedSoundFormat,
    EncodedTextFormat,
    EncoderFormat,
    encoded_format,
)
from upstairs.data.encoded.prepared import PixelFormat, PreparedImageFormat, PreparedSoundFormat, prepared_format
from upstairs.data.files import ARRAYS, LABEL_TABLES, PICTURES, SOUNDS, Files, extension_of, open_tree
from upstairs.data.images.arrays import ArrayFormat, array_splits, is_packed, read_arrays
from upstairs.data.images.datasets import open_data, open_source, published_kind
from upstairs.data.images.folders import files_by_class
from upstairs.data.images.format import ImageFormat
from upstairs.data.layouts.classes import JOINED
from upstairs.data.mixture import SIGN
from upstairs.data.regression.functions import FUNCTIONS, function_splits
from upstairs.data.regression.rows import RowFormat, is_task_table, task_source, task_splits
from upstairs.data.source import InputFormat, Source
from upstairs.data.splits import Splits, parse_ratio
from upstairs.data.tables import read_table
from upstairs.data.text.embeddings import FrozenFormat
from upstairs.data.text.hashed import TextFormat
from upstairs.data.text.tables import is_text, open_texts, read_texts, tables_in, text_splits
from upstairs.data.text.tokens import PieceFormat
from upstairs.encoders.base import Modality
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
            return values | {"format": format_by_encoder(options, modality), "progress": progress}
        fits = isinstance(format, formats[0]) or (isinstance(format, EncoderFormat) and format.modality == modality)
        return values | {"format": format if fits else None, "progress": progress}

    return DataReader(
        name, kinds, matches,
        lambda options, format, progress: splits(options.data, **_split(options), **given(options, format, progress)),
        lambda options, format, progress: source(options.data, **given(options, format, progress)),
        _support_of(files), formats,
    )  # fmt: skip


def format_by_encoder(options: DataOptions, modality: Modality) -> Any:
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
