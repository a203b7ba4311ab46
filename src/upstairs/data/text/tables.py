"""Reads labelled texts: tables (CSV, TSV, JSON, JSON lines, Excel, Parquet), or class folders of .txt files."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from upstairs.data.cache import Progress
from upstairs.data.files import (
    NOTES,
    PICTURES,
    SOUNDS,
    TARS,
    alike,
    extension_of,
    ignored,
    open_tree,
    read_json,
    read_labels,
)
from upstairs.data.layouts.classes import Layout, own_parts, part_of
from upstairs.data.layouts.resolve import find_layout
from upstairs.data.layouts.rows import split_layout
from upstairs.data.source import InputFormat, Source
from upstairs.data.splits import PUBLISHED, Splits, published_splits, split_by_list
from upstairs.data.tables import (
    NAMES,
    OTHERS,
    TABLES,
    DataTable,
    check_rows,
    decode,
    is_table,
    join_names,
    json_records,
    name_key,
    plain_labels,
    read_table,
    refuse_pattern,
    split_names,
    table_kind,
    table_stem,
)
from upstairs.data.text.embeddings import frozen_format
from upstairs.data.text.hashed import TextFormat, as_text, is_blank, text_source
from upstairs.data.text.languages import language_source
from upstairs.data.text.tokens import piece_format
from upstairs.errors import UpstairsError

CLINC = "data_full.json"
CHOICES = ("ratio", "group", PUBLISHED)
FEW = 8  # rows; from here on, labels that hardly repeat are no labels


class Texts(NamedTuple):
    """Raw examples: a text, a label and a group each; `notes` say what was unusual, or left out."""

    texts: list[Any]
    labels: list[str]
    groups: list[str] | None
    notes: list[str]
    parts: Mapping[str, str] = {}  # label -> train, val or test, where the files say it


def is_text(data: str | Path) -> bool:
    """Returns whether this is a table, a folder of tables or of .txt files, CLINC150, or `languages`."""
    path = Path(data)
    if str(data) == "languages":
        return True
    if is_table(path) or (path / CLINC).is_file() or (path.is_dir() and tables_in(path)):
        return True
    if not (path.is_dir() or path.name.lower().endswith((".zip", *TARS))):
        return False
    with suppress(UpstairsError), open_tree(path, NOTES) as tree:  # the texts may be notes on pictures or sounds
        kinds = {extension_of(name) for name in tree.others}
        inside = sum("/" in name for name in tree.stamps)
        return bool(inside or len(tree.stamps) >= FEW) and not kinds & {*PICTURES.extensions, *SOUNDS.extensions}
    return False


def text_splits(
    data: str | Path,
    *,
    split: str | None = None,
    seed: int = 0,
    ratio: tuple[float, float, float] | None = None,
    format: InputFormat | None = None,
    **options: Any,
) -> Splits:
    """Opens texts and splits their classes for meta-training, validation and test.

    Args:
        data: a table, a folder of tables named train, val and test, a folder or zip of class folders of .txt files (see
            `find_layout`), CLINC150's folder, or `languages`.
        split: `group` (whole groups), `ratio` (classes at random), `published` (see `published_splits`), or the name of
            a folder in `splits` with labels.{train,valid,test}.txt. None is `group` with three groups or more, else
            `ratio`.
        seed, ratio: the seed of a random split, and its shares of train, val and test.
        format: the format of a trained run that will receive the texts.
        options: arguments of `open_texts`.

    Raises:
        UpstairsError: an unknown file, column or split, an empty text, or labels that are unlikely to be any.
    """
    source, parts = _open(data, format=format, **options)
    if split == PUBLISHED:
        return published_splits(source)
    lists = Path(data) / "splits" / (split or "")
    if split and split not in CHOICES:
        if not (lists / "labels.train.txt").is_file():
            raise UpstairsError(f"`split` is '{split}', which {data} does not have: choose {' or '.join(CHOICES)}")
        files = (lists / f"labels.{part}.txt" for part in ("train", "valid", "test"))
        return split_by_list(source, *map(read_labels, files))
    return split_layout(source, Layout([], parts), split, ratio, seed=seed)


def open_texts(data: str | Path, **options: Any) -> Source:
    """Opens all texts as one source.

    Args:
        data: as for `text_splits`.
        options:
            columns: the table's columns for text and label, as `utterance,intent`, or `title+body,label`, whose texts
                are joined; numbers are those of a table without a header row. None finds them.
            pattern: how the names of .txt files hold their labels, as '{label}_{n}'.
            encoder: see `frozen_format`; None reads hashed tokens.
            adapted: read the encoder's token ids (`piece_format`) instead of its features.
            words: the number of words (with `adapted`, of tokens) of a text that are read; None: what suits the texts.
            encoding: the encoding of the files, such as cp1252; None detects it.
            skip_bad: leave out rows or files without a text or a label, which otherwise are an error.
            format: the format of a trained run that will receive the texts.
    """
    return _open(data, **options)[0]


def _open(
    data: str | Path, *, columns: str | None = None, pattern: str | None = None, encoder: str | None = None,
    adapted: bool = False, words: int | None = None, encoding: str | None = None, skip_bad: bool = False,
    format: InputFormat | None = None, progress: Progress | None = None,
) -> tuple[Source, Mapping[str, str]]:  # fmt: skip
    """Returns all texts as one source, and the part of each class (train, val, test) where the files say it."""
    path = Path(data)
    if format is None and encoder and not adapted:
        if words is not None:
            raise UpstairsError("`words` is given and an encoder reads as many as it can: leave it out")
        format = frozen_format(encoder)
    if str(data) == "languages":
        if adapted and format is None:
            raise UpstairsError("languages are names, no sentences of one language: leave out `net` pretrained")
        refuse_pattern("languages", pattern)
        return language_source(format, progress), {}
    found = read_texts(path, columns, pattern=pattern, encoding=encoding, skip_bad=skip_bad)
    _check_labels(path, found.labels)
    if format is None and encoder:
        format = piece_format(encoder, found.texts, words)
    if format is None and words is not None:
        format = TextFormat(words)
    summary = f"{len(found.texts)} texts of {len(set(found.labels))} classes from {path.name or path}"
    source = text_source(
        found.texts, found.labels, groups=found.groups, name=path.stem or str(path), format=format, progress=progress,
        summary="; ".join([summary, *found.notes]),
    )  # fmt: skip
    return source, found.parts


def _check_labels(path: Path, labels: Sequence[str]) -> None:
    """Raises UpstairsError for labels that are unlikely to be any."""
    kinds, way = set(labels), "name the columns of texts and labels as `columns`, such as text,label"
    if len(kinds) == 1:
        raise UpstairsError(f"{path}: each of the {len(labels)} texts has the label {labels[0]!r}: {way}")
    if len(labels) >= FEW and 2 * len(kinds) > len(labels):
        raise UpstairsError(
            f"{path}: {len(labels)} texts have {len(kinds)} different labels, such as {min(kinds)[:60]!r}, so most "
            f"classes have one text: {way}"
        )
    numbers = [_number(label) for label in kinds]
    if len(kinds) > FEW and None not in numbers and any(number != int(number) for number in numbers if number):
        raise UpstairsError(
            f"{path}: the labels are {len(kinds)} numbers, such as {min(kinds)}: {way}, or give `target` for regression"
        )


def _number(text: str) -> float | None:
    try:
        return float(text) if abs(float(text)) < float("inf") else None
    except ValueError:
        return None


def read_texts(
    path: Path, columns: str | None = None, *, pattern: str | None = None, encoding: str | None = None,
    skip_bad: bool | None = False,
) -> Texts:  # fmt: skip
    """Reads the texts and labels of a file or folder; a text that repeats one of its class is left out.

    Args:
        columns, pattern, encoding, skip_bad: see `open_texts`. With an empty encoding and None as `skip_bad` errors do
            not name these options.
    """
    if path.name == CLINC or (path / CLINC).is_file() or is_table(path):
        refuse_pattern(str(path), pattern)
    if path.name == CLINC or (path / CLINC).is_file():
        return _clinc(path if path.is_dir() else path.parent)
    if is_table(path):
        return _labelled(_table_rows(path, columns, encoding), str(path), skip=skip_bad)
    if tables := {} if pattern else tables_in(path):
        bare = [] if columns else [file for file, part in tables.items() if part == "test" and _has_no_labels(file)]
        own = [_table_rows(file, columns, encoding, f"{file.name}: ", part)
               for file, part in tables.items() if file not in bare]  # fmt: skip
        raw = _Raw(*([v for values in field for v in values] for field in zip(*own, strict=True)))
        return _labelled(raw, str(path), skip=skip_bad,
                         notes=[f"{file.name} has no labels and was left out" for file in bare])  # fmt: skip
    with open_tree(path, NOTES) as tree:
        folders = {name.rpartition("/")[0] for name in tree.stamps}
        above = {folder[:i] for folder in folders for i, sign in enumerate(folder) if sign == "/"} | {""}
        outside = {name for name in tree.stamps if name.rpartition("/")[0] in above}  # such as README.txt
        if len(outside) < len(tree.stamps):
            stamps = {name: stamp for name, stamp in tree.stamps.items() if name not in outside}
            tree = replace(tree, stamps=stamps, others=(*tree.others, *outside))
        layout = find_layout(tree, columns=columns, pattern=pattern, skip_bad=skip_bad)
        found = [(name, one) for one in layout.classes for name in one.names]
        read = [decode(tree.read(name), f"{path}/{name}", encoding) for name, _ in found]
    raw = _Raw(
        [text for text, _ in read], [one.label for _, one in found], [one.group for _, one in found],
        [f"{path}/{name}" for name, _ in found], [""] * len(found), sorted({code for _, code in read} - {"utf-8"}),
        [""] * len(found),
    )  # fmt: skip
    return _labelled(
        raw, str(path), skip=skip_bad, parts=layout.parts, notes=[ignored(tree, layout.used), *layout.notes]
    )


def _has_no_labels(path: Path) -> bool:
    """Returns whether a table has usual names of columns and none for labels, as test tables of competitions have."""
    names = {name_key(name) for name in read_table(path, head=True).columns}
    return bool(names & {*NAMES["text"]}) and not names & {*NAMES["label"]}


class _Raw(NamedTuple):
    """Examples as they were read."""

    texts: list[str]
    labels: list[Any]
    groups: list[str]
    names: list[str]  # of each example, for errors
    bad: list[str]  # why an example cannot be used; empty where it can
    notes: list[str]
    parts: list[str]  # train, val, test or '' of each example


def _table_rows(path: Path, columns: str | None, encoding: str | None, before: str = "", part: str = "") -> _Raw:
    """Reads the rows of a table; `before` is written before their numbers in errors, `part` is what its name says."""
    table = read_table(path, encoding=encoding)
    if not table.rows:
        raise UpstairsError(f"{path} has no rows: give a table with a column of texts and one of labels")
    table, names, label = _columns(table, columns)
    group, split = (
        next((n for n in table.columns if name_key(n) in NAMES[what] and n not in (*names, label)), None)
        for what in ("group", "split")
    )
    texts, labels = [_joined(row, names) for row in table.rows], [row.get(label) for row in table.rows]
    bad = [before + table.bad[i] if i in table.bad else "" for i in range(1, len(texts) + 1)]
    for i, (text, plain) in enumerate(zip(texts, plain_labels(labels), strict=True)):
        given = f" ({labels[i]!r:.40})" if labels[i] not in (None, "") else ""
        if not bad[i] and plain is None:
            bad[i] = f"{before}row {i + 1} has no {label}{given}"
        elif not bad[i] and is_blank(text):
            bad[i] = f"{before}row {i + 1}, {'+'.join(names)}, is empty or no text"
    groups = [str(row.get(group) or "") if group else "" for row in table.rows]
    parts = [*table.parts] or [part or part_of(str(row.get(split)))[0] if split else part for row in table.rows]
    names = [f"{before}row {i}" for i in range(1, len(texts) + 1)]
    return _Raw(texts, labels, groups, names, bad, table.notes, parts)


def tables_in(path: Path) -> dict[Path, str]:
    """Returns the tables train, val and test of a folder, each with its part; or its only table, without one."""
    files = [file for file in sorted(path.glob("[!.~]*")) if is_table(file) and table_kind(file) != ".txt"]
    named = {file: part for file in files if (part := part_of(table_stem(file))[0])}
    return named if "train" in named.values() else dict.fromkeys(files, "") if len(files) == 1 else {}


def _labelled(
    raw: _Raw, name: str, *, skip: bool | None, parts: Mapping[str, str] = {}, notes: Iterable[str] = ()
) -> Texts:
    """Returns the examples without bad ones, which are named, and without repeated ones, which are counted."""
    texts, labels = raw.texts, plain_labels(raw.labels)
    owners = ((label, part) for label, part in zip(labels, raw.parts, strict=True) if part and label is not None)
    in_tables, note = own_parts(owners)
    bad = {i + 1: what for i, what in enumerate(raw.bad) if what}
    bad |= {i + 1: f"{raw.names[i]} is empty" for i, text in enumerate(texts) if is_blank(text) and i + 1 not in bad}
    left_out = check_rows(name, bad, skip=skip)
    seen: dict[str, dict[str, int]] = defaultdict(dict)
    for i, (text, label) in enumerate(zip(texts, labels, strict=True)):
        if i + 1 not in bad and label is not None:
            seen[" ".join(unicodedata.normalize("NFKC", text).casefold().split())].setdefault(label, i)
    keep = sorted(i for own in seen.values() for i in own.values())
    repeated = len(texts) - len(bad) - len(keep)
    several = [own for own in seen.values() if len(own) > 1]
    notes = [", ".join(dict.fromkeys(raw.notes)), note, *notes, left_out]
    notes.append(f"{repeated} duplicate text{'s' * (repeated > 1)} left out" if repeated else "")
    if several:
        example = texts[min(several[0].values())]
        notes.append(f"{len(several)} with several labels, such as {example[:60]!r}: {', '.join(sorted(several[0]))}")
    own = [str(labels[i]) for i in keep]
    notes.append(alike(own))
    groups = [raw.groups[i] for i in keep]
    kept, named = [texts[i] for i in keep], groups if any(groups) else None
    return Texts(kept, own, named, list(filter(None, notes)), parts or in_tables)


def texts_of(path: Path, columns: str | None = None) -> list[str]:
    """Returns the texts of a file: a table's text column, or the non-empty lines of a .txt or any other file.

    Args:
        columns: as for `text_splits`, for a table that has them; that of labels may be left out.
    """
    if table_kind(path) not in (*TABLES, *OTHERS) or table_kind(path) == ".txt":
        return [line for line in as_text(path).splitlines() if line.strip()]
    table = read_table(path, encoding="")
    names: list[str] = []
    if table.rows:
        table, names, _ = _columns(table, columns, labels=False)
    texts = [_joined(row, names) for row in table.rows]
    empty = {i: f"row {i}, {'+'.join(names)}, is empty" for i, text in enumerate(texts, 1) if is_blank(text)}
    check_rows(table.name, {**empty, **table.bad}, skip=None)
    return texts


def from_dataset(dataset: Any, *, text: str | None = None, label: str | None = None, **options: Any) -> Source:
    """Returns a source from a Hugging Face `datasets.Dataset`, or from any rows that are dicts.

    Args:
        text, label: the columns; None finds them by name. Numbered labels get the data set's names of classes.
        options: arguments of `text_source`.

    Raises:
        UpstairsError: no rows, unknown columns, or rows without a text or a label.
    """
    if isinstance(dataset, Mapping):
        raise UpstairsError(f"the data set has the parts {', '.join(map(str, dataset))}: give one, as dataset['train']")
    rows = list(dataset)
    if not rows or not all(isinstance(row, Mapping) for row in rows):
        raise UpstairsError("the data set has no rows that are dicts: give one with columns of texts and labels")
    where = str((getattr(dataset, "info", None) and dataset.info.dataset_name) or "the data set")
    table = DataTable(where, list(rows[0]), rows, {}, [], [])
    text = table.find(text) if text else _find(table, "text")
    label = table.find(label) if label else _find(table, "label")
    feature = getattr(dataset, "features", {}).get(label)
    values = [row[label] for row in rows]
    if hasattr(feature, "int2str"):  # -1 marks examples without a label
        values = [None if value in (None, -1) else feature.int2str(value) for value in values]
    plain = plain_labels(values)
    names = [f"row {i}" for i in range(1, len(rows) + 1)]
    bad = [f"{row} has no {label}" if own is None else "" for row, own in zip(names, plain, strict=True)]
    texts = [_joined(row, [text]) for row in rows]
    found = _labelled(_Raw(texts, values, [""] * len(rows), names, bad, [], [""] * len(rows)), where, skip=None)
    options["summary"] = "; ".join([f"{len(found.texts)} texts of {len(set(found.labels))} classes", *found.notes])
    return text_source(found.texts, found.labels, **options)


def _joined(row: dict[str, Any], names: Sequence[str]) -> str:
    """Returns the text of these columns, one on each line; what is no text or number counts as empty."""
    values = (row.get(name) for name in names)
    return "\n".join(str(value) for value in values if isinstance(value, str | int | float) and value == value)


def _find(table: DataTable, what: str) -> str:
    for wanted in NAMES[what]:
        for name in table.columns:
            if name_key(name) == wanted:
                return name
    guess = _guess(table)
    headless = ", numbers where the first row is an example" if guess[0].isdecimal() else ""
    raise UpstairsError(
        f"{table.name} has no column that is known to hold the {what}: it has {table.named}; name them as `columns` "
        f"{guess}{headless}"
    )


def _guess(table: DataTable) -> str:
    """Returns the two columns that are likely to be text and label, as `columns` takes them."""
    kinds = {name: {_joined(row, [name]) for row in table.rows} for name in reversed(table.columns)}
    kinds = {name: own for name, own in kinds.items() if own - {""} and name_key(name) not in NAMES["split"]}
    if len(kinds) < 2:
        return "TEXT,LABEL"
    label = min(kinds, key=lambda name: (len(kinds[name]) < 2, len(kinds[name]), sum(map(len, kinds[name]))))
    text = max(kinds.keys() - {label}, key=lambda name: (sum(map(len, kinds[name])), name))
    if table.header and any(row.get(label) == table.header[table.columns.index(label)] for row in table.rows):
        return f"{table.columns.index(text) + 1},{table.columns.index(label) + 1}"  # the first row is an example
    return join_names([text, label])


def _columns(table: DataTable, columns: str | None, *, labels: bool = True) -> tuple[DataTable, list[str], str]:
    """Returns a table with its columns of texts and that of labels, which need not be there without `labels`."""
    if columns is None:
        return table, [_find(table, "text")], _find(table, "label") if labels else ""
    asked = split_names(columns)
    if not labels and len(asked) == 1:
        asked = [*asked, ""]
    if len(asked) != 2 or not all(asked[: 1 + labels]):
        raise UpstairsError(
            f"`columns` is '{columns}': give two, the text's and the label's, such as text,label, or title+body,label "
            "for texts of two columns"
        )
    whole = name_key(asked[0]) in map(name_key, table.columns)
    parts = [asked[0]] if whole else asked[0].split("+")
    numbered = not whole and all(part.strip().isdecimal() for part in (*parts, *asked[1:]) if part)
    if numbered and table.header and not _names_columns(table, parts, asked[1]):
        table = table.without_header()
    return table, [table.find(part) for part in parts], table.find(asked[1]) if labels else ""


def _names_columns(table: DataTable, parts: Sequence[str], label: str) -> bool:
    """Returns whether the first line has usual names where columns were given by number."""
    kinds = [*(("text", part) for part in parts), *([("label", label)] if label else [])]
    return all(name_key(table.find(number)) in NAMES[kind] for kind, number in kinds)


def _clinc(path: Path) -> Texts:
    """Reads CLINC150 (Larson et al. 2019): its 150 intents, grouped by domain, without out-of-scope texts."""
    value, file = read_json(path / CLINC), path / "domains.json"
    lists = [own for part in ("train", "val", "test") if isinstance(own := value.get(part), list)]
    rows = json_records(path / CLINC, [pair for own in lists for pair in own])
    owner = {intent: domain for domain, own in (read_json(file) if file.is_file() else {}).items() for intent in own}
    labels = [str(row["label"]) for row in rows]
    return Texts([str(row["text"]) for row in rows], labels, [owner.get(label, "") for label in labels], [])
