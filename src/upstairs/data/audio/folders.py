"""Sources of recordings: class/file or group/class/file in a folder or a zip, or files listed in an index table."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from upstairs.data.audio.augment import Hearing
from upstairs.data.audio.format import RATE, AudioFormat, read_sound, usual_length
from upstairs.data.cache import Progress
from upstairs.data.files import SOUNDS, FileClass, Tree, group_files, open_tree
from upstairs.data.images.folders import source_of
from upstairs.data.source import Source
from upstairs.data.splits import PUBLISHED, Splits, published_splits, split_by_class
from upstairs.data.tables import read_rows
from upstairs.errors import UpstairsError

INDEX = ("index.tsv", "index.csv")
COLUMNS = {"file": ("file", "path"), "label": ("label", "word", "class"), "speaker": ("speaker", "voice")}
PARTS = {"train": 0, "val": 1, "valid": 1, "validation": 1, "dev": 1, "test": 2}
CHOICES = ("speakers", "ratio", "group", PUBLISHED)
SAMPLE = 32  # about the number of recordings that decide the length


def is_sound(data: str | Path) -> bool:
    """Returns whether this is a folder or a zip of recordings, or a folder with an index of them."""
    path = Path(data)
    if index_of(path):
        return True
    try:
        with open_tree(path, SOUNDS) as tree:
            return bool(tree.stamps)
    except UpstairsError:
        return False


def index_of(path: Path) -> Path | None:
    """Returns the index table of a folder, or None."""
    return next((path / name for name in INDEX if (path / name).is_file()), None) if path.is_dir() else None


def sound_splits(
    data: str | Path,
    *,
    split: str | None = None,
    seed: int = 0,
    format: AudioFormat | None = None,
    progress: Progress | None = None,
) -> Splits:
    """Opens recordings and splits their classes for meta-training, validation and test.

    Args:
        data: as `open_sounds` takes it.
        split: `ratio` (classes at random), `group` (whole groups), `published` (see `published_splits`), or `speakers`
            (classes at random and disjoint speakers, by the index's own split or at random). None is `speakers` if the
            index names them, else `group` with three groups or more, else `ratio`.
        format: as `open_sounds` takes it.

    Raises:
        UpstairsError: a recording that cannot be read, an unknown split, or unknown speakers.
    """
    source, official = open_index(Path(data), format=format, progress=progress)
    split = split or ("speakers" if source.speakers else None)
    if split and split not in CHOICES:
        raise UpstairsError(f"`split` is '{split}', which {data} does not have: choose {', '.join(CHOICES)}")
    if split == PUBLISHED:
        parts = published_splits(source)
    else:
        parts = split_by_class(source, "ratio" if split == "speakers" else split, seed=seed)
    if split == "speakers":
        if not source.speakers:
            raise UpstairsError(f"{data} names no speakers: add {INDEX[0]} with the columns file, label and speaker")
        owner = official or _at_random(sorted(set(source.speakers)), seed)
        own = np.array([owner[speaker] for speaker in source.speakers])
        parts = Splits(
            *(
                replace(part, rows=tuple(rows[own[rows] == place] for rows in part.rows))
                for place, part in enumerate(parts)
            )
        )
    return parts._replace(train=replace(parts.train, augment=Hearing()))


def open_sounds(data: str | Path, *, format: AudioFormat | None = None, progress: Progress | None = None) -> Source:
    """Opens all recordings as one source.

    Args:
        data: a folder or a zip as class/file or group/class/file; or a folder with index.tsv (or .csv), whose columns
            `file`, `label` (or `word`), `speaker` and `split` name the recordings below it or in its one zip.
        format: None is 64 bands and the length of `usual_length`.
    """
    return open_index(Path(data), format=format, progress=progress)[0]


def open_index(
    path: Path, *, format: AudioFormat | None = None, progress: Progress | None = None
) -> tuple[Source, dict[str, int]]:
    """Returns the source, and the part of the index's own split that each speaker belongs to."""
    index = index_of(path)
    zips = list(path.glob("*.zip")) if index else []
    with open_tree(zips[0] if len(zips) == 1 else path, SOUNDS) as tree:
        classes, speaker, parts = _from_index(tree, index) if index else (group_files(tree), {}, {})
        names = [name for one in classes for name in one.names]
        format = format or _suited(tree, names)
        source = source_of(tree, classes, format, name=path.stem, progress=progress)
    return replace(source, speakers=tuple(speaker[name] for name in names if speaker)), parts


def _from_index(tree: Tree, index: Path) -> tuple[list[FileClass], dict[str, str], dict[str, int]]:
    rows = read_rows(index)
    if not rows:
        raise UpstairsError(f"{index} has no rows: it needs the columns file and label")
    found = {what: next((n for n in names if n in rows[0]), None) for what, names in COLUMNS.items()}
    if not found["file"] or not found["label"]:
        has = ", ".join(map(str, rows[0]))
        raise UpstairsError(f"{index} has the columns {has}: it needs file and label (or word)")
    names: dict[str, list[str]] = {}
    speaker: dict[str, str] = {}
    parts: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        name = str(row[found["file"]])
        if name not in tree.stamps:
            raise UpstairsError(f"{index}: row {number} names {name}, which {tree.name} does not hold")
        names.setdefault(str(row[found["label"]]), []).append(name)
        if found["speaker"]:
            speaker[name] = str(row[found["speaker"]])
            own = next((str(row[c]) for c in ("split", "official_split") if c in row), "")
            if own in PARTS:
                parts[speaker[name]] = PARTS[own]
    return [FileClass(label, "", tuple(own)) for label, own in sorted(names.items())], speaker, parts


def _suited(tree: Tree, names: Sequence[str]) -> AudioFormat:
    step = max(1, len(names) // SAMPLE)
    seconds = [len(read_sound(tree.item(name), name=f"{tree.name}/{name}")) / RATE for name in names[::step]]
    return AudioFormat(usual_length(seconds))


def _at_random(speakers: list[str], seed: int) -> dict[str, int]:
    """Assigns three fifths, a fifth and a fifth of the speakers to the three parts."""
    order = torch.randperm(len(speakers), generator=torch.Generator().manual_seed(seed)).tolist()
    return {speakers[i]: min(2, max(0, (5 * place) // len(order) - 2)) for place, i in enumerate(order)}
