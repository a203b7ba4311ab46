"""Sources of pictures in folders and zip files: class/file or group/class/file."""

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
SMALL = 2**14  # bytes; threads do not pay for smaller pictures
SAMPLE = 32  # about the number of pictures that decide a format


def source_of(
    tree: Tree,
    classes: Sequence[FileClass],
    format: ImageFormat | AudioFormat,
    *,
    name: str,
    progress: Progress | None = None,
) -> Source:
    """Returns a source of the pictures (or sounds) of these classes, decoded once into the cache.

    Raises:
        UpstairsError: a file that cannot be read, or a cache that cannot be written.
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
            for start in range(0, len(names), 256):  # bounds the memory
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
    """Returns a source of a folder (or a zip) with class/picture or group/class/picture.

    `size`, `channels` and `ink` (see `ImageFormat`) are found from a sample of the pictures if they are None. Labels
    are 'class' or 'group/class'. Hidden files and other kinds of files are ignored.

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
    """Returns the splits of a folder (or a zip) of train, val (or valid, validation) and test; None for other folders.

    Without val, a random fifth of the training classes takes its place.

    Raises:
        UpstairsError: as `folder_source`; a missing train or test, or a class in two splits.
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
    """Returns the files of a folder with class/file, such as a support set; one file per class is enough.

    Raises:
        UpstairsError: the folder does not exist or has groups of classes; as `group_files`.
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
    """Chooses the format of these pictures from a sample; arguments that are not None are kept.

    One channel if all pictures are grey; ink if nine in ten are grey line drawings. Drawings are read at 28 pixels,
    photos at 84, or at 32 if the median of their shorter sides is at most 48.
    """
    if size is not None and channels is not None and ink is not None:
        return ImageFormat(size, channels, ink)
    names = [name for one in classes for name in one.names]
    pictures = []
    for name in names[:: max(1, len(names) // SAMPLE)]:
        with suppress(UpstairsError):  # reading all pictures will report the first bad one
            pictures.append(read_picture(tree.item(name), least=128))
    if not pictures:
        pictures = [read_picture(tree.item(names[0]), name=f"{tree.name}/{names[0]}")]
    return format_for(pictures, size=size, channels=channels, ink=ink)


def format_for(
    pictures: Sequence[Image.Image], *, size: int | None = None, channels: int | None = None, ink: bool | None = None
) -> ImageFormat:
    """Returns the format that suits a sample of pictures, in mode L or RGB."""
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
    """Returns whether most pixels are background, few lie between background and ink, and the two are far apart."""
    pixels = np.asarray(grey).astype(np.float32)
    distance = np.abs(pixels - background_of(pixels))
    between = (distance > 0.25 * distance.max()) & (distance < 0.75 * distance.max())
    return bool(distance.max() >= 64 and (distance <= 32).mean() >= 0.5 and between.mean() <= 0.15)
