"""More training classes (turned and mirrored pictures, spliced sounds, made-up words), and fewer, to see the gain."""

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

SPLICES = 2  # made classes for each that there is: as many as are worth it where words are few
TURNS = ("rot000", "rot090", "rot180", "rot270")


def training_classes(
    splits: Splits, *, count: int | None = None, rotate: bool = False, mirror: bool = False,
    validation: bool = False, splice: int | None = None, spoken: int = 0, seed: int = 0,
    progress: Progress | None = None,
) -> Splits:  # fmt: skip
    """The splits with `count` of the training classes, turned and mirrored ones, and `splice` made of two (None: see
    SPLICES).

    With `spoken` half of the training tasks are of so many made-up words (see spoken.py). With `validation` the
    validation classes are training classes, and there is none left. Test classes are as they were.

    Raises:
        UpstairsError: there are no classes, fewer than were asked for, or they are no pictures to turn.
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
    """The classes of sources that share their examples as one source."""
    first, *_ = parts = list(parts)
    labels, rows, groups, turns = (
        tuple(value for part in parts for value in getattr(part, what))
        for what in ("labels", "rows", "groups", "turns")
    )
    return replace(first, name=name or first.name, labels=labels, rows=rows, groups=groups, turns=turns)


def some_classes(source: Source, count: int, *, seed: int = 0) -> Source:
    """`count` of the classes at random; of a seed, fewer classes are among those of a larger count.

    Raises:
        UpstairsError: there are not so many.
    """
    if count > len(source):
        raise UpstairsError(f"`train_classes` is {count} and {source.name} has {len(source)} training classes")
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))
    return source.subset(sorted(order[:count].tolist()))


def turned(source: Source, *, rotate: bool, mirror: bool) -> Source:
    """Every class and its turns by 90, 180 and 270 degrees, its mirror image, or (with both) all eight; each a class.

    Task augmentation by rotation (Santoro et al. 2016 for Omniglot; Liu, Chao and Lin 2020 for photographs): it gives
    tasks that were not there, where augmenting examples gives other examples of the same tasks. What the source has as
    a class already (Omniglot's usual split has all four turns) is not added again. Where such a class can look like
    another one (Latin n and u, b and d), one picture has two labels; few letters are so.

    Raises:
        UpstairsError: the inputs are no square pictures, or are photos, which mirrored are of the same class.
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
    """The other ways to see a class that is read with `turn` (see `Source.turns`), and what they are called."""
    sides = [(turn, "")]
    if mirror:  # a mirrored quarter turn is the mirror image, turned the other way
        sides.append((4 * (turn < 4) + -turn % 4, "mirrored"))
    more = range(4 if rotate else 1)
    ways = [(4 * (side // 4) + (side + k) % 4, how, TURNS[k] if k else "") for side, how in sides for k in more]
    return [(way, "/".join(filter(None, names))) for way, *names in ways[1:]]
