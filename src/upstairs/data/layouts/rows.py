"""Decodes the files of a layout into the rows of a source, and divides its classes."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from upstairs.data.cache import Progress, memory_mapped
from upstairs.data.encoded.format import EncodedFormat
from upstairs.data.encoded.store import FeatureStore
from upstairs.data.files import Files, Tree, common_folder, count_of, extension_of, listed, name_of, open_tree
from upstairs.data.layouts.classes import Layout, refusal, summarise
from upstairs.data.layouts.resolve import find_layout
from upstairs.data.source import InputFormat, Source
from upstairs.data.splits import Splits, divided, split_by_class, split_by_list
from upstairs.errors import UpstairsError

SAMPLE = 32  # about the number of files that decide a format
MOST_COMPARED = 5000  # files that are compared, to count equal ones
SMALL = 2**14  # bytes; threads do not pay for smaller files


def read_files(
    path: str | Path, files: Files, guess: Callable[[Tree, list[str]], InputFormat], *, format: InputFormat | None,
    columns: str | None = None, pattern: str | None = None, skip_bad: bool = False, progress: Progress | None = None,
) -> tuple[Source, Layout]:  # fmt: skip
    """Returns a source of the files in a folder or an archive, and its layout.

    Args:
        files: the kind of files.
        guess: (tree, names) -> the format that suits these files, where `format` is None.
        columns, pattern, skip_bad: see `find_layout`.

    Raises:
        UpstairsError: as `open_tree`, `find_layout` and `source_of`.
    """
    with open_tree(path, files) as tree:
        layout = find_layout(tree, columns=columns, pattern=pattern, skip_bad=skip_bad)
        form = format or guess(tree, layout.names)
        return source_of(tree, layout, form, name=name_of(path), skip_bad=skip_bad, progress=progress), layout


def sampled(names: Sequence[str]) -> Sequence[str]:
    """Returns the names of about `SAMPLE` files that decide a format."""
    return names[:: max(1, len(names) // SAMPLE)]


def source_of(
    tree: Tree, layout: Layout, format: InputFormat, *, name: str, skip_bad: bool = False,
    progress: Progress | None = None,
) -> Source:  # fmt: skip
    """Returns a source of the files of a layout, decoded once into the cache.

    Args:
        skip_bad: leave out files that cannot be read, and say so in the summary.

    Raises:
        UpstairsError: files that cannot be read, all of them, or a cache that cannot be written.
    """
    files, notes = layout.names, []
    bad: dict[str, str] = {}

    def read(file: str) -> np.ndarray | None:
        try:
            return format.prepare(tree.item(file), name=f"{tree.name}/{file}")
        except UpstairsError as error:
            bad[file] = str(error)
            return None

    def decoded(files: Sequence[str]) -> Iterator[tuple[str, np.ndarray | None]]:
        if sum(tree.stamps[file][0] for file in files) < SMALL * len(files):
            yield from zip(files, map(read, files), strict=True)
            return
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for start in range(0, len(files), 256):  # bounds the memory
                some = files[start : start + 256]
                yield from zip(some, pool.map(read, some), strict=True)

    def rows() -> Iterator[np.ndarray]:
        nothing = np.zeros(format.shape, format.dtype)
        for _, row in decoded(files):
            yield nothing if row is None else row
        refuse_bad()

    def refuse_bad() -> None:
        if bad:  # nothing is kept in the cache then
            in_order = {file: bad[file] for file in files if file in bad}
            raise refusal(in_order, f"{len(files)} {tree.files.what}")

    def features() -> np.ndarray:
        """Of the encoder that the format names, computed once for each content."""
        assert isinstance(format, EncodedFormat)
        with FeatureStore(format.reading, format.size) as store:
            home = Path(tree.name).absolute()
            contents = [
                store.content_of_file(f"{home}/{file}", tree.stamps[file], partial(tree.item, file)) for file in files
            ]

            def made() -> Iterator[np.ndarray]:
                yield from store.rows(contents, lambda place: read(files[place]), format.rows_of)
                refuse_bad()

            key = hashlib.sha256(b"".join([format.reading.encode(), *contents])).hexdigest()
            return memory_mapped(key, made, (len(files), format.size), dtype=np.float32, progress=progress)

    if skip_bad:
        flags = memory_mapped(
            f"bad {_key(tree, files, format)}",
            lambda: (np.array([row is None], np.uint8) for _, row in decoded(files)),
            (len(files), 1),
        )
        if left := [file for file, flag in zip(files, flags[:, 0], strict=True) if flag]:
            layout, notes = layout.without(left), [f"{len(left)} that cannot be read left out: {listed(left)}"]
            if not layout.classes:
                raise refusal({file: bad.get(file, file) for file in left}, f"{len(files)} {tree.files.what}")
            files = layout.names
            bad.clear()
    if isinstance(format, EncodedFormat):
        inputs = features()
    else:
        shape = (len(files), *format.shape)
        inputs = memory_mapped(_key(tree, files, format), rows, shape, dtype=format.dtype, progress=progress)
    notes += _frames(tree, files, format)
    notes += _repeated(tree, files, inputs)
    places = np.split(np.arange(len(files)), np.cumsum([len(one.names) for one in layout.classes])[:-1])
    groups = tuple(one.group for one in layout.classes)
    return Source(
        name, inputs, tuple(one.label for one in layout.classes), tuple(places), groups if any(groups) else (),
        format=format, speakers=tuple(layout.speakers[file] for file in files) if layout.speakers else (),
        summary=summarise(tree, layout, notes),
    )  # fmt: skip


def _frames(tree: Tree, files: Sequence[str], format: InputFormat) -> list[str]:
    """Returns a note if files have several frames; it is in the cache, since that takes an open file each."""
    able = [file for file in files if extension_of(file) in format.in_frames]
    if not able:
        return []
    key = f"frames {_key(tree, able, format)}"
    flags = memory_mapped(key, lambda: (np.array([format.has_frames(tree.item(f))], np.uint8) for f in able),
                          (len(able), 1))  # fmt: skip
    count = int(flags.sum())
    return [f"{count_of(count, 'file')} {'have' if count > 1 else 'has'} several frames: the first is read"] * (
        count > 0
    )


def _repeated(tree: Tree, files: Sequence[str], inputs: np.ndarray) -> list[str]:
    """Returns a note if files of one size hold the same input."""
    sizes = Counter(tree.stamps[file][0] for file in files)
    alike = [i for i, file in enumerate(files) if sizes[tree.stamps[file][0]] > 1][:MOST_COMPARED]
    count = len(alike) - len({hashlib.blake2b(inputs[i].tobytes()).digest() for i in alike})
    return [f"{count} of them hold the same as another"] if count else []


def _key(tree: Tree, files: Sequence[str], format: InputFormat) -> str:
    """Returns the key of rows in the cache: of the format, and of the names below what all share, sizes and times."""
    shared = common_folder(f"{file}/" for file in files)
    start = len(shared) + 1 if shared else 0
    key = hashlib.sha256(repr(format.to_json()).encode())
    for file in files:
        key.update(f"{file[start:]}\0{tree.stamps[file]}\0".encode("utf-8", "surrogateescape"))
    return key.hexdigest()


def split_layout(
    source: Source, layout: Layout, split: str | None, ratio: tuple[float, float, float] | None, *, seed: int
) -> Splits:
    """Divides the classes of a source by the split that its layout has, or as `split_by_class` does.

    Without validation classes, a random fifth of the training classes takes their place.

    Raises:
        UpstairsError: a part would have fewer than two classes.
    """
    if len(source) == 1 and layout.hint:
        raise UpstairsError(f"{source.name} has one class, '{source.labels[0]}'{layout.hint}")
    parts: Mapping[str, str] = {label: layout.parts[label] for label in source.labels if label in layout.parts}
    if not parts or split:
        return split_by_class(source, split, ratio, seed=seed)
    train, val, test = ([label for label, own in parts.items() if own == part] for part in Splits._fields)
    splits = split_by_list(source, train, val, test)
    if not val:
        own = divided(splits.train, (0.8, 0.2, 0), seed=seed)
        splits = splits._replace(train=own.train, val=own.val)
    splits = splits._replace(train=replace(splits.train, summary=source.summary))
    if without := [label for label in source.labels if label not in parts]:
        return splits.noting(f"{count_of(len(without), 'class')} of no part of the split left out: {listed(without)}")
    return splits
