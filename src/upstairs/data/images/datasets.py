"""Opens pictures by name or path: public data sets in their usual layouts, and folders of pictures."""

from pathlib import Path
from typing import Any

from upstairs.data.cache import Progress
from upstairs.data.class_augmentation import joined
from upstairs.data.images.cifar import CIFAR, _cifar, cifar_splits
from upstairs.data.images.folders import folder_source, folder_splits
from upstairs.data.images.mini_imagenet import is_listed, listed_splits
from upstairs.data.images.omniglot import OMNIGLOT, _omniglot, omniglot_splits
from upstairs.data.source import Source
from upstairs.data.splits import Splits, split_by_class
from upstairs.errors import UpstairsError

BY_CLASS = ("ratio", "group")
# kind of data -> its splits, the default first
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
    """Opens pictures and splits their classes for meta-training, validation and test.

    Args:
        data: 'glyphs' (letters drawn from installed fonts); the folder with the two zips of Omniglot; the folder with
            the sheets of CIFAR-100; or any folder or zip of pictures, as class/file, group/class/file, or either of
            these below train, val and test; or images/ beside train.csv, val.csv and test.csv.
        split: 'vinyals' for Omniglot; 'cifar-fs' or 'fc100' for CIFAR-100; and for all but glyphs and folders of
            train, val and test: 'ratio' (classes at random) or 'group' (whole groups at random). None is the first
            of these; for a folder or zip it is 'group' with three groups or more, and else 'ratio'.
        seed, ratio: arguments of `split_by_ratio` and `split_by_group`.
        size, channels, ink: see `ImageFormat`; None lets the data decide.
        progress: called with (pictures done, all pictures) while they are decoded for the first time.

    Raises:
        UpstairsError: an unknown path or split, unusable pictures, or too few classes to split.
    """
    kind = _kind(data, split)
    asked: dict[str, Any] = {"size": size, "channels": channels, "ink": ink}
    if kind == "glyphs":
        return _check_format(_glyphs(size, progress), asked)
    if kind == "omniglot" and split in (None, "vinyals"):
        return _check_format(omniglot_splits(data, size=size or 28, progress=progress), asked)
    if kind == "cifar" and split in (None, *CIFAR):
        return _check_format(cifar_splits(data, split or CIFAR[0], progress=progress), asked)
    if kind == "listed":
        return listed_splits(data, **asked, progress=progress)
    if kind == "folder" and (splits := folder_splits(data, seed=seed, **asked, progress=progress)):
        if split:
            raise UpstairsError(f"{data} is split by its folders train, val and test: leave `split` {split} out")
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
    """Opens all classes of the data as one source; Omniglot's characters are not rotated.

    Arguments are those of `open_data`.

    Raises:
        UpstairsError: as `open_data`.
    """
    kind = _kind(data, None)
    asked: dict[str, Any] = {"size": size, "channels": channels, "ink": ink}
    if kind == "glyphs":
        return _check_format(joined(_glyphs(size, progress)), asked)
    if kind == "omniglot":
        return _check_format(_omniglot(data, size or 28, progress), asked)
    if kind == "cifar":
        return _check_format(_cifar(Path(data), progress), asked)
    if kind == "listed":
        return joined(listed_splits(data, **asked, progress=progress))
    splits = folder_splits(data, **asked, progress=progress)
    return joined(splits) if splits else folder_source(data, **asked, progress=progress)


def _kind(data: str | Path, split: str | None) -> str:
    """Returns the kind of the data; raises UpstairsError for a path or a split that does not exist."""
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
        raise UpstairsError(f"`split` is '{split}', which {data} does not have: {choice}")
    return kind


def _glyphs(size: int | None, progress: Progress | None) -> Splits:
    from upstairs.data.images.glyphs import glyphs  # late, since it loads fonts

    return glyphs(size=size or 28, progress=progress)


def _check_format(made: Any, asked: dict[str, Any]) -> Any:
    """Returns the source or splits; raises UpstairsError if their format differs from the one asked for."""
    source = made.train if isinstance(made, Splits) else made
    for name, value in asked.items():
        if value is not None and value != (has := getattr(source.format, name)):
            raise UpstairsError(f"{source.name} has {name} {has} and no other: leave `{name}` {value} out")
    return made
