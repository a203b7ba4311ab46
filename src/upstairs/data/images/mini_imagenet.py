"""Pictures in one folder, listed by class in train.csv, val.csv and test.csv: the usual layout of mini-ImageNet."""

from pathlib import Path

from upstairs.data.cache import Progress
from upstairs.data.files import FileClass, open_tree
from upstairs.data.images.folders import guess_format, source_of
from upstairs.data.splits import Splits
from upstairs.data.tables import read_rows
from upstairs.errors import UpstairsError

LISTS = ("train.csv", "val.csv", "test.csv")


def is_listed(path: Path) -> bool:
    """Returns whether the folder holds the three lists and the pictures."""
    return all((path / name).is_file() for name in LISTS) and _pictures(path).exists()


def listed_splits(
    path: str | Path,
    *,
    size: int | None = None,
    channels: int | None = None,
    ink: bool | None = None,
    progress: Progress | None = None,
) -> Splits:
    """Returns the splits of a folder with `images/` (or images.zip) and three tables of the columns filename and label.

    Ravi and Larochelle (2017) published mini-ImageNet's 64, 16 and 20 classes in this form.

    Raises:
        UpstairsError: a table without those columns, a missing picture, or a class in two lists.
    """
    path = Path(path)
    classes, owner = [], {}
    with open_tree(_pictures(path)) as tree:
        for part, name in zip(Splits._fields, LISTS, strict=True):
            for label, names in _read(path / name).items():
                if missing := [picture for picture in names if picture not in tree.stamps]:
                    raise UpstairsError(
                        f"{path / name} names {missing[0]}, which is not in {tree.name}: add it, or remove the row"
                    )
                if label in owner:
                    raise UpstairsError(
                        f"{path}: class '{label}' is in {owner[label]}.csv and in {name}: put each class in one"
                    )
                owner[label] = part
                classes.append(FileClass(label, "", tuple(names)))
        format = guess_format(tree, classes, size=size, channels=channels, ink=ink)
        source = source_of(tree, classes, format, name=path.resolve().name, progress=progress)
    parts = ([i for i, label in enumerate(source.labels) if owner[label] == part] for part in Splits._fields)
    return Splits(*map(source.subset, parts))


def _pictures(path: Path) -> Path:
    return path / "images" if (path / "images").is_dir() else path / "images.zip"


def _read(table: Path) -> dict[str, list[str]]:
    """Returns the pictures of each class, in the order of the table."""
    found: dict[str, list[str]] = {}
    for number, row in enumerate(read_rows(table), 1):
        if not row.get("filename") or not row.get("label"):
            raise UpstairsError(f"{table}: row {number} has no filename and label: it needs columns of these names")
        found.setdefault(row["label"], []).append(row["filename"])
    if not found:
        raise UpstairsError(f"{table} has no rows: it needs the columns filename and label")
    return found
