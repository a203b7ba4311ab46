"""Converts a user's inputs, labels and support sets to tensors."""

import inspect
import os
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from upstairs.core import Examples
from upstairs.data.cache import Progress
from upstairs.data.readers import read_format, reader_of
from upstairs.data.regression.rows import RowFormat, read_points
from upstairs.data.source import InputFormat, as_floats, refuse_masked
from upstairs.data.text.hashed import as_text
from upstairs.errors import InputWarning, TruncationWarning, UpstairsError, reason

Items = Any  # one input, or several: a list, an array [n, *feature], a column of a table, a generator
Support = Any  # a path, {label: inputs}, (inputs, labels), [(input, label), ...] or `Examples`
GIVE = "give a path, bytes, a picture, an array, or several of them in a list"
NUMBER = int | float | np.number
RECORDING = {"array", "sampling_rate"}  # as `datasets` gives a sound
OWN = ("upstairs", "torch", "contextlib")  # packages whose lines of code are not the user's
SHOWN = 10  # bad inputs that one error names


@dataclass(frozen=True)
class Inputs:
    """Converts raw inputs to tensors by the format of the training data; arrays have no format."""

    shape: tuple[int, ...]
    format: InputFormat | None

    @property
    def kind(self) -> str:
        """The kind of inputs: image, audio, array, or one of the kinds of texts."""
        return "array" if self.format is None else self.format.modality or self.format.kind

    @property
    def are_texts(self) -> bool:
        return self.format is not None and self.format.is_text

    @property
    def rows(self) -> RowFormat | None:
        """The format of a regression table, or None."""
        return self.format if isinstance(self.format, RowFormat) else None

    def each(self, items: Items) -> Iterable[Any]:
        """Returns the inputs one by one; a single text, path, picture, open file, sound or array is one input.

        Raises:
            UpstairsError: something that is neither an input nor several.
        """
        if self.rows:
            return self.rows.each(items)
        if hasattr(items, "columns") and self.format is not None:
            named = [*map(str, items.columns)]
            raise UpstairsError(
                f"a table with the columns {', '.join(named)} was given: give the one that holds the inputs, such as "
                f"table[{named[0]!r}]"
            )
        if self.format is None and (hasattr(items, "to_numpy") or isinstance(items, str | os.PathLike)):
            items = items.to_numpy() if hasattr(items, "to_numpy") else _load_array(items)
        if self.format is None and hasattr(items, "toarray"):  # a sparse matrix of SciPy
            items = items.toarray()
        if getattr(items, "ndim", 1) == 0 and hasattr(items, "item"):
            items = items.item()  # of an array without axes
        if self._is_one(items):
            return [items]
        if isinstance(items, Mapping) or not (isinstance(items, Iterable) or hasattr(items, "__getitem__")):
            raise UpstairsError(f"the inputs are of type {type(items).__name__}: {GIVE}")
        return items

    def _is_one(self, item: Any) -> bool:
        if isinstance(item, str | bytes | bytearray | memoryview | os.PathLike | Image.Image) or _file(item):
            return True
        if isinstance(item, np.ndarray | Tensor) and getattr(item.dtype, "kind", "f") in "biuf":
            return self._is_one_array(tuple(item.shape))
        if self.kind == "audio":
            pair = isinstance(item, tuple | list) and len(item) == 2 and any(isinstance(one, NUMBER) for one in item)
            return pair or (isinstance(item, Mapping) and item.keys() >= RECORDING)
        if self.format is None and isinstance(item, list | tuple):
            with suppress(ValueError, TypeError, RuntimeError):  # numbers in nested lists
                return np.shape(item) == self.shape
        return False

    def _is_one_array(self, shape: tuple[int, ...]) -> bool:
        if self.kind == "audio":
            raise UpstairsError("samples were given without their rate: give (samples, rate), or several in a list")
        if self.format is None:
            if self.shape not in (shape, shape[1:]):
                raise UpstairsError(
                    f"the inputs have shape {shape} and this learner takes {self.shape}: give an array of that shape, "
                    f"or one of several, [n, {', '.join(map(str, self.shape))}]"
                )
            return shape == self.shape
        if self.kind != "image":
            return self.kind == "array" and len(shape) <= len(self.shape)
        if len(shape) == 3 and shape[0] not in (1, 3) and shape[2] in (2, 5, 6, 7):  # else pictures of that width
            raise UpstairsError(f"an array of shape {list(shape)} is no picture: give [h, w], [h, w, 3] or [3, h, w]")
        one = len(shape) == 2 or (len(shape) == 3 and (shape[0] in (1, 3) or shape[2] in (1, 3, 4)))
        if one and self.shape[0] == 1 and len(shape) == 3 and shape[0] == 3 and shape[2] not in (1, 3, 4):
            raise UpstairsError(
                f"an array of shape {list(shape)} is one colour picture or three grey ones: give it in a list if it is "
                "one, and [n, 1, h, w] if it is three"
            )
        return one

    def read(self, items: Items, progress: Progress | None = None) -> Float[Tensor, "n *feature"]:
        """Reads paths, bytes, pictures, texts, sounds or arrays, one for each example.

        Args:
            progress: called with the number of inputs that were read and of all, which `items` must then have.

        Raises:
            UpstairsError: inputs that cannot be read, or have another shape than the training data; it names all.
        """
        bad: dict[int, UpstairsError] = {}
        parts = []
        for places, rows in self.batches(items, bad):
            parts.append(rows)
            if progress:
                progress(places[-1] + 1, len(items))
        refuse_bad(bad)
        return torch.cat(parts) if parts else torch.zeros(0, *self.shape)

    def batches(
        self, items: Items, bad: dict[int, UpstairsError], *, size: int = 64
    ) -> Iterator[tuple[list[int], Float[Tensor, "n *feature"]]]:
        """Yields the places and the rows of up to `size` inputs at a time.

        Args:
            bad: receives the error of each input that cannot be read, by its place (see `refuse_bad`).
        """
        rest, count, long = enumerate(self.each(items)), 0, list[str]()
        while part := list(islice(rest, size)):
            rows: dict[int, np.ndarray] = {}
            count += len(part)
            for place, item in part:
                try:
                    rows[place] = self._prepare(item, place, long)
                except UpstairsError as error:
                    bad[place] = error
            if rows:
                together = [*rows.values()]
                yield [*rows], as_floats(self.format.rows_of(together) if self.format else np.stack(together))
        if long and self.format is not None:
            warn_user(self.format.cut(long, count), TruncationWarning)

    def _prepare(self, item: Any, place: int, long: list[str]) -> np.ndarray:
        """Returns a row, or what the format's encoder makes a row of.

        Args:
            place: names an input without a name in errors.
            long: receives a text that is cut.
        """
        item, name = plain_input(item, place, self)
        if self.format is not None and self.are_texts:
            item = as_text(item, name)
            if self.format.cut([item]):
                long.append(item)
        if self.format is not None:
            return self.format.prepare(item, name=name)
        row = _load_array(item) if isinstance(item, Path) else np.asarray(item)
        if row.shape != self.shape:
            raise UpstairsError(f"{name} has shape {row.shape} and this learner takes {self.shape}: reshape it")
        with np.errstate(over="ignore"):
            finite = row.dtype.kind in "biuf" and np.isfinite(row.astype(np.float32)).all()
        if not finite:
            raise UpstairsError(f"{name} has values that are no finite numbers ({row.dtype}): replace or remove it")
        return row

    def to_json(self) -> dict[str, Any]:
        return {"shape": list(self.shape), "format_of_inputs": self.format.to_json() if self.format else None}

    @classmethod
    def from_json(cls, meta: dict[str, Any]) -> "Inputs":
        form = meta["format_of_inputs"]
        return cls(tuple(meta["shape"]), read_format(form) if form else None)


def refuse_bad(bad: Mapping[int, UpstairsError]) -> None:
    """Raises one error that names all inputs that cannot be read, if there are any."""
    if len(bad) == 1:
        raise next(iter(bad.values()))
    if bad:
        more = f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        listed = "; ".join(str(error) for error in [*bad.values()][:SHOWN])
        raise UpstairsError(f"{len(bad)} inputs cannot be used: {listed}{more}")


def warn_user(note: str, kind: type[InputWarning]) -> None:
    """Warns about inputs, at the line of the user's that called."""
    frames = [frame.frame.f_globals.get("__name__", "").partition(".")[0] for frame in inspect.stack(0)]
    own = next((level for level, name in enumerate(frames) if name not in OWN), 1)
    warnings.warn(note, kind, stacklevel=own + 1)


def _file(item: Any) -> Any:
    """Returns an open file, also one in the wrapper of a web framework or of `tempfile`; None for anything else."""
    own = getattr(item, "file", item)
    return own if callable(getattr(own, "read", None)) else None


def plain_input(item: Any, place: int, inputs: Inputs) -> tuple[Any, str]:
    """Returns an input as a string, a path, bytes, a picture, an array or (samples, rate), and its name in errors."""
    name, text = f"input {place}", inputs.are_texts
    if (stream := _file(item)) is not None:
        name = own if isinstance(own := getattr(item, "name", None), str) else name
        try:
            if getattr(stream, "seekable", lambda: False)():
                stream.seek(0)
            item = stream.read()
        except (OSError, ValueError) as error:
            raise UpstairsError(f"{name} cannot be read ({reason(error)}): give an open file") from error
        if isinstance(item, str) and not text:
            raise UpstairsError(f"{name} was opened as text: open it as open(path, 'rb')")
    elif isinstance(item, os.PathLike) or (isinstance(item, str) and not text):
        path = os.fsdecode(item)
        if not path:
            raise UpstairsError(f"{name} is an empty path: leave it out")
        name, item = (path if len(path) < 300 else f"{path[:60]}..."), Path(path)
        if path.startswith(("data:", "http:", "https:")) or len(path) > 4096:
            raise UpstairsError(f"{name} is no path of a file: give the bytes of the file, or a path")
    elif isinstance(item, bytearray | memoryview):
        item = bytes(item)
    elif isinstance(item, Mapping) and item.keys() >= RECORDING:
        item = (item["array"], item["sampling_rate"])
    if inputs.kind == "audio" and isinstance(item, tuple | list) and len(item) == 2:
        samples, rate = item[::-1] if isinstance(item[0], NUMBER) else item  # scipy reads a file as (rate, samples)
        refuse_masked(samples, f"{name} has")
        samples = np.asarray(_array(samples))
        if samples.ndim == 0 or samples.dtype.kind not in "iuf" or not isinstance(rate, NUMBER) or not rate > 0:
            raise UpstairsError(f"{name} is a pair: give (samples, rate) with the rate as a number")
        channels_first = samples.ndim == 2 and samples.shape[0] < samples.shape[1]  # as torchaudio reads a file
        return (samples.T if channels_first else samples, rate), name
    refuse_masked(item, f"{name} has")
    return _array(item), name


def example_name(item: Any, place: int) -> str:
    """Returns a name of an input, such as its path, to be shown."""
    name = item if isinstance(item, str | os.PathLike) else getattr(item, "name", None)
    return os.fsdecode(name)[:300] if isinstance(name, str | bytes | os.PathLike) else f"example {place}"


def _load_array(path: str | os.PathLike[str]) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UpstairsError(
            f"{path} cannot be read ({reason(error)}): give an array, or the path of a .npy file"
        ) from error


def _array(item: Any) -> Any:
    """Returns a tensor as an array, and anything else as it is."""
    if not isinstance(item, Tensor):
        return item
    item = item.detach().cpu().to_dense()
    return (item.float() if item.dtype == torch.bfloat16 else item).numpy()


def read_support(
    support: Support, inputs: Inputs, *, least: int = 2, columns: str | None = None, pattern: str | None = None,
    what: str = "the support set",
) -> tuple[list[str], list[Any], list[int]]:  # fmt: skip
    """Returns labels, raw inputs, and the class number of each input.

    Args:
        columns: the columns of a table; None: found by name.
        pattern: how the names of files hold their labels, as '{label}_{n}'; None: folders or a table hold them.
        what: names the inputs in errors.

    Raises:
        UpstairsError: fewer than `least` classes, a class without examples, or missing inputs or labels.
    """
    if isinstance(support, str) and not support:
        raise UpstairsError(f"the path of {what} is empty: give a folder or a table")
    if isinstance(support, str | os.PathLike):
        support = reader_of(inputs.format).support(Path(support), columns, pattern)
    if isinstance(support, Examples):
        support = support[:2]
    if isinstance(support, list) and support and all(isinstance(one, tuple) and len(one) == 2 for one in support):
        support = tuple(zip(*support, strict=True))  # pairs (input, label)
    groups: dict[str, list[Any]] = {}
    if isinstance(support, Mapping):
        for label, items in support.items():
            groups.setdefault(label_text(label), []).extend(inputs.each(items))
    elif isinstance(support, tuple | list) and len(support) == 2:
        x, y = list(inputs.each(support[0])), support[1]
        y = y.tolist() if hasattr(y, "tolist") else y
        labels = list(y) if isinstance(y, Iterable) and not isinstance(y, str) else [y]
        if len(x) != len(labels):
            raise UpstairsError(f"{what} has {len(x)} inputs and {len(labels)} labels: give one label for each input")
        for place, (item, label) in enumerate(zip(x, labels, strict=True)):
            groups.setdefault(label_text(label, f"input {place}"), []).append(item)
    else:
        raise UpstairsError(
            f"{what} is of type {type(support).__name__}: give the path of a folder, {{label: inputs}}, or (inputs, "
            "labels)"
        )
    if len(groups) < least:
        raise UpstairsError(f"{what} has {len(groups)} classes: give {least} or more, each with an example")
    for label, items in groups.items():
        if len(items) == 0:
            raise UpstairsError(f"class '{label}' of {what} has no examples: give one or more, or leave it out")
    alike: dict[str, str] = {}
    for label in groups:
        if (other := alike.setdefault(" ".join(label.casefold().split()), label)) != label:
            warn_user(
                f"'{other}' and '{label}' of {what} are two classes and differ in case or spaces alone: give both one "
                "name if they are the same",
                InputWarning,
            )
    inputs_of_all = [item for items in groups.values() for item in items]
    classes = [k for k, items in enumerate(groups.values()) for _ in items]
    return [*groups], inputs_of_all, classes


def read_targets(support: Support, inputs: Inputs, outputs: int) -> Examples:
    """Reads the support set of a regression task: a table with the columns of the run's own, or (inputs, targets).

    Raises:
        UpstairsError: inputs or targets that cannot be read, or do not fit each other or the run.
    """
    form = inputs.rows
    if isinstance(support, str | os.PathLike) and form:
        asked = {"task": form.task, "inputs": form.inputs, "targets": form.targets, "one": True}
        read = read_points(Path(support), **asked, encoding="", skip_bad=None)
        support = read.x, read.y
    if not isinstance(support, tuple | list) or len(support) < 2:
        raise UpstairsError(
            "the run learned regression, which has no labels: give (inputs, targets) as the support set"
        )
    x = inputs.read(support[0])
    refuse_masked(support[1], "the support set has targets with")
    try:
        y = np.asarray(_array(support[1]), np.float64).reshape(len(x), -1)
    except (TypeError, ValueError):
        y = np.zeros((0, 0))
    if y.shape != (len(x), outputs) or not len(x) or not np.isfinite(y).all():
        raise UpstairsError(f"the support set has {len(x)} inputs: give {outputs} finite numbers as targets for each")
    return Examples(x, form.scaled(y) if form else torch.from_numpy(y).float())


def label_text(label: Any, where: str = "a class") -> str:
    """Returns a label as text: composed (NFC), without spaces around it; 1.0 is the same label as 1.

    Raises:
        UpstairsError: a label that is missing, or a list.
    """
    label = label.value if isinstance(label, Enum) else label
    label = label.item() if hasattr(label, "item") and np.ndim(label) == 0 else label
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    text = unicodedata.normalize("NFC", str(label).lower() if isinstance(label, bool) else str(label)).strip()
    infinite = isinstance(label, float) and not isfinite(label)
    if not isinstance(label, str | int | float) or text == "" or infinite:  # of another type: None, pandas.NA
        raise UpstairsError(f"{where} has the label {label!r:.60}: give each a name or a number, such as y.argmax(1)")
    return text
