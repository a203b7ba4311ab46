"""Sources of pictures in folders and archives."""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from upstairs.data.files import PICTURES, Files, Tree, open_tree
from upstairs.data.images.format import ImageFormat, Tones, background_of, deep_values, high_byte, read_picture
from upstairs.data.layouts.classes import JOINED, Layout
from upstairs.data.layouts.resolve import find_layout
from upstairs.data.layouts.rows import read_files, sampled
from upstairs.data.source import InputFormat, Source
from upstairs.errors import UpstairsError


def read_folder(
    path: str | Path, *, size: int | None = None, channels: int | None = None, ink: bool | None = None,
    format: InputFormat | None = None, **options: Any,
) -> tuple[Source, Layout]:  # fmt: skip
    """Returns a source of the pictures in a folder or an archive, and its layout: see `read_files`.

    `size`, `channels` and `ink` (see `ImageFormat`) are found from a sample of the pictures if they are None, unless a
    `format` is given. Labels are 'class' or 'group/class'.
    """
    guess = partial(guess_format, size=size, channels=channels, ink=ink)
    return read_files(path, PICTURES, guess, format=format, **options)


def folder_source(path: str | Path, **options: Any) -> Source:
    """Returns the source that `read_folder` returns."""
    return read_folder(path, **options)[0]


def files_by_class(
    path: str | Path, files: Files = PICTURES, columns: str | None = None, pattern: str | None = None
) -> dict[str, list[Path | bytes]]:
    """Returns the files of a support set, by class: a folder, an archive or a table of labels, as for training.

    Args:
        columns, pattern: see `find_layout`.

    Raises:
        UpstairsError: no such data, groups of classes, a split, or class folders without files.
    """
    path = Path(path)
    with open_tree(path, files) as tree:
        layout = find_layout(tree, columns=columns, pattern=pattern, skip_bad=None)
        if layout.classes[0].group:
            some = layout.classes[0].label
            raise UpstairsError(
                f"{path} holds folders of class folders, such as {some}: give one that holds class/file"
            )
        if layout.parts or any(JOINED in note for note in layout.notes):
            raise UpstairsError(f"{path} is divided into train and test: give the part with the examples to learn from")
        if layout.empty:
            raise UpstairsError(f"class folder {path}/{layout.empty[0]} has no {files}: add some, or remove it")
        return {one.label: [tree.item(name) for name in one.names] for one in layout.classes}


def guess_format(
    tree: Tree, names: list[str], *, size: int | None = None, channels: int | None = None, ink: bool | None = None
) -> ImageFormat:
    """Chooses the format of these pictures from a sample; arguments that are not None are kept.

    One channel if all pictures are grey; ink if nine in ten are grey line drawings. Drawings are read at 28 pixels,
    photos at 84, or at 32 if the median of their shorter sides is at most 48.
    """
    sample = sampled(names)
    _refuse_cut(tree, sample)
    tones = _tones(tree, names, sample)
    if size is not None and channels is not None and ink is not None:
        return ImageFormat(size, channels, ink, tones)
    pictures = []
    for name in sample:
        with suppress(UpstairsError):  # reading all pictures will report the bad ones
            pictures.append(read_picture(tree.item(name), least=128, tones=tones))
    if not pictures:
        pictures = [Image.new("L", (84, 84))]
    return format_for(pictures, size=size, channels=channels, ink=ink, tones=tones)


def format_for(
    pictures: Sequence[Image.Image], *, size: int | None = None, channels: int | None = None, ink: bool | None = None,
    tones: Tones | None = None,
) -> ImageFormat:  # fmt: skip
    """Returns the format that suits a sample of pictures, in mode L or RGB."""
    grey = all(_is_grey(picture) for picture in pictures)
    if ink is None:
        drawings = sum(_is_drawing(picture.convert("L")) for picture in pictures)
        ink = grey and drawings >= 0.9 * len(pictures)
    small = float(np.median([min(picture.size) for picture in pictures])) <= 48
    return ImageFormat(size or (28 if ink else 32 if small else 84), channels or (1 if ink or grey else 3), ink, tones)


def _refuse_cut(tree: Tree, sample: Sequence[str]) -> None:
    """Raises UpstairsError if colour pictures of 16 bits use fewer, which reading their high byte would make black."""
    found = {}
    for name in sample:
        with suppress(UpstairsError, OSError, ValueError, SyntaxError):
            found[name] = high_byte(tree.item(name))
    values = [value for value in found.values() if value is not None]
    if values and max(values) < 32:
        first = next(name for name, value in found.items() if value is not None)
        raise UpstairsError(
            f"{tree.name}/{first} is one of the colour pictures of 16 bits that use 13 of them or fewer, and 8 can be "
            "read: save them with 8 bits, or as .npy arrays"
        )


def _tones(tree: Tree, names: Sequence[str], sample: Sequence[str]) -> Tones | None:
    """Returns the range that pictures of more than 8 bits use, found from all of them; None if it is the usual one.

    Integers use 0 to the end of their bits (12 bits: 4095), or from a negative power of two; floats 0 to 1 or 255, or
    what they hold.
    """

    def ends(names: Sequence[str]) -> list[tuple[float, float, bool]]:
        found = []
        for name in names:
            with suppress(UpstairsError):
                if (values := deep_values(tree.item(name))) is not None and np.isfinite(values).all():
                    found.append((float(values.min()), float(values.max()), values.dtype.kind == "f"))
        return found

    if not ends(sample):
        return None
    lows, highs, floats = zip(*ends(names), strict=True)
    low, high = min(lows), max(highs)
    black = 0 if low >= 0 else -(2.0 ** np.ceil(np.log2(-low)))
    white = 255 if high <= 255 else 2.0 ** np.floor(np.log2(high) + 1) - (not any(floats))
    if any(floats) and high <= 1:
        white = 1
    tones = (float(black), float(white))
    return None if tones == ((0, 1) if any(floats) else (0, 65535)) else tones


def _is_grey(picture: Image.Image) -> bool:
    pixels = np.asarray(picture).astype(np.int16)
    return pixels.ndim == 2 or bool(np.ptp(pixels, axis=2).max() <= 8)


def _is_drawing(grey: Image.Image) -> bool:
    """Returns whether most pixels are background, few lie between background and ink, and the two are far apart."""
    pixels = np.asarray(grey).astype(np.float32)
    distance = np.abs(pixels - background_of(pixels))
    between = (distance > 0.25 * distance.max()) & (distance < 0.75 * distance.max())
    return bool(distance.max() >= 64 and (distance <= 32).mean() >= 0.5 and between.mean() <= 0.15)
