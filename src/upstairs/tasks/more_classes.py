"""More training classes (turned pictures, spliced sounds, made-up words), and fewer, to see what data is worth."""

from dataclasses import replace

import torch

from upstairs.errors import UpstairsError
from upstairs.tasks.audio import AudioFormat
from upstairs.tasks.cache import Progress
from upstairs.tasks.images import ImageFormat
from upstairs.tasks.mixture import mixed
from upstairs.tasks.sources import Source, Splits
from upstairs.tasks.splice import spliced
from upstairs.tasks.spoken import made_up_words

SPLICES = 2  # made classes for each that there is: as many as are worth it where words are few
TURNS = ("rot000", "rot090", "rot180", "rot270")


def training_classes(
    splits: Splits, *, count: int | None = None, rotate: bool = False, splice: int | None = None,
    spoken: int = 0, seed: int = 0, progress: Progress | None = None,
) -> Splits:  # fmt: skip
    """The splits with `count` of the training classes, turned ones, and `splice` made of two (None: see SPLICES).

    With `spoken` half of the training tasks are of so many made-up words (see spoken.py).

    Validation and test classes are as they were.

    Raises:
        UpstairsError: there are no classes, fewer than were asked for, or they are no pictures to turn.
    """
    train = splits.train
    if (count or rotate) and train.functions:
        raise UpstairsError(f"--train-classes and --rotate-classes are about classes and {train.name} has none")
    train = some_classes(train, count, seed=seed) if count else train
    train = rotated(train) if rotate else train
    if splice is None:
        splice = SPLICES * len(train) if isinstance(train.format, AudioFormat) else 0
    train = spliced(train, splice, seed=seed) if splice else train
    if spoken:
        if not isinstance(train.format, AudioFormat):
            raise UpstairsError(f"--spoken makes words that are heard and {train.name} is no sounds: leave it out")
        train = mixed([train, replace(made_up_words(spoken, train.format, progress=progress), augment=train.augment)])
    return splits._replace(train=train)


def some_classes(source: Source, count: int, *, seed: int = 0) -> Source:
    """`count` of the classes at random; of a seed, fewer classes are among those of a larger count.

    Raises:
        UpstairsError: there are not so many.
    """
    if count > len(source):
        raise UpstairsError(f"--train-classes is {count} and {source.name} has {len(source)} training classes")
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))
    return source.subset(sorted(order[:count].tolist()))


def rotated(source: Source) -> Source:
    """Every class and its turns by 90, 180 and 270 degrees, each a class of its own.

    Task augmentation by rotation (Santoro et al. 2016 for Omniglot; Liu, Chao and Lin 2020 for photographs): it gives
    tasks that were not there, where augmenting examples gives other examples of the same tasks. A turn that the source
    has as a class already (Omniglot's usual split has all four) is not added again. Where a turned class can look like
    another one (Latin n and u, the digits 6 and 9), one picture has two labels; few letters are so.

    Raises:
        UpstairsError: the inputs are no square pictures.
    """
    shape = source.feature_shape
    if len(shape) != 3 or shape[1] != shape[2] or not isinstance(source.format, ImageFormat | None):
        raise UpstairsError(
            f"--rotate-classes turns square pictures and {source.name} has inputs of shape {shape}: leave it out"
        )
    turns = source.turns or (0,) * len(source)
    rows = [tuple(own.tolist()) for own in source.rows]
    there = {(own, turn) for own, turn in zip(rows, turns, strict=True)}
    classes = list(zip(range(len(source)), turns, strict=True))
    for place, (own, first) in enumerate(zip(rows, turns, strict=True)):
        for more in (1, 2, 3):
            if (turned := (own, (first + more) % 4)) not in there:
                there.add(turned)
                classes.append((place, turned[1]))
    made = source.subset(place for place, _ in classes)
    labels = (
        label if i < len(source) else f"{label}/{TURNS[(turn - turns[place]) % 4]}"
        for i, (label, (place, turn)) in enumerate(zip(made.labels, classes, strict=True))
    )
    return replace(made, labels=tuple(labels), turns=tuple(turn for _, turn in classes))
