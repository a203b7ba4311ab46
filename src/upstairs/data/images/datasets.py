"""Opens pictures by name or path: public data sets in their usual layouts, and folders of pictures."""

from pathlib import Path
from typing import Any

from upstairs.data.cache import Progress
from upstairs.data.class_augmentation import joined
from upstairs.data.encoded.format import EncoderFormat
from upstairs.data.encoded.packed import encoded_source, encoded_splits
from upstairs.data.images.cifar import CIFAR, _cifar, cifar_splits
from upstairs.data.images.folders import read_folder
from upstairs.data.images.format import ImageFormat
from upstairs.data.images.omniglot import OMNIGLOT, _omniglot, omniglot_splits
from upstairs.data.layouts.classes import Layout
from upstairs.data.layouts.rows import split_layout
from upstairs.data.source import Source
from upstairs.data.splits import Splits
from upstairs.errors import UpstairsError

BY_CLASS = ("ratio", "group")
# kind of data -> its splits, the default first
SPLITS = {"omniglot": ("vinyals", *BY_CLASS), "cifar": (*CIFAR, *BY_CLASS), "folder": BY_CLASS}


def open_data(
    data: str | Path,
    *,
    split: str | None = None,
    seed: int = 0,
    ratio: tuple[float, float, float] | None = None,
    **options: Any,
) -> Splits:
    """Opens pictures and splits their classes for meta-training, validation and test.

    Args:
        data: 'glyphs' (letters drawn from installed fonts); the folder with the two zips of Omniglot; the folder with
            the sheets of CIFAR-100; or any folder or archive of pictures: see `find_layout`.
        split: 'vinyals' for Omniglot; 'cifar-fs' or 'fc100' for CIFAR-100; and for all but glyphs 'ratio' (classes at
            random) or 'group' (whole groups at random). None is the first of these; for a folder or zip it is its own
            split into train and test, else 'group' with three groups or more, and else 'ratio'.
        seed, ratio: arguments of `split_by_ratio` and `split_by_group`.
        options: arguments of `open_source`.

    Raises:
        UpstairsError: an unknown path or split, unusable pictures, or too few classes to split.
    """
    kind = _kind(data, split)
    progress = options.get("progress")
    if isinstance(form := options.get("format"), EncoderFormat) and kind != "folder":
        plain = open_data(data, split=split, seed=seed, ratio=ratio, **options | {"format": None, "progress": None})
        return encoded_splits(plain, form, progress)
    if kind == "glyphs":
        return _check_format(_glyphs(_size(options), progress), options)
    if kind == "omniglot" and split in (None, "vinyals"):
        return _check_format(omniglot_splits(data, size=_size(options) or 28, progress=progress), options)
    if kind == "cifar" and split in (None, *CIFAR):
        return _check_format(cifar_splits(data, split or CIFAR[0], progress=progress), options)
    source, layout = _open(data, kind, options)
    return split_layout(source, layout, split, ratio, seed=seed)


def open_source(data: str | Path, **options: Any) -> Source:
    """Opens all classes of the data as one source; Omniglot's characters are not rotated.

    Args:
        options: `size`, `channels`, `ink` (see `ImageFormat`), or a `format` that has them or is of an encoder: None
            lets the data decide; and other arguments of `read_folder`.
    """
    return _open(data, _kind(data, None), options)[0]


def _open(data: str | Path, kind: str, options: dict[str, Any]) -> tuple[Source, Layout]:
    progress = options.get("progress")
    if kind == "folder":
        return read_folder(data, **options)
    if isinstance(form := options.get("format"), EncoderFormat):
        source, layout = _open(data, kind, options | {"format": None, "progress": None})
        return encoded_source(source, form, progress), layout
    if kind == "glyphs":
        source = joined(_glyphs(_size(options), progress))
    elif kind == "omniglot":
        source = _omniglot(data, _size(options) or 28, progress)
    else:
        source = _cifar(Path(data), progress)
    return _check_format(source, options), Layout([])


def _size(options: dict[str, Any]) -> int | None:
    return options["format"].size if options.get("format") else options.get("size")


def _kind(data: str | Path, split: str | None) -> str:
    """Returns the kind of the data; raises UpstairsError for a path or a split that does not exist."""
    path = Path(data)
    if data == "glyphs":
        kind = "glyphs"
    elif not path.exists():
        way = "give 'glyphs', or a folder or zip of pictures by class"
        raise UpstairsError(f"{data} does not exist: {'download it and give its path' if '://' in str(data) else way}")
    else:
        kind = published_kind(path) or "folder"
    if split and split not in SPLITS.get(kind, ()):
        choice = f"choose {' or '.join(SPLITS[kind])}" if kind in SPLITS else "it has one of its own, so leave it out"
        raise UpstairsError(f"`split` is '{split}', which {data} does not have: {choice}")
    return kind


def published_kind(path: Path) -> str | None:
    """Returns which public data set a folder holds: omniglot or cifar; None for any other."""
    if all((path / name).is_file() for name in OMNIGLOT):
        return "omniglot"
    return "cifar" if (path / "sheets").is_dir() and (path / "splits" / "superclass.json").is_file() else None


def _glyphs(size: int | None, progress: Progress | None) -> Splits:
    from upstairs.data.images.glyphs import glyphs  # late, since it loads fonts

    return glyphs(size=size or 28, progress=progress)


def _check_format(made: Any, options: dict[str, Any]) -> Any:
    """Returns the source or splits; raises UpstairsError if their format differs from the one asked for."""
    source, form = made.train if isinstance(made, Splits) else made, options.get("format")
    for name in ("size", "channels", "ink"):
        value = getattr(form, name) if isinstance(form, ImageFormat) else options.get(name)
        if value is not None and value != (has := getattr(source.format, name)):
            raise UpstairsError(f"{source.name} has {name} {has} and no other: leave `{name}` {value} out")
    for name in ("columns", "pattern"):
        if options.get(name):
            raise UpstairsError(f"`{name}` is about files with labels and {source.name} has its own: leave it out")
    return made
