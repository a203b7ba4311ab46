"""Sources made from folders and zip files of pictures: class/file or group/class/file."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from upstairs.data.audio.format import AudioFormat
from upstairs.data.cache import Progress, memory_mapped
from upstairs.data.files import PICTURES, FileClass, Files, Tree, group_files, open_tree
from upstairs.data.images.format import ImageFormat, background_of, read_picture
from upstairs.data.source import Source
from upstairs.data.splits import Splits, split_by_ratio
from upstairs.errors import UpstairsError

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SMALL = 2**14  # bytes; smaller pictures take longer to hand to a thread than to decode
SAMPLE = 32  # about the number of pictures from which a format is found


def source_of(
    tree: Tree,
    classes: Sequence[FileClass],
    format: ImageFormat | AudioFormat,
    *,
    name: str,
    progress: Progress | None = None,
) -> Source:
    """The pictures (or sounds) of these classes, decoded once into the cache.

    Raises:
        UpstairsError: a file that cannot be read (the first one is named), a cache that cannot be written.
    """
    names = [name for one in classes for name in one.names]
    key = hashlib.sha256(repr(format.to_json()).encode())
    for picture in names:
        key.update(f"{picture}\0{tree.stamps[picture]}\0".encode("utf-8", "surrogateescape"))

    def read(picture: str) -> np.ndarray:
        return format.read(tree.item(picture), name=f"{tree.name}/{picture}")

    def rows() -> Iterator[np.ndarray]:
        if sum(tree.stamps[picture][0] for picture in names) < SMALL * len(names):
            yield from map(read, names)
            return
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for start in range(0, len(names), 256):  # no more than this is ever waiting in memory
                yield from pool.map(read, names[start : start + 256])

    shape = (len(names), *format.shape)
    inputs = memory_mapped(key.hexdigest(), rows, shape, progress=progress)
    places = np.split(np.arange(len(names)), np.cumsum([len(one.names) for one in classes])[:-1])
    groups = tuple(one.group for one in classes)
    labels = tuple(one.label for one in classes)
    return Source(name, inputs, labels, tuple(places), groups if any(groups) else (), format=format)


def folder_source(
    path: str | Path,
    *,
    size: int | None = None,
    channels: int | None = None,
    ink: bool | None = None,
    progress: Progress | None = None,
) -> Source:
    """The pictures of a folder (or a zip) arranged as class/file, or as group/class/file.

    What is not given of `size`, `channels` and `ink` (see `ImageFormat`) is found from a sample of the pictures.
    Labels are 'class', or 'group/class'. Hidden files and files that are no pictures are ignored.

    Raises:
        UpstairsError: as `open_tree`, `group_files` and `source_of`.
    """
    with open_tree(path) as tree:
        classes = group_files(tree)
        format = guess_format(tree, classes, size=size, channels=channels, ink=ink)
        return source_of(tree, classes, format, name=_name(path), progress=progress)


def _name(path: str | Path) -> str:
    return Path(path).resolve().name.removesuffix(".zip")


def folder_splits(
    path: str | Path,
    *,
    seed: int = 0,
    size: int | None = None,
    channels: int | None = None,
    ink: bool | None = None,
    progress: Progress | None = None,
) -> Splits | None:
    """The splits of a folder (or a zip) that holds train, val (or valid, validation) and test, and no other folder.

    None where it holds anything else. Without val, a fifth of the train classes, drawn by `seed`, takes its place.

    Raises:
        UpstairsError: as `folder_source`; no train or no test; a class in two of them.
    """
    with open_tree(path) as tree:
        tops = sorted(folder for folder in tree.folders if "/" not in folder)
        parts = [SPLITS.get(top.lower(), "") for top in tops]
        if not tops or not all(parts) or any("/" not in name for name in tree.stamps):
            return None
        if not {"train", "test"} <= set(parts) or len(set(parts)) < len(parts):
            raise UpstairsError(f"{tree.name} holds {' and '.join(tops)}: it needs train, test and at most one val")
        classes, owner = [], {}
        for top in tops:
            for label, group, names in group_files(tree.below(top)):
                if label in owner:
                    raise UpstairsError(
                        f"{tree.name}: class '{label}' is in both {owner[label]} and {top}: a task is new only "
                        "where its classes are, so put each class in one, or give one folder of all classes"
                    )
                owner[label] = top
                classes.append(FileClass(label, group, tuple(f"{top}/{name}" for name in names)))
        format = guess_format(tree, classes, size=size, channels=channels, ink=ink)
        source = source_of(tree, classes, format, name=_name(path), progress=progress)
        splits = {
            part: source.subset(i for i, label in enumerate(source.labels) if owner[label] == top)
            for part, top in zip(parts, tops, strict=True)
        }
        if "val" not in splits:
            splits["train"], splits["val"], _ = split_by_ratio(splits["train"], (0.8, 0.2, 0), seed=seed)
        return Splits(**splits)


def files_by_class(path: str | Path, files: Files = PICTURES) -> dict[str, list[Path]]:
    """The files of a folder arranged as class/file, such as a user's support examples; one of each will do.

    Raises:
        UpstairsError: no such folder, groups of classes in it, or anything `group_files` refuses.
    """
    path = Path(path)
    if path.is_file():
        raise UpstairsError(f"{path} is a file: give a folder with one folder of {files.what} for each class")
    with open_tree(path, files) as tree:
        classes = group_files(tree)
    if classes[0].group:
        raise UpstairsError(
            f"{path} holds folders of class folders, such as {classes[0].label}: give one that holds class/file"
        )
    return {one.label: [path / name for name in one.names] for one in classes}


def guess_format(
    tree: Tree,
    classes: Sequence[FileClass],
    *,
    size: int | None = None,
    channels: int | None = None,
    ink: bool | None = None,
) -> ImageFormat:
    """The format that suits the pictures of these classes, found from a sample; what is given is kept.

    Grey where every picture is; ink where nine in ten of them are grey line drawings. Line drawings are read at 28
    pixels, photos at 84, or at 32 where the shorter side of the median picture has 48 or fewer.
    """
    if size is not None and channels is not None and ink is not None:
        return ImageFormat(size, channels, ink)
    names = [name for one in classes for name in one.names]
    pictures = []
    for name in names[:: max(1, len(names) // SAMPLE)]:
        with suppress(UpstairsError):  # reading them all names the first that is bad
            pictures.append(read_picture(tree.item(name), least=128))
    if not pictures:
        pictures = [read_picture(tree.item(names[0]), name=f"{tree.name}/{names[0]}")]
    grey = all(_is_grey(picture) for picture in pictures)
    if ink is None:
        drawings = sum(_is_drawing(picture.convert("L")) for picture in pictures)
        ink = grey and drawings >= 0.9 * len(pictures)
    small = float(np.median([min(picture.size) for picture in pictures])) <= 48
    return ImageFormat(size or (28 if ink else 32 if small else 84), channels or (1 if ink or grey else 3), ink)


def _is_grey(picture: Image.Image) -> bool:
    pixels = np.asarray(picture).astype(np.int16)
    return pixels.ndim == 2 or bool(np.ptp(pixels, axis=2).max() <= 8)


def _is_drawing(grey: Image.Image) -> bool:
    """Most pixels are background, few are between background and ink, and the two are far apart."""
    pixels = np.asarray(grey).astype(np.float32)
    distance = np.abs(pixels - background_of(pixels))
    between = (distance > 0.25 * distance.max()) & (distance < 0.75 * distance.max())
    return bool(distance.max() >= 64 and (distance <= 32).mean() >= 0.5 and between.mean() <= 0.15)
