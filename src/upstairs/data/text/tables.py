"""Reads labelled texts: tables (CSV, TSV, JSON lines, Parquet), JSON files, or class folders of .txt files."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from upstairs.data.cache import Progress
from upstairs.data.files import PICTURES, SOUNDS, Files
from upstairs.data.source import InputFormat, Source
from upstairs.data.splits import PUBLISHED, Splits, published_splits, split_by_class, split_by_list
from upstairs.data.tables import read_rows
from upstairs.data.text.embeddings import frozen_format
from upstairs.data.text.hashed import as_text, text_source
from upstairs.data.text.languages import language_source
from upstairs.data.text.tokens import piece_format
from upstairs.errors import UpstairsError

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
NAMES = {  # usual names of columns, the likeliest first
    "text": ("text", "sentence", "utterance", "query", "question", "message", "content", "review", "document", "title"),
    "label": ("label", "intent", "class", "category", "target", "topic", "language", "sentiment"),
    "group": ("group", "domain"),
}
CLINC = "data_full.json"
CHOICES = ("ratio", "group", PUBLISHED)
OTHERS = Files("pictures and sounds", (*PICTURES.extensions, *SOUNDS.extensions))


class Texts(NamedTuple):
    """Raw examples: a text, a label and a group each."""

    texts: list[Any]
    labels: list[str]
    groups: list[str] | None


def is_text(data: str | Path) -> bool:
    """Returns whether this is a table, CLINC150, a folder of .txt files, or `languages`."""
    path = Path(data)
    if str(data) == "languages":
        return True
    if path.is_dir():
        notes = any(file.name in OTHERS for file in path.glob("*/*.*"))  # the texts may be notes on pictures or sounds
        return (path / CLINC).is_file() or (not notes and any(_text_files(path)))
    return path.suffix.lower() in (*TABLES, ".json") and path.is_file()


def text_splits(
    data: str | Path,
    *,
    split: str | None = None,
    seed: int = 0,
    columns: str | None = None,
    encoder: str | None = None,
    adapted: bool = False,
    format: InputFormat | None = None,
    progress: Progress | None = None,
) -> Splits:
    """Opens texts and splits their classes for meta-training, validation and test.

    Args:
        data: a table, CLINC150's folder, a folder of class folders of .txt files, or `languages`.
        split: `group` (whole groups), `ratio` (classes at random), `published` (see `published_splits`), or the name of
            a folder in `splits` with labels.{train,valid,test}.txt. None is `group` with three groups or more, else
            `ratio`.
        seed: the seed of a random split.
        columns: the table's columns for text and label, as `utterance,intent`; None finds them.
        encoder: see `frozen_format`; None reads hashed tokens.
        adapted: read the encoder's token ids (`piece_format`) instead of its features.
        format: the format of a trained run that will receive the texts.

    Raises:
        UpstairsError: an unknown file, column or split, or an empty text.
    """
    source = open_texts(data, columns=columns, encoder=encoder, adapted=adapted, format=format, progress=progress)
    if split == PUBLISHED:
        return published_splits(source)
    lists = Path(data) / "splits" / (split or "")
    if split and split not in CHOICES:
        if not (lists / "labels.train.txt").is_file():
            raise UpstairsError(f"`split` is '{split}', which {data} does not have: choose {' or '.join(CHOICES)}")
        parts = (lists / f"labels.{part}.txt" for part in ("train", "valid", "test"))
        return split_by_list(source, *(as_text(part).split() for part in parts))
    return split_by_class(source, split, seed=seed)


def open_texts(
    data: str | Path,
    *,
    columns: str | None = None,
    encoder: str | None = None,
    adapted: bool = False,
    format: InputFormat | None = None,
    progress: Progress | None = None,
) -> Source:
    """Opens all texts as one source; the arguments are those of `text_splits`."""
    path = Path(data)
    if format is None and encoder and not adapted:
        format = frozen_format(encoder)
    if str(data) == "languages":
        if adapted and format is None:
            raise UpstairsError("languages are names, no sentences of one language: leave out `net` pretrained")
        return language_source(format, progress)
    found = read_texts(path, columns)
    if format is None and encoder:
        format = piece_format(encoder, found.texts)
    return text_source(
        found.texts, found.labels, groups=found.groups, name=path.stem or str(path), format=format, progress=progress
    )


def read_texts(path: Path, columns: str | None = None) -> Texts:
    """Reads the texts and labels of a file or folder."""
    if path.is_dir():
        if (path / CLINC).is_file():
            return _clinc(path)
        files = sorted(_text_files(path))
        return Texts([as_text(file) for file in files], [file.parent.name for file in files], None)
    if path.suffix.lower() == ".json":
        return _clinc(path.parent) if path.name == CLINC else _lists(path)
    rows = read_rows(path)
    if not rows:
        raise UpstairsError(f"{path} has no rows: give a table with a column of texts and one of labels")
    names = [name for name in rows[0] if name]  # fields beyond the header have none
    text, label = _asked(path, names, columns) if columns else (_find(path, names, what) for what in ("text", "label"))
    group = next((name for name in names if name.lower() in NAMES["group"] and name not in (text, label)), None)
    kept = [row for row in rows if row.get(label) not in (None, "")]
    if len(kept) < len(rows):
        bad = next(i for i, row in enumerate(rows, 1) if row.get(label) in (None, ""))
        raise UpstairsError(f"{path}: row {bad} has no {label}: fill it in, or remove the row")
    return Texts(
        [as_text(row.get(text) or "", f"{path}: row {i}, {text},") for i, row in enumerate(rows, 1)],
        [str(row[label]) for row in rows],
        [str(row.get(group) or "") for row in rows] if group else None,
    )


def texts_of(path: Path, columns: str | None = None) -> list[str]:
    """Returns the texts of a file: a table's text column, or the non-empty lines of any other file."""
    if path.suffix.lower() in TABLES:
        rows = read_rows(path)
        names = list(rows[0]) if rows else []
        name = "" if not rows else _asked(path, names, columns)[0] if columns else _find(path, names, "text")
        return [as_text(row.get(name) or "", f"{path}: row {i}, {name},") for i, row in enumerate(rows, 1)]
    return [line for line in as_text(path).splitlines() if line.strip()]


def from_dataset(dataset: Any, *, text: str | None = None, label: str | None = None, **options: Any) -> Source:
    """Returns a source from a Hugging Face `datasets.Dataset`, or from any rows that are dicts.

    Args:
        text, label: the columns; None finds them by name. Numbered labels get the data set's names of classes.
        options: arguments of `text_source`.
    """
    rows = list(dataset)
    if not rows:
        raise UpstairsError("the data set has no rows")
    where = Path(str((getattr(dataset, "info", None) and dataset.info.dataset_name) or "the data set"))
    text = text or _find(where, list(rows[0]), "text")
    label = label or _find(where, list(rows[0]), "label")
    for name in (text, label):
        if name not in rows[0]:
            raise UpstairsError(f"{where} has no column '{name}': it has {', '.join(rows[0])}")
    feature = getattr(dataset, "features", {}).get(label)
    said = feature.int2str if hasattr(feature, "int2str") else str
    return text_source([row[text] for row in rows], [str(said(row[label])) for row in rows], **options)


def _find(path: Path, names: Sequence[str], what: str) -> str:
    for wanted in NAMES[what]:
        for name in names:
            if name and name.lower() == wanted:
                return name
    raise UpstairsError(
        f"{path} has no column that is known to hold the {what}: it has {', '.join(map(str, names))}; "
        "name them as `columns` TEXT,LABEL"
    )


def _asked(path: Path, names: Sequence[str], columns: str) -> list[str]:
    asked = [name.strip() for name in columns.split(",")]
    if len(asked) != 2:
        raise UpstairsError(f"`columns` is '{columns}': give two, the text's and the label's, such as text,label")
    if missing := [name for name in asked if name not in names]:
        raise UpstairsError(f"{path} has no column '{missing[0]}': it has {', '.join(map(str, names))}")
    return asked


def _pairs(path: Path, value: Any) -> Iterable[tuple[str, str]]:
    try:
        for text, label in value:
            yield str(text), str(label)
    except (TypeError, ValueError) as error:
        raise UpstairsError(f"{path} is no list of [text, label] pairs ({error}): replace it") from error


def _lists(path: Path) -> Texts:
    """Reads a JSON file with a list of [text, label] pairs, or an object of such lists, which are joined."""
    value = _json(path)
    lists = value.values() if isinstance(value, dict) else [value]
    pairs = [pair for one in lists for pair in _pairs(path, one)]
    return Texts([text for text, _ in pairs], [label for _, label in pairs], None)


def _clinc(path: Path) -> Texts:
    """Reads CLINC150 (Larson et al. 2019): its 150 intents, grouped by domain, without out-of-scope texts."""
    value = _json(path / CLINC)
    pairs = [p for part in ("train", "val", "test") for p in _pairs(path / CLINC, value.get(part, []))]
    domains = _json(path / "domains.json") if (path / "domains.json").is_file() else {}
    owner = {intent: domain for domain, intents in domains.items() for intent in intents}
    labels = [label for _, label in pairs]
    return Texts([text for text, _ in pairs], labels, [owner.get(label, "") for label in labels])


def _text_files(path: Path) -> Iterable[Path]:
    return (p for p in path.glob("*/*.txt") if not p.name.startswith("."))


def _json(path: Path) -> Any:
    try:
        return json.loads(as_text(path))
    except ValueError as error:
        raise UpstairsError(f"{path} is no whole JSON file ({error}): replace it") from error
