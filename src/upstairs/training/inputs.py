"""What a user gives, as tensors: pictures, texts or arrays, alone or as a support set in any of the usual forms."""

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
    """How raw inputs become tensors: pictures by the format of the training data, arrays as they are."""

    shape: tuple[int, ...]
    format: InputFormat | None

    @property
    def are_texts(self) -> bool:
        return self.format is not None and self.format.is_text

    def read(self, items: Items) -> Float[Tensor, "n *feature"]:
        """Paths, bytes, pictures, texts, sounds or arrays, one for each example.

        Raises:
            UpstairsError: an input that cannot be read, or of another shape than the learner was trained on.
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
    """Labels, raw inputs, and each input's place among the labels, from any of the forms a user has.

    Raises:
        UpstairsError: fewer than `least` classes, one without examples, or inputs that cannot be found.
    """
    if isinstance(support, str | Path):
        support = reader_of(inputs.format).support(Path(support))
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
    labels = [str(label) for label in support]
    return (
        labels,
        [i for items in support.values() for i in items],
        [k for k, s in enumerate(support.values()) for _ in s],
    )
