"""The classes of a tree of files by its folders, or by the names of its files."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from upstairs.data.files import (
    ARRANGE,
    Tree,
    alike,
    common_folder,
    count_of,
    extension_of,
    ignored,
    listed,
    natural,
    plain,
)
from upstairs.errors import UpstairsError

_WORDS = {
    "train": ("train", "training", "trn", "background"), "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tst", "evaluation", "eval"),
}  # fmt: skip
PART_OF_WORD = {word: part for part, words in _WORDS.items() for word in words}
JOINED = "train and test hold the same classes"  # a note on a split that is none
AROUND = frozenset({"set", "data", "dataset", "images", "image", "img", "list", "labels", "split"})


class FileClass(NamedTuple):
    """One class of a tree."""

    label: str  # 'class' or 'group/class'
    group: str  # '' without groups
    names: tuple[str, ...]  # its files


@dataclass(frozen=True)
class Layout:
    """The classes of a tree.

    Attributes:
        classes: in the order in which tasks are drawn from them.
        parts: label -> train, val or test; empty if the tree has no split of its own.
        speakers: file -> speaker; empty where unknown.
        official: speaker -> train, val or test, by a table of labels.
        notes: what a user should know of how it was read.
        bad: file -> why it cannot be used.
        empty: class folders without files of the kind.
        used: tables and lists that were read.
        hint: what to do if there is one class.
    """

    classes: list[FileClass]
    parts: Mapping[str, str] = field(default_factory=dict)
    speakers: Mapping[str, str] = field(default_factory=dict)
    official: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    bad: Mapping[str, str] = field(default_factory=dict)
    empty: tuple[str, ...] = ()
    used: tuple[str, ...] = ()
    hint: str = ""

    @property
    def names(self) -> list[str]:
        return [name for one in self.classes for name in one.names]

    def without(self, bad: Iterable[str]) -> "Layout":
        """Returns the layout without these files, and without classes that would be empty."""
        left = set(bad)
        kept = [one._replace(names=tuple(name for name in one.names if name not in left)) for one in self.classes]
        return replace(self, classes=[one for one in kept if one.names])


def summarise(tree: Tree, layout: Layout, notes: Iterable[str] = ()) -> str:
    """Returns the line that says what was read: '48 pictures of 6 classes; 2 files ignored (.txt 2)'."""
    count = len(layout.names)
    read = f"{count} {tree.files.what if count != 1 else tree.files.what.removesuffix('s')} of "
    read += count_of(len(layout.classes), "class")
    noise = f"{count_of(tree.noise, 'recording')} of _background_noise_ left out" if tree.noise else ""
    same = alike(one.label for one in layout.classes)
    return "; ".join(filter(None, (read, ignored(tree, layout.used), noise, same, *layout.notes, *notes)))


def refusal(bad: Mapping[str, str], among: str, *, option: bool = True) -> UpstairsError:
    """Returns the error of files that cannot be used: why the first cannot, and the names of all (of ten at most)."""
    first = next(iter(bad.values()))
    if len(bad) == 1:
        return UpstairsError(first + " (`skip_bad` leaves it out)" * option)
    how = " (`skip_bad` leaves them out)" * option
    return UpstairsError(f"{first}; {len(bad)} of {among} cannot be used{how}: {listed(bad)}")


def by_folders(tree: Tree) -> Layout:
    """Returns the classes of a tree by its folders.

    Raises:
        UpstairsError: no files of the kind.
    """
    if not tree.stamps:
        found = ignored(tree).replace(" ignored", "")
        could = any(extension_of(name) in tree.files.others for name in tree.others)
        what = f"{tree.name} holds no {tree.files}{', but ' * bool(found)}{found}"
        raise UpstairsError(what if could else f"{what}: {ARRANGE}")
    start = common_folder(tree.stamps)
    places = {name: tuple(plain(name[len(start) :].lstrip("/")).split("/")) for name in tree.stamps}
    places, owner, notes = _without_parts(tree, places)
    depths = {name: len(place) - 1 for name, place in places.items()}
    depth = 2 if 2 * sum(found == 2 for found in depths.values()) >= len(depths) else 1
    problem = {
        0: f"lies outside a class folder: {ARRANGE}{_proposal([name for name, found in depths.items() if found == 0])}",
        1: f"is arranged as class/file and most others as group/class/file: {ARRANGE}, not both",
        2: f"is arranged as group/class/file and most others as class/file: {ARRANGE}, not both",
    }
    wrong = sorted((name for name, found in depths.items() if found != depth), key=natural)
    bad = {name: f"{tree.name}/{name} {problem.get(depths[name], f'lies too deep: {ARRANGE}')}" for name in wrong}
    if owner:
        top = " and ".join(sorted(set(owner.values())))
        outside = sorted((name for name in places.keys() - owner.keys() - bad.keys()), key=natural)
        bad |= {
            name: f"{tree.name}/{name} lies outside the folders of {top}: move it, or remove it" for name in outside
        }
    good = {name: place for name, place in places.items() if name not in bad}
    above = {name.rpartition("/")[0].rpartition("/")[0] for name in good}
    full = {name[:i] for name in tree.stamps for i, letter in enumerate(name) if letter == "/"}
    empty = sorted((f for f in tree.folders - full if f.rpartition("/")[0] in above), key=natural)
    classes = _classes((name, place[-2], place[0] if depth == 2 else "") for name, place in good.items())
    parts, note = own_parts((_label(good[name]), part) for name, part in owner.items() if name in good)
    hint = "" if len(classes) > 1 else _proposal([name for name in tree.stamps if depths[name] < 2])
    return Layout(classes, parts, notes=tuple(filter(None, (*notes, note))), bad=bad, empty=tuple(empty), hint=hint)


def _label(place: Sequence[str]) -> str:
    return "/".join(place[:-1])


def _classes(files: Iterable[tuple[str, str, str]]) -> list[FileClass]:
    """Returns the classes of (file, class, group), in natural order of the folders' names as they are written."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, label, group in files:
        found.setdefault((group, label), []).append(name)
    made = [
        FileClass(f"{group}/{label}" if group else label, group, tuple(sorted(names, key=natural)))
        for (group, label), names in found.items()
    ]
    return sorted(made, key=lambda one: natural(_unsplit(one)))


def _unsplit(one: FileClass) -> str:
    """Returns the name that a class is sorted by: that of its first file's folder, if its label is that name."""
    folder = "/".join(one.names[0].split("/")[:-1][-1 - bool(one.group) :])
    return folder if plain(folder) == one.label else one.label


def part_of(name: str) -> tuple[str, tuple[str, ...]]:
    """Returns the part of a split that a name such as 'seg_train' or 'test_set' stands for, and its other words."""
    words = re.findall(r"[^\W\d_]+", name.casefold())
    found = {PART_OF_WORD[word] for word in words if word in PART_OF_WORD}
    rest = tuple(word for word in words if word not in PART_OF_WORD and word not in AROUND)
    return (found.pop() if len(found) == 1 else ""), rest


def _without_parts(
    tree: Tree, places: dict[str, tuple[str, ...]]
) -> tuple[dict[str, tuple[str, ...]], dict[str, str], list[str]]:
    """Returns the places of files without folders named train, val and test, and the part of each file below these."""
    for level in range(max(map(len, places.values())) - 1):
        words = Counter(place[level] for place in places.values() if len(place) > level + 1)
        found = {word: part_of(word) for word in words}
        rest = Counter(rest for part, rest in found.values() if part).most_common(1)
        named = {word: part for word, (part, own) in found.items() if part and own == rest[0][0]}
        flat = level == 0 and all(len(place) == 2 for place in places.values() if place[0] in named)
        if len(set(named.values())) < 2 or sum(words[word] for word in named) <= len(places) * (
            0.99 if flat or level else 0.5
        ):
            continue
        if "train" not in named.values():
            if level:
                continue
            raise UpstairsError(f"{tree.name} holds {' and '.join(sorted(named))}: it needs train")
        owner = {name: named[p[level]] for name, p in places.items() if len(p) > level + 1 and p[level] in named}
        places = places | {name: places[name][:level] + places[name][level + 1 :] for name in owner}
        if level:
            return places, {}, ["each class has folders of train and test: their files were joined"]
        while all(len(places[name]) > 2 for name in owner) and not flat:
            inner = {places[name][0] for name in owner}
            if len(inner) > 1 and not all(part_of(folder)[0] for folder in inner):
                break
            places |= {name: places[name][1:] for name in owner}
        return places, owner, []
    return places, {}, []


def own_parts(owners: Iterable[tuple[str, str]]) -> tuple[dict[str, str], str]:
    """Returns the part of each class, from (label, part) of its files, and a note if some are in several parts.

    A class is in one part, or a task would hold classes that were trained on: one in several is in the first of them.
    If too few are left for training or test, the classes have no split of their own.
    """
    found: dict[str, set[str]] = {}
    for label, part in owners:
        found.setdefault(label, set()).add(part)
    parts = {label: next(part for part in _WORDS if part in own) for label, own in found.items()}
    if not parts:
        return {}, ""
    shared = sorted((label for label, own in found.items() if len(own) > 1), key=natural)
    if "test" not in {part for own in found.values() for part in own}:
        parts = {label: "test" if part == "val" else part for label, part in parts.items()}
    count = Counter(parts.values())
    if not count["train"] or not count["test"] or (shared and min(count["train"], count["test"]) < 2):
        same = f"{JOINED}: their files were joined and classes are split at random"
        return {}, same if shared else ""
    if shared:
        return parts, f"{count_of(len(shared), 'class')} of several parts joined into the first: {listed(shared)}"
    return parts, ""


def with_lists(tree: Tree, layout: Layout) -> Layout:
    """Returns the layout with the split that lists of labels or of files (train.txt, val.txt, test.txt) give."""
    lists = {
        name: part_of(name.rpartition("/")[2].rpartition(".")[0])[0]
        for name in tree.others
        if extension_of(name) == "txt" and name.count("/") <= 1
    }
    lists = {name: part for name, part in lists.items() if part}
    if layout.parts or not {"train", "test"} <= set(lists.values()):
        return layout
    label_of = {key: one.label for one in layout.classes for name in one.names for key in _endings(plain(name))}
    label_of |= {one.label: one.label for one in layout.classes}
    owners = []
    for name, part in lists.items():
        lines = [
            plain(line.strip()) for line in tree.read(name).decode("utf-8-sig", "replace").splitlines() if line.strip()
        ]
        if unknown := [line for line in lines if line not in label_of]:
            return replace(layout, notes=(*layout.notes, f"{name} names '{unknown[0]}', which is not here: not used"))
        owners += [(label_of[line], part) for line in lines]
    parts, note = own_parts(owners)
    left = [one.label for one in layout.classes if one.label not in parts]
    if note or not parts or left:
        why = "do not name all classes" if left and parts and not note else "divide the files, not the classes"
        return replace(layout, notes=(*layout.notes, f"{listed(lists)} {why}: not used"))
    return replace(layout, parts=parts, used=tuple(lists), notes=(*layout.notes, f"split by {listed(lists)}"))


def _endings(name: str) -> list[str]:
    """Returns a path and its endings: 'a/b/c.png', 'b/c.png', 'c.png'."""
    return [name, *(name[i + 1 :] for i, letter in enumerate(name) if letter == "/")]


FIELD = re.compile(r"\{(\w+)\}")
PATTERNS = (
    "{label}_{speaker}_{n}", "{label}_{n}", "{label}-{n}", "{label}.{n}", "{label} ({n})", "{label} {n}", "{n}_{label}",
    "{n}-{label}", "{label}{n}",
)  # fmt: skip


def by_pattern(tree: Tree, pattern: str) -> Layout:
    """Returns the classes of a tree by a pattern of its files' names, with the fields label, group, speaker and split.

    A field is any text, `{n}` a number; other fields are passed over. The pattern is that of a file's name without its
    extension, or of the end of its path if it has slashes.

    Raises:
        UpstairsError: a pattern without a label, with one field twice, or that fits no file.
    """
    fields = FIELD.findall(pattern)
    if "label" not in fields or len(set(fields)) < len(fields):
        raise UpstairsError(f"`pattern` is '{pattern}': it needs one {{label}}, such as {PATTERNS[0]}")
    found = {name: match for name, match in _matched(pattern, tree.stamps).items() if match}
    if not found:
        some = plain(min(tree.stamps, key=natural))
        raise UpstairsError(f"`pattern` is '{pattern}', which fits no file of {tree.name}, such as {some}")
    classes = _classes((name, own["label"], own.get("group", "")) for name, own in found.items())
    parts, note = own_parts(
        (one.label, part)
        for one in classes for name in one.names if (part := part_of(found[name].get("split", ""))[0])
    )  # fmt: skip
    return Layout(
        classes, parts, {name: own["speaker"] for name, own in found.items() if "speaker" in own},
        notes=tuple(filter(None, (f"labels by the pattern '{pattern}'", note))),
        bad={
            name: f"{tree.name}/{name} does not fit `pattern` '{pattern}': rename or remove it"
            for name in sorted(tree.stamps.keys() - found.keys(), key=natural)
        },
    )  # fmt: skip


def _matched(pattern: str, names: Iterable[str]) -> dict[str, dict[str, str] | None]:
    """Returns the fields of each name, stripped; None where the pattern does not fit."""
    pieces = (
        re.escape(piece) if i % 2 == 0 else rf"(?P<{piece}>{r'[0-9]+' if piece == 'n' else r'[^/]+?'})"
        for i, piece in enumerate(FIELD.split(pattern))
    )
    compiled = re.compile(rf"(?:.*/)?{''.join(pieces)}(?:\.\w+)?")
    matches = {name: compiled.fullmatch(plain(name)) for name in names}
    return {
        name: match and {field: value.strip() for field, value in match.groupdict().items()}
        for name, match in matches.items()
    }


def are_digits(tree: Tree) -> bool:
    """Returns whether these are spoken digits such as 3_jackson_0.wav: every speaker says every digit."""
    found = list(_matched(PATTERNS[0], tree.stamps).values())
    pairs = {(own["label"], own["speaker"]) for own in found if own}
    labels, speakers = ({pair[i] for pair in pairs} for i in (0, 1))
    named = all(label.isdecimal() for label in labels) and all(speaker.isalpha() for speaker in speakers)
    return all(found) and named and min(len(labels), len(speakers)) > 1 and len(pairs) == len(labels) * len(speakers)


def _proposal(flat: Sequence[str]) -> str:
    """Returns the end of a sentence on files in no class folders: the pattern that fits their names, if any does."""
    best: tuple[int, str, list[str]] = (len(flat) // 2, "", [])
    for pattern in PATTERNS:
        found = [own["label"] for own in _matched(pattern, flat).values() if own]
        labels = Counter(found)
        if len(found) > best[0] and len(labels) >= 2 and min(labels.values()) >= 2:
            best = len(found), pattern, [*labels]
    if not best[1]:
        return "; or give a table with the columns path and label"
    return f"; or, if their names hold the classes ({listed(best[2])}), write `pattern` '{best[1]}'"
