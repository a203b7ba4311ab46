"""Sources of recordings in folders and archives, or listed in a table of labels."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from upstairs.data.audio.augment import Hearing
from upstairs.data.audio.format import RATE, AudioFormat, read_sound, usual_length
from upstairs.data.encoded.format import EncoderFormat
from upstairs.data.files import SOUNDS, Tree
from upstairs.data.layouts.classes import Layout
from upstairs.data.layouts.rows import read_files, sampled, split_layout
from upstairs.data.source import InputFormat, Source
from upstairs.data.splits import PUBLISHED, Splits, published_splits
from upstairs.errors import UpstairsError

CHOICES = ("speakers", "ratio", "group", PUBLISHED)


def sound_splits(
    data: str | Path,
    *,
    split: str | None = None,
    seed: int = 0,
    ratio: tuple[float, float, float] | None = None,
    **options: Any,
) -> Splits:
    """Opens recordings and splits their classes for meta-training, validation and test.

    Args:
        data: as `open_sounds` takes it.
        split: `ratio` (classes at random), `group` (whole groups), `published` (see `published_splits`), or `speakers`
            (classes at random and disjoint speakers, by the table's own split or at random). None is the folder's own
            split into train and test, else `speakers` if they are known, else `group` with three groups or more, else
            `ratio`.
        seed, ratio: arguments of `split_by_class`.
        options: as `open_sounds` takes them.

    Raises:
        UpstairsError: a recording that cannot be read, an unknown split, or unknown speakers.
    """
    source, layout = read_recordings(data, **options)
    split = split or ("speakers" if source.speakers and not layout.parts else None)
    if split and split not in CHOICES:
        raise UpstairsError(f"`split` is '{split}', which {data} does not have: choose {', '.join(CHOICES)}")
    if split == PUBLISHED:
        parts = published_splits(source)
    else:
        parts = split_layout(source, layout, "ratio" if split == "speakers" else split, ratio, seed=seed)
    if split == "speakers":
        if not source.speakers:
            raise UpstairsError(
                f"{data} names no speakers: add index.tsv with the columns file, label and speaker, or write `pattern`"
            )
        official = {speaker: Splits._fields.index(part) for speaker, part in layout.official.items()}
        everyone = sorted(set(source.speakers))
        owner = official if official.keys() >= set(everyone) else _at_random(everyone, seed)
        own = np.array([owner[speaker] for speaker in source.speakers])
        parts = Splits(
            *(
                replace(part, rows=tuple(rows[own[rows] == place] for rows in part.rows))
                for place, part in enumerate(parts)
            )
        )
    if isinstance(source.format, EncoderFormat):
        return parts
    return parts._replace(train=replace(parts.train, augment=Hearing()))


def open_sounds(data: str | Path, **options: Any) -> Source:
    """Opens all recordings as one source.

    Args:
        data: a folder or an archive: see `find_layout`; or a folder with index.tsv (or .csv), whose columns `file`,
            `label` (or `word`), `speaker` and `split` name the recordings below it or in its one zip.
        options: as `read_recordings` takes them.
    """
    return read_recordings(data, **options)[0]


def read_recordings(
    data: str | Path, *, format: AudioFormat | EncoderFormat | Callable[[float], InputFormat] | None = None,
    seconds: float | None = None, **options: Any,
) -> tuple[Source, Layout]:  # fmt: skip
    """Returns a source of the recordings in a folder or an archive, and its layout: see `read_files`.

    Args:
        format: None is 64 bands and `seconds`; one of an encoder has its own; a function makes it of the seconds.
        seconds: the length that is heard; None is that of `usual_length`.
    """
    make = AudioFormat if format is None or isinstance(format, InputFormat) else format
    form = format if isinstance(format, InputFormat) else None if seconds is None else make(seconds)
    return read_files(data, SOUNDS, lambda tree, names: make(_suited(tree, names)), format=form, **options)


def _suited(tree: Tree, names: Sequence[str]) -> float:
    seconds = []
    for name in sampled(names):
        with suppress(UpstairsError):  # reading all recordings will report the bad ones
            seconds.append(len(read_sound(tree.item(name), name=f"{tree.name}/{name}")) / RATE)
    return usual_length(seconds or [1.0])


def _at_random(speakers: list[str], seed: int) -> dict[str, int]:
    """Assigns three fifths, a fifth and a fifth of the speakers to the three parts."""
    order = torch.randperm(len(speakers), generator=torch.Generator().manual_seed(seed)).tolist()
    return {speakers[i]: min(2, max(0, (5 * place) // len(order) - 2)) for place, i in enumerate(order)}
