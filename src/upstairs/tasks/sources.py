"""Source: examples by class, sampled by row; and the three ways to split its classes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from upstairs.errors import UpstairsError

Rows = Any  # an array [rows, *feature], or what is indexed by an array of rows as one is (see splice.py)


@runtime_checkable
class Augment(Protocol):
    """A random change of inputs, in two parts so that a task stays a pure function of its seed."""

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """The random numbers for `count` inputs: [count, k]."""
        ...

    def apply(self, x: Float[Tensor, "n *feature"], drawn: Float[Tensor, "n k"]) -> Float[Tensor, "n *feature"]: ...


@runtime_checkable
class Functions(Protocol):
    """A distribution over functions: what regression tasks are drawn from."""

    @property
    def name(self) -> str: ...

    def draw(self, count: int, generator: torch.Generator) -> tuple[Float[Tensor, "n 1"], Float[Tensor, "n 1"]]:
        """One function, at `count` inputs: x and y."""
        ...


@runtime_checkable
class InputFormat(Protocol):
    """How one raw input (a path, bytes, an array) becomes a row of `Source.inputs`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def read(self, item: Any, *, name: str | None = None) -> np.ndarray: ...

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Source:
    """Examples by class.

    Attributes:
        name: what it is called in results.
        inputs: [rows, *feature]; uint8 is read as value/255, uint16 (tokens) and floats as they are. May be
            memory-mapped.
        labels: the name of each class.
        rows: for each class the rows of `inputs` that belong to it.
        groups: for each class the name of its group (alphabet, script, superclass); '' where there is none.
        turns: for each class the quarter turns (counter-clockwise) of its images; 4 to 7 are those of mirror images.
        augment: changes each sampled input at random; None leaves them alone.
        format: how a user's raw input becomes a row; None for arrays, taken as they are.
        functions: what tasks are drawn from where they are regression: there are no classes then.
        texts: where inputs are texts, each row's own, to be shown.
        speakers: where inputs are sounds, who says each row, where that is known.
        parts, weights: of a mixture, the sources that it is of and the share of each (see `mixed`).
    """

    name: str
    inputs: Rows
    labels: tuple[str, ...]
    rows: tuple[np.ndarray, ...]
    groups: tuple[str, ...] = ()
    turns: tuple[int, ...] = ()
    augment: Augment | None = None
    format: InputFormat | None = None
    functions: Functions | None = None
    texts: tuple[str, ...] = ()
    speakers: tuple[str, ...] = ()
    parts: "tuple[Source, ...]" = ()
    weights: tuple[float, ...] = ()
    _group: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        count = len(self.labels)
        for what, value in (("rows", self.rows), ("groups", self.groups), ("turns", self.turns)):
            if len(value) not in ((count,) if what == "rows" else (0, count)):
                raise UpstairsError(
                    f"{self.name}: {count} class labels and {len(value)} {what}: give one for each class"
                )
        object.__setattr__(self, "_group", self.groups or ("",) * count)

    @classmethod
    def from_arrays(
        cls, x: np.ndarray | Tensor, y: Sequence[Any] | np.ndarray | Tensor, *, name: str = "arrays"
    ) -> "Source":
        """Examples in memory.

        Args:
            x: [n, *feature], uint8 (read as value/255) or floating.
            y: [n] labels, of any type that can be compared.
        """
        x = x.numpy() if isinstance(x, Tensor) else np.asarray(x)
        y = y.numpy() if isinstance(y, Tensor) else np.asarray(y)
        if len(x) != len(y):
            raise UpstairsError(f"{name}: {len(x)} inputs and {len(y)} labels: give one label for each input")
        if len(x) == 0:
            raise UpstairsError(f"{name}: no examples were given")
        if x.dtype != np.uint8:
            x = x.astype(np.float32)
            if not np.isfinite(x).all():
                bad = int(np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(1))[0])
                raise UpstairsError(f"{name}: input {bad} has a NaN or an infinite value: remove or mend it")
        labels, inverse = np.unique(y, return_inverse=True)
        rows = tuple(np.flatnonzero(inverse == k) for k in range(len(labels)))
        return cls(name, x, tuple(str(label) for label in labels), rows)

    def __len__(self) -> int:
        """The number of classes."""
        return len(self.labels)

    @property
    def most_way(self) -> int:
        """The most classes that any task can have."""
        return min(len(part) for part in self.parts or (self,))

    @property
    def feature_shape(self) -> tuple[int, ...]:
        return tuple(self.inputs.shape[1:])

    def subset(self, classes: Iterable[int], *, name: str | None = None) -> "Source":
        """The same examples, only these classes (by place)."""
        keep = list(classes)

        def pick(values: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(values[i] for i in keep) if values else ()

        return replace(
            self, name=name or self.name, labels=pick(self.labels), rows=pick(self.rows),
            groups=pick(self.groups), turns=pick(self.turns),
        )  # fmt: skip

    def by_group(self) -> "dict[str, Source]":
        """One source for each group of classes; of a mixture its parts."""
        if self.parts:
            return {part.name: part for part in self.parts}
        return {
            group: self.subset(i for i, g in enumerate(self._group) if g == group) for group in sorted(set(self._group))
        }

    def gather(self, rows: Int[Tensor, " n"], turns: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n *feature"]:
        """The inputs of these rows as floats (before augmentation), each turned as `turns` says."""
        x = as_floats(self.inputs[rows.numpy()])
        if turns is not None:
            for k in range(1, 8):
                if (chosen := turns == k).any():
                    seen = x[chosen] if k < 4 else x[chosen].flip(-1)
                    x[chosen] = torch.rot90(seen, k % 4, (-2, -1))
        return x


def as_floats(rows: np.ndarray) -> Float[Tensor, "n *feature"]:
    """Rows as a network takes them: bytes are read as value/255, hashed tokens as their numbers."""
    if rows.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(rows)).float() / 255
    return torch.from_numpy(np.ascontiguousarray(rows, np.float32))


class Splits(NamedTuple):
    """Sources of disjoint classes: to meta-train on, to choose a model by, to judge it by."""

    train: Source
    val: Source
    test: Source


def split_by_ratio(source: Source, ratio: tuple[float, float, float] = (0.64, 0.16, 0.2), *, seed: int = 0) -> Splits:
    """Classes at random; the same seed always gives the same split."""
    if min(ratio) < 0 or abs(sum(ratio) - 1) > 1e-6:
        raise UpstairsError(
            f"split ratio {ratio}: give three shares from 0 to 1 that sum to 1, such as (0.64, 0.16, 0.2)"
        )
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed)).tolist()
    first = round(ratio[0] * len(source))
    second = first + round(ratio[1] * len(source))
    return _splits(source, order[:first], order[first:second], order[second:])


def split_by_group(source: Source, ratio: tuple[float, float, float] = (0.64, 0.16, 0.2), *, seed: int = 0) -> Splits:
    """Whole groups (alphabets, scripts) at random, so that test classes come from groups never seen."""
    groups = sorted(set(source.groups))
    if len(groups) < 3:
        raise UpstairsError(
            f"{source.name} has {len(groups)} groups of classes and a split by group needs 3 or more: "
            "arrange the folder as group/class/file, or split by ratio"
        )
    order = [groups[i] for i in torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()]
    first = min(max(1, round(ratio[0] * len(order))), len(order) - 2)
    second = min(max(first + 1, first + round(ratio[1] * len(order))), len(order) - 1)
    parts = (order[:first], order[first:second], order[second:])
    return split_by_list(source, *([i for i, g in enumerate(source.groups) if g in part] for part in parts))


def split_by_class(
    source: Source, split: str | None, ratio: tuple[float, float, float] = (0.64, 0.16, 0.2), *, seed: int = 0
) -> Splits:
    """`split_by_group` where `split` is "group", or is None and there are three groups; else `split_by_ratio`.

    Raises:
        UpstairsError: so few classes that a part would have less than a task needs.
    """
    if split == "group" or (split is None and len(set(source.groups)) >= 3):
        return split_by_group(source, ratio, seed=seed)
    splits = split_by_ratio(source, ratio, seed=seed)
    for name, part, share in zip(Splits._fields, splits, ratio, strict=True):
        if share and len(part) < 2:
            raise UpstairsError(
                f"{source.name} has {len(source)} classes, of which {len(part)} would be for {name}, and a task needs "
                "2: add classes, or change the ratio"
            )
    return splits


def split_by_list(
    source: Source, train: Sequence[int | str], val: Sequence[int | str], test: Sequence[int | str]
) -> Splits:
    """Classes by place or by label; refuses a label that is not there, or a class in two lists."""
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
