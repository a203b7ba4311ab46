"""Changes the number of training classes: rotated, mirrored, spliced or synthetic ones, or a random subset."""

from collections.abc import Iterable
from dataclasses import replace

import torch

from upstairs.data.audio.format import AudioFormat
from upstairs.data.audio.splice import spliced
from upstairs.data.audio.synthetic_words import made_up_words
from upstairs.data.cache import Progress
from upstairs.data.images.format import ImageFormat
from upstairs.data.mixture import mixed
from upstairs.data.source import Source
from upstairs.data.splits import Splits
from upstairs.errors import UpstairsError

SPLICES = 2  # spliced classes for each training class, by default
TURNS = ("rot000", "rot090", "rot180", "rot270")


def training_classes(
    splits: Splits, *, count: int | None = None, rotate: bool = False, mirror: bool = False,
    validation: bool = False, splice: int | None = None, spoken: int = 0, seed: int = 0,
    progress: Progress | None = None,
) -> Splits:  # fmt: skip
    """Returns the splits with other training classes; the test classes stay as they are.

    Args:
        count: the number of training classes, drawn at random; None keeps all.
        rotate, mirror: add rotated and mirrored classes (see `turned`).
        validation: train on the validation classes too, so that none are left for validation.
        splice: the number of spliced classes (see `spliced`); None is `SPLICES` per class for sounds, else 0.
        spoken: the number of synthetic words (see `made_up_words`) that half of the training tasks come from.

    Raises:
        UpstairsError: the source has no classes, too few of them, or inputs that an augmentation does not fit.
    """
    train, val = splits.train, splits.val
    if (count or rotate or mirror or validation) and train.functions:
        names = "`train_classes`, `rotate_classes`, `mirror_classes` and `train_on_validation`"
        raise UpstairsError(f"{names} are about classes and {train.name} has none")
    if validation:
        train, val = joined([train, val]), val.subset([])
    train = some_classes(train, count, seed=seed) if count else train
    train = turned(train, rotate=rotate, mirror=mirror) if rotate or mirror else train
    if splice is None:
        splice = SPLICES * len(train) if isinstance(train.format, AudioFormat) else 0
    train = spliced(train, splice, seed=seed) if splice else train
    if spoken:
        if not isinstance(train.format, AudioFormat):
            raise UpstairsError(f"`spoken` makes words that are heard and {train.name} is no sounds: leave it out")
        train = mixed([train, replace(made_up_words(spoken, train.format, progress=progress), augment=train.augment)])
    return splits._replace(train=train, val=val)


def joined(parts: Iterable[Source], *, name: str | None = None) -> Source:
    """Returns one source with the classes of sources that share their inputs."""
    first, *_ = parts = list(parts)
    labels, rows, groups, turns = (
        tuple(value for part in parts for value in getattr(part, what))
        for what in ("labels", "rows", "groups", "turns")
    )
    return replace(first, name=name or first.name, labels=labels, rows=rows, groups=groups, turns=turns)


def some_classes(source: Source, count: int, *, seed: int = 0) -> Source:
    """Returns `count` classes at random; with the same seed, a larger count contains the classes of a smaller one.

    Raises:
        UpstairsError: the source has fewer classes.
    """
    if count > len(source):
        raise UpstairsError(f"`train_classes` is {count} and {source.name} has {len(source)} training classes")
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))
    return source.subset(sorted(order[:count].tolist()))


def turned(source: Source, *, rotate: bool, mirror: bool) -> Source:
    """Adds each class rotated by 90, 180 and 270 degrees, mirrored, or (with both) in all eight ways, as new classes.

    This is task augmentation (Santoro et al. 2016 for Omniglot; Liu, Chao and Lin 2020 for photographs): it adds new
    tasks, where augmenting examples adds examples of the same tasks. A class that the source already has (Omniglot's
    usual split has all four rotations) is not added again. A few letters then look like another class (n and u).

    Raises:
        UpstairsError: the inputs are not square pictures, or are photos, which keep their class when mirrored.
    """
    shape, form = source.feature_shape, source.format
    if len(shape) != 3 or shape[1] != shape[2] or not isinstance(form, ImageFormat | None):
        name = "`rotate_classes` turns" if rotate else "`mirror_classes` mirrors"
        raise UpstairsError(f"{name} square pictures and {source.name} has inputs of shape {shape}: leave it out")
    if mirror and form is not None and not form.ink:
        raise UpstairsError(
            f"`mirror_classes` is for letters and drawings and {source.name} is photos, which mean the same when they "
            "are mirrored: leave it out (`jitter` mirrors them)"
        )
    turns = source.turns or (0,) * len(source)
    rows = [tuple(own.tolist()) for own in source.rows]
    there = {(own, turn) for own, turn in zip(rows, turns, strict=True)}
    classes = list(zip(range(len(source)), turns, source.labels, strict=True))
    for place, (own, first, label) in enumerate(zip(rows, turns, source.labels, strict=True)):
        for turn, how in _also(first, rotate=rotate, mirror=mirror):
            if (own, turn) not in there:
                there.add((own, turn))
                classes.append((place, turn, f"{label}/{how}"))
    places, turns, labels = zip(*classes, strict=True)
    return replace(source.subset(places), labels=labels, turns=turns)


def _also(turn: int, *, rotate: bool, mirror: bool) -> list[tuple[int, str]]:
    """Returns the additional values of `Source.turns` for a class that has `turn`, with their names."""
    sides = [(turn, "")]
    if mirror:  # mirroring reverses the direction of a quarter turn
        sides.append((4 * (turn < 4) + -turn % 4, "mirrored"))
    more = range(4 if rotate else 1)
    ways = [(4 * (side // 4) + (side + k) % 4, how, TURNS[k] if k else "") for side, how in sides for k in more]
    return [(way, "/".join(filter(None, names))) for way, *names in ways[1:]]
