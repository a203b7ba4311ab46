"""Opening data: the splits that settings name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from upstairs.console import counting
from upstairs.data.audio.folders import is_sound, sound_splits
from upstairs.data.audio.format import AudioFormat
from upstairs.data.class_augmentation import training_classes
from upstairs.data.images.datasets import open_data
from upstairs.data.images.format import ImageFormat
from upstairs.data.mixture import SIGN, mixed_splits
from upstairs.data.regression import FUNCTIONS, function_splits
from upstairs.data.source import InputFormat
from upstairs.data.splits import Splits
from upstairs.data.text.tables import is_text, text_splits
from upstairs.errors import UpstairsError
from upstairs.settings import DataOptions


def absolute(data: str | Path) -> str:
    """The data's path from the root, so that a run finds it from any folder; a built-in data set keeps its name."""
    if SIGN in str(data):
        return SIGN.join(absolute(part) for part in str(data).split(SIGN))
    named = not str(data) or data in ("glyphs", "languages", *FUNCTIONS)  # an empty path would be this folder
    return str(data) if named or not Path(data).exists() else str(Path(data).resolve())


def with_paths(given: dict[str, Any]) -> dict[str, Any]:
    """What the user gave, with paths from the root."""
    return given | {name: absolute(given[name]) for name in ("data", "start_from", "encoder") if given.get(name)}


def open_splits(settings: DataOptions, *, quiet: bool, format: InputFormat | None = None) -> Splits:
    """The data that settings name, with a bar while it is read for the first time.

    Args:
        format: that of a trained run, where the data is for it.
    """
    data = settings.data
    check_data_options(settings)
    if SIGN in data:
        if settings.spoken:
            raise UpstairsError(
                f"`spoken` adds made-up words to one data set and `data` is {data}: name one, or leave `spoken` out"
            )
        mix = parse_mix(settings.mix) if settings.mix else None
        own = replace(settings, mix=None)
        other = replace(own, columns=None, encoder=None)
        parts = [
            open_splits(replace(own if is_text(part) else other, data=part), quiet=quiet, format=format)
            for part in data.split(SIGN)
        ]
        return mixed_splits(parts, mix)
    return limited(open_one(settings, quiet=quiet, format=format), settings, quiet=quiet)


def limited(splits: Splits, options: DataOptions, *, quiet: bool = True) -> Splits:
    """With the training classes that the options ask for."""
    with counting("saying words", quiet=quiet or not options.spoken) as progress:
        return training_classes(
            splits, count=options.train_classes, rotate=options.rotate_classes, mirror=options.mirror_classes,
            splice=options.splice, spoken=options.spoken or 0, seed=options.split_seed,
            validation=options.train_on_validation, progress=progress,
        )  # fmt: skip


def open_one(settings: DataOptions, *, quiet: bool, format: InputFormat | None) -> Splits:
    """One data set, with all its training classes."""
    data, split, seed = settings.data, settings.split, settings.split_seed
    if functions := function_splits(data):
        return functions
    if is_text(data):
        with counting("reading texts", quiet=quiet) as progress:
            return text_splits(
                data, split=split, seed=seed, columns=settings.columns, encoder=settings.encoder,
                adapted=settings.net == "pretrained", format=format, progress=progress,
            )  # fmt: skip
    if is_sound(data):
        with counting("reading sounds", quiet=quiet) as progress:
            heard = format if isinstance(format, AudioFormat) else None
            return sound_splits(data, split=split, seed=seed, format=heard, progress=progress)
    with counting("reading pictures", quiet=quiet) as progress:
        return open_data(data, split=split, seed=seed, progress=progress, **asked_of(format))


def check_data_options(settings: DataOptions) -> None:
    """Raise UpstairsError for an option that says something about other data than is there."""
    parts = settings.data.split(SIGN)
    if not all(part.strip() for part in parts):
        raise UpstairsError(f"`data` is '{settings.data}': name a data set on each side of '+'")
    if settings.mix and len(parts) == 1:
        raise UpstairsError(f"`mix` is '{settings.mix}' and there is one data set: name several, as `data` 'A + B'")
    for name in ("columns", "encoder"):
        if getattr(settings, name) and not any(is_text(part) for part in parts):
            raise UpstairsError(f"`{name}` is about texts and {settings.data} has none: leave it out")


def parse_mix(text: str) -> list[float]:
    """Shares such as "2,1"."""
    try:
        return [float(share) for share in text.split(",")]
    except ValueError:
        raise UpstairsError(f"`mix` is '{text}': give a number for each data set, such as 2,1") from None


def asked_of(format: InputFormat | None) -> dict[str, Any]:
    """What is asked of pictures that are for a trained run."""
    if not isinstance(format, ImageFormat):
        return {}
    return {"size": format.size, "channels": format.channels, "ink": format.ink}
