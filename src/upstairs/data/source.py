"""Source: examples by class, sampled by row; and the three ways to split its classes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from upstairs.errors import UpstairsError
from upstairs.settings import Net, TaskKind

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


@dataclass(frozen=True)
class InputFormat(ABC):
    """How one raw input (a path, bytes, an array) becomes a row of `Source.inputs`, and what that says of the data.

    A format is a frozen dataclass; its fields are saved with a run and read again.

    Attributes:
        kind: its name in a checkpoint.
        net: the network that suits the inputs; None where their shape says it.
        is_text: inputs are texts.
        is_tokens: rows are numbers of tokens, of which no mean can be taken.
    """

    kind: ClassVar[str]
    net: ClassVar[Net | None] = None
    is_text: ClassVar[bool] = False
    is_tokens: ClassVar[bool] = False

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of one row."""

    @abstractmethod
    def read(self, item: Any, *, name: str | None = None) -> np.ndarray:
        """One input as a row; errors call it by its name."""

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "InputFormat":
        """The inverse of `to_json`."""
        names = [f.name for f in fields(cls)]
        if value.get("kind") != cls.kind or not set(names) <= value.keys():
            raise UpstairsError(f"{value} is no {cls.kind} format: it needs kind '{cls.kind}' and {', '.join(names)}")
        return cls(**{name: value[name] for name in names})


@dataclass(frozen=True)
class DrawnFunctions:
    """`Functions` that a user's own function draws."""

    function: Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
    name: str

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return self.function(count, generator)


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
        X, of any type that can be compared.
        """
        x, y = (v.detach().cpu().numpy() if isinstance(v, Tensor) else np.asarray(v) for v in (x, y))
        if len(x) != len(y):
            raise UpstairsError(f"{name}: {len(x)} inputs and {len(y)} labels: give one label for each input")
        if len(x) == 0:
            raise UpstairsError(f"{name}: no examples were given")
        if x.dtype != np.uint8:
            x = x.astype(np.float32)
            if not np.isfinite(x).all():
                bad = int(np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(1))[0])
                raise UpstairsError(f"{name}: input {bad} has a NaN or an infinite value: remove or fix it")
        labels, inverse = np.unique(y, return_inverse=True)
        rows = tuple(np.flatnonzero(inverse == k) for k in range(len(labels)))
        return cls(name, x, tuple(str(label) for label in labels), rows)

    @classmethod
    def from_function(
        cls, draw: Callable[[int, torch.Generator], tuple[Tensor, Tensor]], *, name: str = "functions"
    ) -> "Source":
        """Regression tasks of one's own: each is a function, drawn anew from a distribution over functions.

        Args:
            draw: (count, generator) -> x [count, d] and y [count, k] of one function; all its random numbers are the
                generator's, so that a task depends on its seed alone.

        Raises:
            UpstairsError: what it draws has other shapes.
        """
        x, y = draw(2, torch.Generator().manual_seed(0))
        if x.ndim < 2 or y.ndim != 2 or len(x) != 2 or len(y) != 2:
            raise UpstairsError(
                f"{name}: for 2 examples x has shape {tuple(x.shape)} and y {tuple(y.shape)}: draw x [count, d] and y "
                "[count, k]"
            )
        nothing = np.zeros((0, *x.shape[1:]), np.float32)
        return cls(name, nothing, (), (), functions=DrawnFunctions(draw, name))

    def __len__(self) -> int:
        """The number of classes."""
        return len(self.labels)

    @property
    def most_way(self) -> int:
        """The most classes that any task can have."""
        return min(len(part) for part in self.parts or (self,))

    @property
    def task_kind(self) -> TaskKind:
        """Whether tasks are classes to tell apart or functions to fit."""
        return "regression" if self.functions else "classification"

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
