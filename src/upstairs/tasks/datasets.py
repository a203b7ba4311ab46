"""Data by name or by path: the public sets in the layouts they are handed round in, and a user's own folders."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from upstairs.errors import UpstairsError
from upstairs.tasks.cache import Progress, memory_mapped
from upstairs.tasks.folders import folder_source, folder_splits, source_of
from upstairs.tasks.images import ImageFormat, read_picture
from upstairs.tasks.listed import is_listed, listed_splits
from upstairs.tasks.sources import Source, Splits, split_by_class, split_by_list
from upstairs.tasks.trees import Tree, arrange, open_tree

OMNIGLOT = ("images_background.zip", "images_evaluation.zip")
TURNS = ("rot000", "rot090", "rot180", "rot270")
CIFAR = ("cifar-fs", "fc100")
SHEET = (30, 20, 32)  # a sheet of CIFAR-100: rows and columns of tiles, pixels along a tile
BY_CLASS = ("ratio", "group")
# kind of data -> the splits it can be given, the usual one first
SPLITS = {"omniglot": ("vinyals", *BY_CLASS), "cifar": (*CIFAR, *BY_CLASS), "folder": BY_CLASS}


def open_data(
    data: str | Path,
    *,
    split: str | None = None,
    seed: int = 0,
    ratio: tuple[float, float, float] = (0.64, 0.16, 0.2),
    size: int | None = None,
    channels: int | None = None,
    ink: bool | None = None,
    progress: Progress | None = None,
) -> Splits:
    """Data split into classes to meta-train on, to choose a model by and to judge it by.

    Args:
        data: 'glyphs' (letters drawn from installed fonts); the folder with the two zips of Omniglot; the folder with
            the sheets of CIFAR-100; or any folder or zip of pictures, as class/file, group/class/file, or either of
            these below train, val and test; or images/ beside train.csv, val.csv and test.csv.
        split: 'vinyals' for Omniglot; 'cifar-fs' or 'fc100' for CIFAR-100; and for all but glyphs and folders of
            train, val and test: 'ratio' (classes at random) or 'group' (whole groups at random). None is the first
            of these; for a folder or zip it is 'group' where there are three groups or more, and else 'ratio'.
        seed, ratio: what `split_by_ratio` and `split_by_group` take.
        size, channels, ink: see `ImageFormat`; None is what suits the data.
        progress: called with the pictures done and the pictures in all, the first time that they are decoded.

    Raises:
        UpstairsError: no such path or split, pictures that cannot be used, too few classes to split.
    """
    kind = _kind(data, split)
    asked: dict[str, Any] = {"size": size, "channels": channels, "ink": ink}
    if kind == "glyphs":
        return _refuse_other(_glyphs(size, progress), asked)
    if kind == "omniglot" and split in (None, "vinyals"):
        return _refuse_other(omniglot_splits(data, size=size or 28, progress=progress), asked)
    if kind == "cifar" and split in (None, *CIFAR):
        return _refuse_other(cifar_splits(data, split or CIFAR[0], progress=progress), asked)
    if kind == "listed":
        return listed_splits(data, **asked, progress=progress)
    if kind == "folder" and (splits := folder_splits(data, seed=seed, **asked, progress=progress)):
        if split:
            raise UpstairsError(f"{data} is split by its folders train, val and test: leave --split {split} out")
        return splits
    return split_by_class(open_source(data, **asked, progress=progress), split, ratio, seed=seed)


def open_source(
    data: str | Path,
    *,
    size: int | None = None,
    channels: int | None = None,
    ink: bool | None = None,
    progress: Progress | None = None,
) -> Source:
    """All classes of the data as one source, such as to judge a model on data it was not made for.

    Takes what `open_data` takes. Omniglot's characters are not rotated here.

    Raises:
        UpstairsError: as `open_data`.
    """
    kind = _kind(data, None)
    asked: dict[str, Any] = {"size": size, "channels": channels, "ink": ink}
    if kind == "glyphs":
        return _refuse_other(_join(_glyphs(size, progress)), asked)
    if kind == "omniglot":
        return _refuse_other(_omniglot(data, size or 28, progress), asked)
    if kind == "cifar":
        return _refuse_other(_cifar(Path(data), progress), asked)
    if kind == "listed":
        return _join(listed_splits(data, **asked, progress=progress))
    splits = folder_splits(data, **asked, progress=progress)
    return _join(splits) if splits else folder_source(data, **asked, progress=progress)


def omniglot_splits(path: str | Path, *, size: int = 28, progress: Progress | None = None) -> Splits:
    """Omniglot's 1,623 characters in four rotations, split as by Vinyals et al. (2016): 4112, 688 and 1692 classes.

    Lake, Salakhutdinov, Tenenbaum: Human-level concept learning through probabilistic program induction (2015).

    Args:
        path: the folder with images_background.zip, images_evaluation.zip and splits/vinyals/{train,val,test}.txt.

    Returns:
        Sources of inputs [32460, 1, size, size], ink 255, with labels such as 'Greek/character01/rot090' and the
        alphabets as groups.

    Raises:
        UpstairsError: a file is missing or broken; a list names a class that is not there.
    """
    source = _omniglot(path, size, progress)
    turned = replace(
        source,
        labels=tuple(f"{label}/{turn}" for label in source.labels for turn in TURNS),
        rows=tuple(rows for rows in source.rows for _ in TURNS),
        groups=tuple(group for group in source.groups for _ in TURNS),
        turns=tuple(range(len(TURNS))) * len(source),
    )
    folder = Path(path) / "splits" / "vinyals"
    return split_by_list(turned, *(_text(folder / f"{part}.txt").split() for part in Splits._fields))


def omniglot_zip(path: str | Path, *, size: int = 28, progress: Progress | None = None) -> Source:
    """The characters of one of Omniglot's zips, not rotated, grouped by alphabet."""
    return folder_source(path, size=size, channels=1, ink=True, progress=progress)


def cifar_splits(path: str | Path, which: str = "cifar-fs", *, progress: Progress | None = None) -> Splits:
    """CIFAR-100 with the classes of CIFAR-FS (Bertinetto et al. 2019) or FC100 (Oreshkin et al. 2018), 600 images each.

    Args:
        path: the folder with sheets/<class>.webp, 600 tiles a class, and splits/{cifar-fs,fc100,superclass}.json.
        which: 'cifar-fs' (64, 16 and 20 classes at random) or 'fc100' (60, 20 and 20, whole superclasses).

    Returns:
        Sources of inputs [60000, 3, 32, 32], with the superclasses as groups.

    Raises:
        UpstairsError: another split, a file is missing or broken, a sheet of another size.
    """
    if which not in CIFAR:
        raise UpstairsError(f"CIFAR-100 has no split '{which}': choose {' or '.join(CIFAR)}")
    source = replace(_cifar(Path(path), progress), name=which)
    file = Path(path) / "splits" / f"{which}.json"
    lists = _json(file)
    if missing := [part for part in Splits._fields if part not in lists]:
        raise UpstairsError(f"{file} has no list '{missing[0]}': it needs train, val and test")
    return split_by_list(source, *(lists[part] for part in Splits._fields))


def _kind(data: str | Path, split: str | None) -> str:
    """What the data is, from its name and its first level; refuses a split that it has not."""
    path = Path(data)
    if data == "glyphs":
        kind = "glyphs"
    elif not path.exists():
        raise UpstairsError(f"{data} does not exist: give 'glyphs', or a folder or zip of pictures by class")
    elif all((path / name).is_file() for name in OMNIGLOT):
        kind = "omniglot"
    elif is_listed(path):
        kind = "listed"
    elif (path / "sheets").is_dir() and (path / "splits" / "superclass.json").is_file():
        kind = "cifar"
    else:
        kind = "folder"
    if split and split not in SPLITS.get(kind, ()):
        choice = f"choose {' or '.join(SPLITS[kind])}" if kind in SPLITS else "it has one of its own, so leave it out"
        raise UpstairsError(f"--split is '{split}', which {data} does not have: {choice}")
    return kind


def _glyphs(size: int | None, progress: Progress | None) -> Splits:
    from upstairs.tasks.glyphs import glyphs  # late: it loads fonts

    return glyphs(size=size or 28, progress=progress)


def _refuse_other(made: Any, asked: dict[str, Any]) -> Any:
    """The source or splits, where their pictures have the format that was asked for."""
    source = made.train if isinstance(made, Splits) else made
    for name, value in asked.items():
        if value is not None and value != (has := getattr(source.format, name)):
            raise UpstairsError(f"{source.name} has {name} {has} and no other: leave --{name} {value} out")
    return made


def _join(splits: Splits) -> Source:
    """Sources that share their inputs as one."""
    labels, rows, groups = (
        tuple(value for part in splits for value in getattr(part, name)) for name in ("labels", "rows", "groups")
    )
    return replace(splits.train, labels=labels, rows=rows, groups=groups)


def _omniglot(path: str | Path, size: int, progress: Progress | None) -> Source:
    with ExitStack() as stack:
        trees = [stack.enter_context(open_tree(Path(path) / name)) for name in OMNIGLOT]
        owner = {name: tree for tree in trees for name in tree.stamps}
        folders = frozenset().union(*(tree.folders for tree in trees))
        stamps = {name: tree.stamps[name] for name, tree in owner.items()}
        both = Tree(str(path), stamps, folders, lambda name: owner[name].item(name))
        return source_of(both, arrange(both), ImageFormat(size, 1, True), name="omniglot", progress=progress)


def _cifar(path: Path, progress: Progress | None) -> Source:
    sheets = sorted((path / "sheets").glob("*.webp"))
    superclass = _json(path / "splits" / "superclass.json")
    if not sheets:
        raise UpstairsError(f"{path / 'sheets'} holds no sheets: it needs one .webp file for each class of CIFAR-100")
    if missing := [sheet for sheet in sheets if sheet.stem not in superclass]:
        raise UpstairsError(f"{missing[0]} is a class that splits/superclass.json does not name: add or remove it")
    rows, columns, side = SHEET
    tiles = rows * columns

    def read() -> Iterator[np.ndarray]:
        for sheet in sheets:
            pixels = np.asarray(read_picture(sheet).convert("RGB"))
            if pixels.shape != (rows * side, columns * side, 3):
                raise UpstairsError(f"{sheet} is not {columns * side} x {rows * side} pixels: it is no sheet of tiles")
            yield from pixels.reshape(rows, side, columns, side, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, side, side)

    stamps = [(sheet.name, sheet.stat().st_size, sheet.stat().st_mtime_ns) for sheet in sheets]
    inputs = memory_mapped(f"sheets {SHEET} {stamps}", read, (len(sheets) * tiles, 3, side, side), progress=progress)
    labels = tuple(sheet.stem for sheet in sheets)
    places = tuple(np.arange(i * tiles, (i + 1) * tiles) for i in range(len(sheets)))
    groups = tuple(superclass[label] for label in labels)
    return Source("cifar-100", inputs, labels, places, groups, format=ImageFormat(side, 3, False))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UpstairsError(f"{path} cannot be read ({error}): put the list of the split's classes there") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(_text(path)))
    except (ValueError, TypeError) as error:
        raise UpstairsError(f"{path} is no JSON object ({error}): replace it") from error
