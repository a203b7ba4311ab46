"""Splits of a source's classes into train, val and test."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import NamedTuple

import torch

from upstairs.data.source import Source
from upstairs.errors import UpstairsError


class Splits(NamedTuple):
    """Sources of disjoint classes for meta-training, validation and test."""

    train: Source
    val: Source
    test: Source

    def noting(self, note: str) -> "Splits":
        """Returns the splits with a note at the end of each summary."""
        return Splits(*(replace(part, summary="; ".join(filter(None, (part.summary, note)))) for part in self))


RATIO = (0.64, 0.16, 0.2)  # of the classes for train, val and test


def parse_ratio(text: str | None) -> tuple[float, float, float] | None:
    """Parses the shares of train, val and test, such as "0.6,0.2,0.2"; they need not sum to 1."""
    if text is None:
        return None
    try:
        train, val, test = (float(share) for share in text.split(","))
        total = train + val + test
        if min(train, val, test) < 0 or not 0 < total < float("inf"):
            raise ValueError
    except ValueError:
        raise UpstairsError(
            f"`ratio` is '{text}': give three shares, of train, val and test, such as 0.6,0.2,0.2"
        ) from None
    return train / total, val / total, test / total


def split_by_ratio(source: Source, ratio: tuple[float, float, float] = RATIO, *, seed: int = 0) -> Splits:
    """Splits classes at random; the same seed gives the same split."""
    if min(ratio) < 0 or abs(sum(ratio) - 1) > 1e-6:
        raise UpstairsError(
            f"split ratio {ratio}: give three shares from 0 to 1 that sum to 1, such as (0.64, 0.16, 0.2)"
        )
    return _at_random(source, _shares(len(source), ratio), seed)


def _shares(count: int, ratio: tuple[float, float, float]) -> list[int]:
    first, second = round(ratio[0] * count), round(ratio[1] * count)
    return [first, second, count - first - second]


def _at_random(source: Source, sizes: Sequence[int], seed: int) -> Splits:
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed)).tolist()
    first, second = sizes[0], sizes[0] + sizes[1]
    return _splits(source, order[:first], order[first:second], order[second:])


def divided(source: Source, ratio: tuple[float, float, float] = RATIO, *, seed: int = 0) -> Splits:
    """Splits classes at random in about this ratio, with two classes or more in each part that has a share.

    Where there are too few classes for that, validation has none.
    """
    sizes = _shares(len(source), ratio)
    wanted = [place for place, share in enumerate(ratio) if share]
    if len(source) < 2 * len(wanted) and 1 in wanted:
        wanted.remove(1)
        sizes = [sizes[0] + sizes[1], 0, sizes[2]] if ratio[0] else sizes
    for place in wanted:
        largest = max(range(3), key=lambda k: sizes[k])
        need = min(2 - sizes[place], sizes[largest] - 2)
        if need > 0:
            sizes[place], sizes[largest] = sizes[place] + need, sizes[largest] - need
    return _at_random(source, sizes, seed)


def split_by_group(source: Source, ratio: tuple[float, float, float] = RATIO, *, seed: int = 0) -> Splits:
    """Splits whole groups (alphabets, scripts) at random, so that test classes come from unseen groups."""
    groups = sorted(set(source.groups))
    if len(groups) < 3:
        raise UpstairsError(
            f"{source.name} has {len(groups)} groups of classes and a split by group needs 3 or more: "
            "arrange the folder as group/class/file, or split by ratio"
        )
    order = [groups[i] for i in torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()]
    first, second = part_sizes(len(order), ratio)
    parts = (order[:first], order[first:second], order[second:])
    return split_by_list(source, *([i for i, g in enumerate(source.groups) if g in part] for part in parts))


def part_sizes(count: int, ratio: tuple[float, float, float] = RATIO) -> tuple[int, int]:
    """Returns where validation and test begin among `count` shuffled groups, so that each part has one or more."""
    first = min(max(1, round(ratio[0] * count)), count - 2)
    return first, min(max(first + 1, first + round(ratio[1] * count)), count - 1)


def split_by_class(
    source: Source, split: str | None, ratio: tuple[float, float, float] | None = None, *, seed: int = 0
) -> Splits:
    """Applies `split_by_group` if `split` is "group", or is None with three groups or more, and else `split_by_ratio`.

    Without a ratio, few classes are divided so that each part has two (see `divided`), and the summary says so.

    Raises:
        UpstairsError: a part would have fewer than two classes.
    """
    if split == "group" or (split is None and len(set(source.groups)) >= 3):
        return split_by_group(source, ratio or RATIO, seed=seed)
    splits = split_by_ratio(source, ratio or RATIO, seed=seed)
    small = [name for name, part, share in zip(Splits._fields, splits, ratio or RATIO, strict=True)
             if share and len(part) < 2]  # fmt: skip
    if small and ratio is None and len(source) >= 4:
        splits = divided(source, seed=seed)
        sizes = ", ".join(str(len(part)) for part in splits)
        return splits.noting(f"{len(source)} classes divided as {sizes} (--ratio changes that)")
    if small:
        how = "add classes, or change `ratio`" if ratio else "add classes"
        raise UpstairsError(
            f"{source.name} has {len(source)} classes, of which {len(getattr(splits, small[0]))} would be for "
            f"{small[0]}, and a task needs 2: {how}"
        )
    return splits


def split_by_list(
    source: Source, train: Sequence[int | str], val: Sequence[int | str], test: Sequence[int | str]
) -> Splits:
    """Splits classes by lists of places or labels.

    Raises:
        UpstairsError: an unknown label, or a class in two lists.
    """
    place: Mapping[str, int] = {label: i for i, label in enumerate(source.labels)}
    parts: list[list[int]] = []
    for name, items in (("train", train), ("val", val), ("test", test)):
        if missing := [item for item in items if isinstance(item, str) and item not in place]:
            raise UpstairsError(f"{source.name}: the {name} list names '{missing[0]}', which is no class of it")
        parts.append([place[item] if isinstance(item, str) else item for item in items])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        if both := set(parts[a]) & set(parts[b]):
            raise UpstairsError(
                f"{source.name}: class '{source.labels[min(both)]}' is in two lists of the split: put each class in one"
            )
    return _splits(source, *parts)


def _splits(source: Source, train: list[int], val: list[int], test: list[int]) -> Splits:
    return Splits(*(source.subset(part) for part in (train, val, test)))


PUBLISHED = "published"  # its name as a split


def published_splits(source: Source) -> Splits:
    """Applies the published split that the package holds for these classes.

    Raises:
        UpstairsError: the package has none.
    """
    for file in files("upstairs.data").joinpath("class_lists").iterdir():
        lists = json.loads(file.read_text(encoding="utf-8"))
        parts = [lists[part] for part in Splits._fields]
        if {label for part in parts for label in part} == set(source.labels):
            return split_by_list(source, *parts)
    raise UpstairsError(
        f"`split` is 'published' and the package has no split for {source.name} with its {len(source)} classes: it has "
        "those of Arabic Speech Commands (40 words) and CLINC150 (150 intents)"
    )
