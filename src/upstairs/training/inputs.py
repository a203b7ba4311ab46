"""Converts a user's inputs and support sets to tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from upstairs.data.open import read_format, reader_of
from upstairs.data.source import InputFormat, as_floats
from upstairs.errors import UpstairsError

Items = Sequence[Any] | np.ndarray | Tensor
Support = str | Path | Mapping[str, Items] | tuple[Any, Any]


@dataclass(frozen=True)
class Inputs:
    """Converts raw inputs to tensors by the format of the training data; arrays have no format."""

    shape: tuple[int, ...]
    format: InputFormat | None

    @property
    def are_texts(self) -> bool:
        return self.format is not None and self.format.is_text

    def read(self, items: Items) -> Float[Tensor, "n *feature"]:
        """Reads paths, bytes, pictures, texts, sounds or arrays, one for each example.

        Raises:
            UpstairsError: an input that cannot be read, or has another shape than the training data.
        """
        if self.format is not None:
            return as_floats(np.stack([self.format.read(item) for item in items]))
        rows = [np.asarray(item) for item in items]
        for i, row in enumerate(rows):
            if row.shape != self.shape:
                raise UpstairsError(f"input {i} has shape {row.shape} and this learner takes {self.shape}: reshape it")
        return as_floats(np.stack(rows))

    def to_json(self) -> dict[str, Any]:
        return {"shape": list(self.shape), "format_of_inputs": self.format.to_json() if self.format else None}

    @classmethod
    def from_json(cls, meta: dict[str, Any]) -> "Inputs":
        form = meta["format_of_inputs"]
        return cls(tuple(meta["shape"]), read_format(form) if form else None)


def read_support(support: Support, inputs: Inputs, *, least: int = 2) -> tuple[list[str], list[Any], list[int]]:
    """Returns labels, raw inputs, and the class number of each input.

    Raises:
        UpstairsError: fewer than `least` classes, a class without examples, or missing inputs.
    """
    if isinstance(support, str | Path):
        support = reader_of(inputs.format).support(Path(support), None)
    if not isinstance(support, Mapping):
        x, y = support
        if len(x) != len(y):
            raise UpstairsError(
                f"the support set has {len(x)} inputs and {len(y)} labels: give one label for each input"
            )
        groups: dict[str, list[Any]] = {}
        for item, label in zip(x, y, strict=True):
            groups.setdefault(str(label.item() if hasattr(label, "item") else label), []).append(item)
        support = groups
    if len(support) < least:
        raise UpstairsError(f"the support set has {len(support)} classes: give {least} or more, each with an example")
    for label, items in support.items():
        if len(items) == 0:
            raise UpstairsError(
                f"class '{label}' of the support set has no examples: give one or more, or leave it out"
            )
    inputs_of_all = [item for items in support.values() for item in items]
    classes = [k for k, items in enumerate(support.values()) for _ in items]
    return [str(label) for label in support], inputs_of_all, classes
