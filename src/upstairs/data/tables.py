"""Reads tables as people export them: CSV, TSV, JSON, JSON lines, Excel or Parquet, in the encoding that they have."""

import codecs
import csv
import gzip
import io
import json
import re
import shlex
import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from upstairs.data.files import content_of
from upstairs.data.layouts.classes import part_of
from upstairs.errors import UpstairsError, reason

TABLES = (".csv", ".tsv", ".tab", ".txt", ".json", ".jsonl", ".ndjson", ".parquet", ".xlsx")
OTHERS = (".xls", ".xlsb", ".ods", ".numbers", ".feather")  # tables that are refused
NAMES = {  # usual names of columns, the likeliest first
    "text": ("text", "sentence", "utterance", "query", "question", "message", "content", "review", "document", "title"),
    "label": ("label", "intent", "class", "category", "target", "topic", "language", "sentiment"),
    "group": ("group", "domain"),
    "split": ("split", "official_split", "subset", "set", "partition"),
}
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
BOMS = {
    codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
CODES = (  # encodings that are detected
    "cp1252", "gb18030", "big5", "cp932", "euc-jp", "cp949", "cp1250", "cp1251", "koi8-r", "cp1253", "cp1254", "cp1255",
    "cp1256", "cp1257", "tis-620", "mac-roman", "cp850",
)  # fmt: skip
OTHER_SCRIPTS = ("cp1251", "koi8-r", "cp1253", "cp1255", "cp1256", "tis-620")  # of one byte a letter
MISSING = frozenset({"", "nan", "NaN", "null", "NULL", "None", "<NA>", "#N/A", "N/A", "n/a"})
LARGEST = 2**29  # the most bytes of an unpacked table
HEAD = 2**16  # bytes that tell what a table holds
NAMED = 20  # columns that a message names
SHOWN = 5  # rows that an error names


class DataTable(NamedTuple):
    """A table that was read; rows are counted from 1, below the header.

    Attributes:
        name: its path, for errors.
        columns: the names of its columns.
        rows: the values by column; a row that cannot be read is empty.
        bad: what is wrong with each row that cannot be read.
        notes: what is unusual: the encoding, the delimiter.
        header: the first line as it stands; empty where there is none.
        parts: train, val, test or '' for each row, where the file has such a split; else empty.
    """

    name: str
    columns: list[str]
    rows: list[dict[str, Any]]
    bad: dict[int, str]
    notes: list[str]
    header: list[str]
    parts: Sequence[str] = ()

    def find(self, asked: str) -> str:
        """Returns the column of this name (spaces around it and capitals do not count) or, from 1, of this number."""
        same = [name for name in self.columns if name == asked.strip()]
        same = same or [name for name in self.columns if name_key(name) == name_key(asked)]
        if not same and asked.strip().isdecimal():
            same = self.columns[int(asked) - 1 : int(asked)]
        if len(same) != 1:
            several = f"{len(same)} columns" if same else "no column"
            raise UpstairsError(f"{self.name} has {several} {asked.strip()!r}: it has {self.named}")
        return same[0]

    @property
    def named(self) -> str:
        """The names of the columns, in quotation marks."""
        more = f" and {len(self.columns) - NAMED} more" if len(self.columns) > NAMED else ""
        return ", ".join(f"{name:.60}" if len(name) > 60 else repr(name) for name in self.columns[:NAMED]) + more

    def without_header(self) -> "DataTable":
        """Returns the table with its first line as a row; columns are then named by their numbers."""
        fields = [self.header, *([row.get(name) for name in self.columns] for row in self.rows)]
        names = [str(place) for place, _ in enumerate(self.columns, 1)]
        rows = [dict(zip(names, row, strict=True)) for row in fields]
        bad = {row + 1: what for row, what in self.bad.items()}
        return DataTable(self.name, names, rows, bad, [*self.notes, "no header row"], [])


def is_table(path: Path) -> bool:
    """Returns whether this is a file whose extension is that of a table; some kinds of table are refused later."""
    return table_kind(path) in (*TABLES, *OTHERS) and path.is_file()


def table_kind(path: Path) -> str:
    """Returns a table's extension, without `.gz`."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def table_stem(path: Path) -> str:
    """Returns a table's name without its extension and `.gz`."""
    return Path(path.name.lower().removesuffix(".gz")).stem


def name_key(name: Any) -> str:
    """Returns the form of a name in which it is compared: composed, in lower case, without spaces around it."""
    return unicodedata.normalize("NFC", str(name)).strip().casefold()


def split_names(text: str) -> list[str]:
    """Splits names at commas; a name with a comma stands in double quotation marks."""
    return [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]


def join_names(names: Iterable[str]) -> str:
    """Returns names as `split_names` reads them, quoted for a shell."""
    return shlex.quote(",".join(f'"{name}"' if "," in name else name for name in names))


def read_table(path: Path, *, encoding: str | None = None, head: bool = False) -> DataTable:
    """Reads a table, whose kind is that of its first bytes or of its extension; with `head` its first rows alone.

    Raises:
        UpstairsError: a file that is no table or is damaged, or a package that is not installed.
    """
    lines = path.suffix.lower() in (".csv", ".tsv", ".tab", ".txt", ".jsonl", ".ndjson")
    try:
        with path.open("rb") as file:
            data = file.read(HEAD) if head and lines else file.read()
        if head and lines and len(data) == HEAD:
            data = data.rpartition(b"\n")[0]
        if data[:2] == b"\x1f\x8b":
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UpstairsError(
            f"{path} cannot be read ({reason(error)}): check the path, or save the file again"
        ) from error
    kind = table_kind(path)
    if len(data) > LARGEST or kind in OTHERS or data[:4] == b"\xd0\xcf\x11\xe0":
        problem = "is of a kind that is not read" if len(data) <= LARGEST else f"has more than {LARGEST} bytes"
        raise UpstairsError(f"{path} {problem}: save it as CSV, in several files if it is large")
    if data[:4] == b"PAR1" or kind == ".parquet":
        return _of_records(path, _parquet(path, data), [])
    if data[:2] == b"PK" or kind == ".xlsx":
        return _of_fields(path, *_excel(path, data))
    if said := content_of(data):
        raise UpstairsError(f"{path} is no table ({said}): give a table, such as CSV")
    text, code = decode(data, str(path), encoding)
    notes = [] if code == "utf-8" else [code]
    if kind in (".json", ".jsonl", ".ndjson"):
        records, parts = _json_records(path, text, lines=kind != ".json")
        return _of_records(path, records, notes)._replace(parts=parts)
    fields, delimiter = _split(path, text, "," if kind == ".csv" else "\t")
    told = delimiter != ("," if kind == ".csv" else "\t")
    return _of_fields(path, fields, notes + [f"separated by {DELIMITERS.get(delimiter, delimiter)}"] * told)


def decode(data: bytes, name: str, encoding: str | None = None) -> tuple[str, str]:
    """Returns a text and its encoding: the given one, UTF-8, that of a byte-order mark, or one that is detected.

    An empty encoding is detected too, and errors then name no option.

    Raises:
        UpstairsError: an encoding that is not known or does not fit, or bytes that are no text.
    """
    head, code = data[:4096], encoding or next((code for mark, code in BOMS.items() if data.startswith(mark)), "utf-8")
    if code == "utf-8" and not encoding and 4 * head.count(0) > len(head):  # UTF-16 without a mark
        code = "utf-16-le" if 2 * head[1::2].count(0) > head.count(0) else "utf-16-be"
    try:
        text = data.decode(code)
    except LookupError as error:
        raise UpstairsError(f"`encoding` is '{code}', which is none: give one such as cp1252 or gb18030") from error
    except UnicodeError as error:
        if encoding or code != "utf-8":
            raise UpstairsError(
                f"{name} is not {code} ({reason(error)}): give another `encoding`, or leave it out"
            ) from error
        text, code = _detected(data, name, "" if encoding == "" else "give its `encoding`, or ")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UpstairsError(f"{name} has a NUL in line {line}, as no text has: save it again, as CSV in UTF-8")
    return text.removeprefix("\ufeff"), code


def _detected(data: bytes, name: str, way: str) -> tuple[str, str]:
    """Returns a text that is not UTF-8, and the encoding that fits it best; `way` is what a user can do else."""
    lenient = data.decode("utf-8", "replace")
    wrong, line = lenient.count("\ufffd"), lenient.count("\n", 0, lenient.index("\ufffd")) + 1
    if sum(sign > "\x7f" for sign in lenient) > 2 * wrong:
        raise UpstairsError(f"{name} is UTF-8 but for {wrong} bytes, the first in line {line}: fix or remove them")
    from chardet import detect

    foreign = b"\n".join(part for part in data.split(b"\n") if not part.isascii())[: 2**17]
    words = b"".join(re.findall(rb"[a-zA-Z]*[\x80-\xff][a-zA-Z\x80-\xff]*", foreign))
    latin = 2 * sum(byte > 127 for byte in words) < len(words)  # these are the accents of Latin words
    codes = tuple(code for code in CODES if not (latin and code in OTHER_SCRIPTS))
    found = detect(foreign, include_encodings=codes, prefer_superset=True, compat_names=False)
    code = found["encoding"] or "cp1252"
    if found["confidence"] < 0.1:  # too few letters to tell
        code = "cp1252" if latin else "ascii"
    try:
        return data.decode(code), code
    except UnicodeDecodeError as error:
        raise UpstairsError(f"{name} is not UTF-8 in line {line}: {way}save it as UTF-8") from error


def _split(path: Path, text: str, usual: str) -> tuple[list[list[str]], str]:
    """Returns the fields of each line that is not blank, and the delimiter that divides most lines alike."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    told = re.match(r'"?sep=(.)"?\n', text)  # Excel's first line
    if told:
        text = text[told.end() :]
    found: list[tuple[float, list[list[str]], str]] = []
    for delimiter in [told[1]] if told else dict.fromkeys([usual, *DELIMITERS]):
        found.append((*_fields(text, delimiter), delimiter))
        if found[-1][0] > 0.9:
            break
    even, fields, delimiter = max(found, key=lambda one: one[0])
    if even > 1:
        row = next(i for i, row in enumerate(fields) if any("\n" in field for field in row))
        raise UpstairsError(
            f"{path}: row {row} has several lines between quotation marks, each of which could be a row: double the "
            "marks that belong to a text, or save the table as JSON lines"
        )
    return fields, delimiter


def _fields(text: str, delimiter: str) -> tuple[float, list[list[str]]]:
    """Returns the share of lines with as many fields as the first (0 if that has one, 2 if in doubt), and the fields.

    A quotation mark may be a sign of a text instead of a text's end. Where marks do not come out even, every line is a
    row; it may be, where a field has several lines and each of them divides as the first line does.
    """
    limit = csv.field_size_limit(2**31 - 1)  # of the whole process, so it is put back
    try:
        whole = _read(text, delimiter)
        if whole is None and '\\"' in text:  # marks that are escaped by a backslash
            whole = _read(text.replace('\\"', '""'), delimiter)
        width = len(whole[0]) if whole else 0
        if whole and (width == 1 or (_even(whole) == 1 and not any("\n" in field for row in whole for field in row))):
            return float(width > 1), whole
        lines = [row for line in text.split("\n") for row in _read(line, delimiter, width) or []]
    finally:
        csv.field_size_limit(limit)
    if not lines or len(lines[0]) == 1:
        return 0.0, whole or lines
    if whole and delimiter != "\t" and _even(whole) == _even(lines) == 1:
        return 2.0, whole
    return (_even(lines), lines) if not whole or _even(lines) >= _even(whole) else (_even(whole), whole)


def _read(text: str, delimiter: str, width: int | None = None) -> list[list[str]] | None:
    """Returns rows without blank ones; None where quotation marks are not even.

    With `width` the text is one line, whose marks are signs where they are not even or hide that it has `width` fields.
    """
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter, strict=True) if any(row)]
        if not (width and rows and len(rows[0]) != width):
            return rows
    except csv.Error:
        if width is None:
            return None
    return [text.split(delimiter)]


def _even(rows: list[list[str]]) -> float:
    return sum(len(row) == len(rows[0]) for row in rows) / len(rows)


def _of_fields(path: Path, fields: Sequence[Sequence[Any]], notes: list[str]) -> DataTable:
    """Returns the table whose first row names the columns."""
    header = [str("" if name is None else name) for name in fields[0]] if fields else []
    names: list[str] = []
    for place, name in enumerate(header, 1):
        own = unicodedata.normalize("NFC", name).strip() or f"#{place}"
        names.append(own if own not in names else f"{own}.{place}")
    rows, bad = [dict(zip(names, row, strict=False)) for row in fields[1:]], {}
    for number, row in enumerate(fields[1:], 1):
        if any(value not in (None, "") for value in row[len(names) :]):
            bad[number] = f"row {number} has {len(row)} fields and the header {len(names)}"
        elif list(row) == header:
            bad[number] = f"row {number} repeats the header"
    rows = [{} if number in bad else row for number, row in enumerate(rows, 1)]
    return DataTable(str(path), names, rows, bad, notes, header)


def _of_records(path: Path, records: Sequence[Any], notes: list[str]) -> DataTable:
    """Returns the table of records by column; a record that is a text says why it cannot be read."""
    bad = {number: record for number, record in enumerate(records, 1) if isinstance(record, str)}
    rows = [
        {} if isinstance(record, str) else {unicodedata.normalize("NFC", str(n)).strip(): v for n, v in record.items()}
        for record in records
    ]
    return DataTable(str(path), list(dict.fromkeys(name for row in rows for name in row)), rows, bad, notes, [])


def _json_records(path: Path, text: str, *, lines: bool) -> tuple[list[Any], list[str]]:
    """Returns the records of JSON lines, or of one JSON value (see `json_records`), and the part of each."""
    many = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    values = [_json(line) for _, line in many[:2]]
    if not (lines and values and isinstance(values[0], dict)):
        value = _json(text)
        if not isinstance(value, ValueError):
            split = {key: json_records(path, own) for key, own in _split_in(value).items()}
            records = [one for own in split.values() for one in own] if split else json_records(path, value)
            return records, [part_of(key)[0] for key, own in split.items() for _ in own]
        if not lines and not all(isinstance(line, dict) for line in values):
            raise UpstairsError(f"{path} is no whole JSON file ({value}): replace it")
    if values and not any(isinstance(line, dict) for line in values):
        raise UpstairsError(f"{path} has no JSON object in its first lines: write one object on each line")
    found = ((number, _json(line)) for number, line in many)
    return [line if isinstance(line, dict) else f"line {number} is no JSON object" for number, line in found], []


def _split_in(value: Any) -> dict[str, Any]:
    """Returns the rows of an object by its keys, if these are parts of a split, such as train and test."""
    found = {}
    for key, own in value.items() if isinstance(value, dict) else ():
        columns = isinstance(own, dict) and bool(part_of(key)[0]) and all(isinstance(v, list) for v in own.values())
        if columns or (isinstance(own, list) and all(isinstance(row, list | dict) for row in own)):
            found[key] = own
    named = {part_of(key)[0] for key in found}
    return found if "train" in named and len(named - {""}) > 1 else {}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return ValueError(error)


def json_records(path: Path, value: Any) -> list[dict[str, Any]]:
    """Returns the records of a list of objects or of [text, label] pairs, of an object of such lists, or of columns.

    An object of lists with other names than usual columns has the texts of each label.
    """
    if isinstance(value, dict):
        own = list(value.values())
        lists = [one for one in own if isinstance(one, list)]
        inside = dict.fromkeys(key for one in own if isinstance(one, dict) for key in one)
        equal = lists == own and len({len(one) for one in lists}) == 1
        if isinstance(head := value.get("columns"), list) and lists and all(isinstance(one, list) for one in lists[-1]):
            value = [dict(zip(map(str, head), row, strict=False)) for row in lists[-1]]  # pandas' "split"
        elif own and all(isinstance(one, dict) for one in own) and _usual({*inside}) > _usual({*value}):  # "index"
            value = own
        elif own and all(isinstance(one, dict) for one in own):  # columns, as pandas writes them
            value = [{name: row.get(key) for name, row in value.items()} for key in inside]
        elif lists and all(isinstance(item, list | dict) for one in lists for item in one):
            value = [item for one in lists for item in one]
        elif equal and (_usual({*value}) or any(2 * len({*map(str, one)}) <= len(one) for one in lists)):  # columns
            value = [dict(zip(value, row, strict=True)) for row in zip(*lists, strict=True)]
        elif lists == own and not _usual({*value}):  # {label: texts}
            value = [{"text": text, "label": label} for label, texts in value.items() for text in texts]
    if isinstance(value, list) and all(isinstance(one, list) and len(one) == 2 for one in value):
        value = [dict(zip(("text", "label"), pair, strict=True)) for pair in value]
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        return value
    raise UpstairsError(
        f"{path} is no list of [text, label] pairs, and none of objects with the same names: save it so"
    )


def _usual(names: set[Any]) -> int:
    """Returns how many of these are usual names of columns of texts or labels."""
    return len({*map(name_key, names)} & {*NAMES["text"], *NAMES["label"]})


def _parquet(path: Path, data: bytes) -> list[dict[str, Any]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UpstairsError(f"{path} needs pyarrow: pip install 'upstairs[tables]', or save it as CSV") from error
    try:
        return parquet.read_table(io.BytesIO(data)).to_pylist()
    except Exception as error:
        raise UpstairsError(f"{path} is no whole Parquet file ({reason(error)}): replace it") from error


def _excel(path: Path, data: bytes) -> tuple[list[tuple[Any, ...]], list[str]]:
    """Returns the rows of the first sheet that are not blank, and a note if there are other sheets."""
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise UpstairsError(f"{path} needs openpyxl: pip install 'upstairs[tables]', or save it as CSV") from error
    try:
        sheets = load_workbook(io.BytesIO(data), read_only=True, data_only=True).worksheets
        notes = [f"sheet {sheets[0].title!r}, the first of {len(sheets)}"] if len(sheets) > 1 else []
        rows = sheets[0].iter_rows(values_only=True)
        return [row for row in rows if any(value not in (None, "") for value in row)], notes
    except Exception as error:
        raise UpstairsError(
            f"{path} is no Excel workbook that can be read ({reason(error)}): save it as CSV"
        ) from error


def refuse_pattern(name: str, pattern: str | None) -> None:
    """Raises UpstairsError if a pattern of files' names is given for data whose labels are in a file."""
    if pattern:
        raise UpstairsError(
            f"`pattern` is '{pattern}', for labels in names of files, and {name} holds the labels itself: leave it out"
        )


def check_rows(name: str, bad: dict[int, str], *, skip: bool | None) -> str:
    """Returns a note on the rows that are left out; without `skip` bad rows raise an error that names them.

    Args:
        bad: what is wrong, by row.
        skip: whether to leave them out; None: there is no such option.
    """
    shown = "; ".join(what for _, what in sorted(bad.items())[:SHOWN])
    shown += f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    if bad and not skip:
        way = "fix them" if skip is None else "fix them, or leave them out by `skip_bad`"
        raise UpstairsError(f"{name}: {shown}: {way}")
    return f"{len(bad)} row{'s' * (len(bad) > 1)} left out ({shown})" if bad else ""


def plain_labels(values: Sequence[Any], *, marks: bool = True) -> list[str | None]:
    """Returns labels as texts; None where one is missing (NaN, null, an empty text) or no plain value (a list).

    1.0 is the same label as 1 where both are there. With `marks` a text such as nan or NULL is missing too.
    """
    found = [_plain_label(value, marks) for value in values]
    there = set(found)
    whole = {name: name[:-2] for name in there if name and re.fullmatch(r"-?\d+\.0", name) and name[:-2] in there}
    return [whole.get(name, name) if name else name for name in found]


def _plain_label(value: Any, marks: bool) -> str | None:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, list | tuple | dict | set | bytes):
        return None
    text = unicodedata.normalize("NFC", str(value).lower() if isinstance(value, bool) else str(value)).strip()
    return None if text in MISSING and (marks or not text or not isinstance(value, str)) else text
