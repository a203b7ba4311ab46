"""Labels from tables beside or above the files: a column of paths and one of labels."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from upstairs.data.files import LABEL_TABLES, SOUNDS, Tree, plain
from upstairs.data.layouts.classes import FileClass, Layout, own_parts, part_of
from upstairs.data.tables import NAMES, DataTable, check_rows, plain_labels, read_table, split_names
from upstairs.errors import UpstairsError

COLUMNS = {  # usual names of columns, the likeliest first
    "path": ("file", "path", "filename", "file_name", "filepath", "file_path", "image", "image_path", "image_name",
             "audio"),
    "label": ("label", "labels", "word", "class", "category", "class_name", "classname", "label_name", "species",
              "breed", "genre", "emotion", "command", "name", "intent", "target", "class_id", "label_id"),
    "group": ("group", "superclass", "domain", "family"),
    "speaker": ("speaker", "speaker_id", "voice", "client_id", "person", "subject"),
    "split": NAMES["split"],
}  # fmt: skip
FIRST = ("index", "labels", "metadata")  # names of tables that are looked at first
SAMPLE = 200  # rows that decide which column holds paths
MOST = 24  # tables that are looked at


def by_tables(tree: Tree, columns: str | None) -> Layout | None:
    """Returns the classes of a tree by its tables of labels; None if it has none that is used.

    A table is used if it was given as the data, if `columns` names its columns, if it is called index, if several are
    called after train and test, or if the folders of the files that it names hold several of its labels.

    Raises:
        UpstairsError: a given table without such columns, or no table with the columns that were asked for.
    """
    names = [tree.table] if tree.table else [
        name for name in tree.others if name.lower().endswith(LABEL_TABLES) and name.count("/") <= 2
    ]  # fmt: skip
    names.sort(key=lambda name: (name.count("/"), [not Path(name).stem.lower().startswith(f) for f in FIRST], name))
    tables: list[_Table] = []
    problems: dict[str, UpstairsError] = {}
    lookups = _lookups(tree)
    for name in names[:MOST]:
        index = Path(name).stem.lower() == "index" and tree.files is SOUNDS
        must = bool(tree.table or columns or index)
        try:
            table = _Table(tree, name, lookups, columns, must)
        except UpstairsError as error:
            problems[name] = error
            if must and not columns:
                raise
            continue
        tables.append(table)
        if must:
            return _layout(tree, [table])
    if columns:
        raise next(
            iter(problems.values()), UpstairsError(f"{tree.name} has no table for `columns` '{columns}': leave it out")
        )
    by_part = {part: [t for t in tables if t.part == part] for part in ("train", "val", "test")}
    if by_part["train"] and by_part["test"]:
        for name, error in problems.items():
            if part_of(Path(name).stem)[0]:
                raise error
        return _layout(tree, [table for part in by_part.values() for table in part])
    best = max(tables, key=lambda table: len(table.files), default=None)
    return _layout(tree, [best]) if best and best.divides_folders() else None


class _Table:
    """A table of labels, whose rows are matched with the files of a tree."""

    def __init__(
        self, tree: Tree, name: str, lookups: Sequence[Mapping[str, str]], columns: str | None, must: bool
    ) -> None:
        self.name, self.where = name, f"{tree.name}/{name}"
        table = _table(tree, name)
        self.rows = table.rows
        if not self.rows:
            raise UpstairsError(f"{self.where} has no rows: it needs the columns file and label")
        head = [column for column in self.rows[0] if column]
        known = {plain(str(column)).casefold(): column for column in head}
        has = ", ".join(map(str, head))
        asked = [table.find(part) for part in split_names(columns)] if columns else []
        if columns and len(asked) != 2:
            raise UpstairsError(f"`columns` is '{columns}' and {self.where} has {has}: name the path's and the label's")
        folder = name.rpartition("/")[0]
        fits = {c: sum(map(bool, _find(self.rows[:SAMPLE], c, folder, lookups))) for c in head}
        path = asked[0] if asked else max(fits, key=lambda column: fits[column])
        named = next((known[n] for n in COLUMNS["path"] if n in known), None)
        if not asked and 2 * fits[path] < min(SAMPLE, len(self.rows)):
            if not must or named is None:
                raise UpstairsError(f"{self.where} has the columns {has}: it needs file and label (or word)")
            path = named
        usual = {what: next((known[n] for n in names if n in known and known[n] != path), None)
                 for what, names in COLUMNS.items()}  # fmt: skip
        others = [column for column in head if column != path]
        label = asked[1] if asked else usual["label"] or (others[0] if len(others) == 1 else None)
        if label is None:
            raise UpstairsError(
                f"{self.where} has the columns {has}: it needs file and label (or word); name them as `columns` "
                f"{path},LABEL"
            )
        self.files, self.labels, self.bad = [], [], {}
        self.kept: list[dict[str, Any]] = []
        labels = plain_labels([row.get(label) for row in self.rows])
        found = _find(self.rows, path, folder, lookups)
        for number, (row, file, text) in enumerate(zip(self.rows, found, labels, strict=True), 1):
            why = ""
            if not file:
                several = plain(str(row.get(path))).casefold() in lookups[0]
                which = "as several files are called: write their folders too" if several else (
                    f"which is not in {tree.name}: add it, or remove the row")  # fmt: skip
                why = f"names {row.get(path)}, {which}"
            elif text is None:
                why = f"has no {label}: fill it in, or remove the row"
            if why or text is None:
                self.bad[f"{name} row {number}"] = f"{self.where}: row {number} {why}"
            else:
                self.files.append(file)
                self.labels.append(text)
                self.kept.append(row)
        self.columns = usual
        stem, above = Path(name).stem, name.rpartition("/")[0].rpartition("/")[2]
        self.part = part_of(stem)[0] or part_of(above)[0]

    def value(self, row: Mapping[str, Any], what: str) -> str:
        """Returns what the row says of its group, speaker or split; '' if nothing."""
        column = self.columns[what]
        return "" if column is None or row.get(column) is None else str(row[column]).strip()

    def divides_folders(self) -> bool:
        """Returns whether most folders hold files of several labels, so that folders are no classes."""
        own: dict[str, set[str]] = {}
        for file, label in zip(self.files, self.labels, strict=True):
            own.setdefault(file.rpartition("/")[0], set()).add(label)
        return 2 * sum(len(labels) > 1 for labels in own.values()) >= len(own) > 0


def _table(tree: Tree, name: str) -> DataTable:
    """Returns a table, in which the first line is a row if it names a file."""
    item = tree.item(name)
    with tempfile.TemporaryDirectory() as folder:
        path = item if isinstance(item, Path) else Path(folder) / Path(name).name
        if isinstance(item, bytes):  # a table inside a zip
            path.write_bytes(item)
        table = read_table(path)
    check_rows(table.name, table.bad, skip=None)
    return table.without_header() if any(one in tree.files for one in table.header) else table


def _lookups(tree: Tree) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the files by the ends of their paths, with and without their extension; '' where several share one."""
    whole: dict[str, str] = {}
    for name in tree.stamps:
        pieces = plain(name).casefold().split("/")
        for i in range(len(pieces)):
            end = "/".join(pieces[i:])
            whole[end] = name if i == 0 or end not in whole else ""
    bare: dict[str, str] = {}
    for end, name in whole.items():
        if stem := end.rpartition(".")[0]:
            bare[stem] = name if stem not in bare else ""
    return whole, bare


def _find(
    rows: Sequence[Mapping[str, Any]], column: str, folder: str, lookups: Sequence[Mapping[str, str]]
) -> list[str]:
    """Returns the file that each row names, or '': all by the same number of folders that are cut off in front."""
    values = [plain(str(row.get(column) or "")).casefold().removeprefix("./").lstrip("/") for row in rows]
    for lookup in lookups:
        for cut in range(8):
            ends = [value.split("/", cut)[-1] for value in values]
            near = [lookup.get(f"{plain(folder).casefold()}/{end}", "") for end in ends] if folder else [""] * len(ends)
            if any(found := [one or lookup.get(end, "") for one, end in zip(near, ends, strict=True)]):
                return found
    return [""] * len(rows)


def _layout(tree: Tree, tables: Sequence[_Table]) -> Layout:
    """Returns the classes that tables of labels give."""
    label_of: dict[str, str] = {}
    bad = {row: why for table in tables for row, why in table.bad.items()}
    classes: dict[str, dict[str, None]] = {}
    groups, speakers, official, owners = {}, {}, {}, []
    several = len(tables) > 1
    for table in tables:
        for file, label, row in zip(table.files, table.labels, table.kept, strict=True):
            if label_of.setdefault(file, label) != label:
                bad[file] = f"{table.where} gives {file} the labels '{label_of[file]}' and '{label}': keep one"
                continue
            classes.setdefault(label, {})[file] = None
            groups.setdefault(label, table.value(row, "group"))
            part = table.part if several else part_of(table.value(row, "split"))[0]
            owners += [(label, part)] if part else []
            if speaker := table.value(row, "speaker"):
                speakers[file] = speaker
                official |= {speaker: part} if part else {}
    order = classes if several else sorted(classes)
    parts, note = ({}, "") if official else own_parts(owners)
    left = len(tree.stamps) - len(label_of)
    names = ", ".join(table.name for table in tables)
    notes = [f"labels from {names}", note, f"{left} {tree.files.what} that it does not name left out" if left else ""]
    made = [FileClass(label, groups[label], tuple(classes[label])) for label in order]
    complete = speakers if len(speakers) == len(label_of) else {}
    return Layout(
        made, parts, complete, official if complete else {}, tuple(filter(None, notes)), bad,
        used=tuple(table.name for table in tables),
    )  # fmt: skip
