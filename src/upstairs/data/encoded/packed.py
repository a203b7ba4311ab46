"""Features of pictures that are in memory (arrays, sheets, drawn letters), or what an encoder prepares of them."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from upstairs.data.cache import Progress, memory_mapped
from upstairs.data.encoded.format import EncodedFormat, EncoderFormat
from upstairs.data.encoded.prepared import PreparedFormat, PreparedRows
from upstairs.data.encoded.store import FeatureStore, content_of_value
from upstairs.data.source import Rows, Source
from upstairs.data.splits import Splits
from upstairs.errors import UpstairsError


def encoded_splits(splits: Splits, format: EncoderFormat, progress: Progress | None = None) -> Splits:
    """Returns the splits with their pictures as an encoder reads them; parts that share their inputs go on to do so.

    Raises:
        UpstairsError: the inputs are no pictures.
    """
    shared: dict[int, list[Source]] = {}
    for part in splits:
        shared.setdefault(id(part.inputs), []).append(part)
    made = {own: _rows(parts, format, progress) for own, parts in shared.items()}
    return Splits(*(_with(part, made[id(part.inputs)], format) for part in splits))


def encoded_source(source: Source, format: EncoderFormat, progress: Progress | None = None) -> Source:
    """Returns a source with its pictures as an encoder reads them; see `encoded_splits`."""
    return _with(source, _rows([source], format, progress), format)


def _rows(parts: list[Source], format: EncoderFormat, progress: Progress | None) -> Rows:
    inputs, name = parts[0].inputs, parts[0].name
    if inputs.ndim != 4 or inputs.shape[1] not in (1, 3):
        raise UpstairsError(
            f"`encoder` reads pictures and {name} has inputs of shape {list(inputs.shape[1:])}: leave it out"
        )
    if isinstance(format, PreparedFormat):
        return PreparedRows(inputs, format, name)
    assert isinstance(format, EncodedFormat)
    return _features(parts, format, progress)


def _features(parts: list[Source], format: EncodedFormat, progress: Progress | None) -> np.ndarray:
    """Returns the features of all rows; only those of classes that occur are computed, others are zero."""
    inputs, name = parts[0].inputs, parts[0].name
    used = np.zeros(len(inputs), bool)
    for part in parts:
        for own in part.rows:
            used[own] = True
    places = np.flatnonzero(used)
    with FeatureStore(format.reading, format.size) as store:
        contents = [content_of_value(inputs[place]) for place in places]

        def rows() -> Iterator[np.ndarray]:
            found = store.rows(contents, lambda place: format.prepare(inputs[places[place]], name=name), format.rows_of,
                              progress)  # fmt: skip
            nothing = np.zeros(format.size, np.float32)
            for wanted in used:
                yield next(found) if wanted else nothing

        key = hashlib.sha256(b"".join([format.reading.encode(), used.tobytes(), *contents])).hexdigest()
        return memory_mapped(key, rows, (len(inputs), format.size), dtype=np.float32)


def _with(source: Source, inputs: Rows, format: EncoderFormat) -> Source:
    """Returns the source with other inputs; classes that are turned pictures of others are left out."""
    kept = source.subset(i for i, turn in enumerate(source.turns or (0,) * len(source)) if turn == 0)
    return replace(kept, inputs=inputs, turns=(), augment=None, format=format)
