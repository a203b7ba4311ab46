"""CIFAR-100, stored as sheets of tiles, with the splits CIFAR-FS and FC100."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from upstairs.data.cache import Progress, memory_mapped
from upstairs.data.files import read_json
from upstairs.data.images.format import ImageFormat, read_picture
from upstairs.data.source import Source
from upstairs.data.splits import Splits, split_by_list
from upstairs.errors import UpstairsError

CIFAR = ("cifar-fs", "fc100")
SHEET = (30, 20, 32)  # a sheet of CIFAR-100: rows and columns of tiles, pixels along a tile


def cifar_splits(path: str | Path, which: str = "cifar-fs", *, progress: Progress | None = None) -> Splits:
    """Opens CIFAR-100, 600 images a class, split as CIFAR-FS (Bertinetto et al. 2019) or FC100 (Oreshkin et al. 2018).

    Args:
        path: the folder with sheets/<class>.webp, 600 tiles a class, and splits/{cifar-fs,fc100,superclass}.json.
        which: 'cifar-fs' (64, 16 and 20 classes at random) or 'fc100' (60, 20 and 20, whole superclasses).

    Returns:
        Sources of inputs [60000, 3, 32, 32], whose groups are the superclasses.

    Raises:
        UpstairsError: an unknown split, a missing or broken file, or a sheet of another size.
    """
    if which not in CIFAR:
        raise UpstairsError(f"CIFAR-100 has no split '{which}': choose {' or '.join(CIFAR)}")
    source = replace(_cifar(Path(path), progress), name=which)
    file = Path(path) / "splits" / f"{which}.json"
    lists = read_json(file)
    if missing := [part for part in Splits._fields if part not in lists]:
        raise UpstairsError(f"{file} has no list '{missing[0]}': it needs train, val and test")
    return split_by_list(source, *(lists[part] for part in Splits._fields))


def _cifar(path: Path, progress: Progress | None) -> Source:
    sheets = sorted((path / "sheets").glob("*.webp"))
    superclass = read_json(path / "splits" / "superclass.json")
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
