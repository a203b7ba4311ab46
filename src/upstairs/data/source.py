"""A source holds examples by class; episodes draw tasks from it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from upstairs.data.cache import Progress
from upstairs.errors import UpstairsError, reason
from upstairs.settings import Net, TaskKind

Rows = Any  # an array [rows, *feature], or an object that is indexed like one (see splice.py)


@runtime_checkable
class Augment(Protocol):
    """A random augmentation, in two parts so that a task stays a pure function of its seed."""

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws the random numbers for `count` inputs: [count, k]."""
        ...

    def apply(self, x: Float[Tensor, "n *feature"], drawn: Float[Tensor, "n k"]) -> Float[Tensor, "n *feature"]: ...


@runtime_checkable
class Functions(Protocol):
    """A distribution over functions, from which regression tasks are drawn."""

    @property
    def name(self) -> str: ...

    def draw(self, count: int, generator: torch.Generator) -> tuple[Float[Tensor, "n *feature"], Float[Tensor, "n k"]]:
        """Draws one function and returns it at `count` inputs: x and y."""
        ...


@dataclass(frozen=True)
class InputFormat(ABC):
    """A format turns one raw input (a path, bytes, an array) into a row of `Source.inputs`.

    It is a frozen dataclass, whose fields are saved with a run.

    Attributes:
        kind: its name in a checkpoint.
        net: the default network for the inputs; None: their shape decides.
        modality: what its raw inputs are: image, audio, text, or "" for others.
        is_text: inputs are texts.
        is_tokens: rows are token ids, which cannot be averaged.
        dtype: the type of a row that is read from a file.
        in_frames: extensions of files that may have several frames, of which the first is read.
    """

    kind: ClassVar[str]
    net: ClassVar[Net | None] = None
    modality: ClassVar[str] = ""
    is_text: ClassVar[bool] = False
    is_tokens: ClassVar[bool] = False
    dtype: ClassVar[type[np.generic]] = np.uint8
    in_frames: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of one row."""

    @abstractmethod
    def read(self, item: Any, *, name: str | None = None) -> np.ndarray:
        """Reads one input as a row; `name` is used in errors."""

    def prepare(self, item: Any, *, name: str | None = None) -> np.ndarray:
        """Reads one input as far as threads can; `rows_of` makes rows of several."""
        return self.read(item, name=name)

    def rows_of(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the rows [n, *shape] of what `prepare` returned."""
        return np.stack(prepared)

    def read_many(self, items: Sequence[Any], progress: Progress | None = None) -> np.ndarray:
        """Reads all inputs as rows [n, *shape]."""
        rows = []
        for done, item in enumerate(items, 1):
            rows.append(self.read(item))
            if progress and (done % 1000 == 0 or done == len(items)):
                progress(done, len(items))
        return np.stack(rows)

    def cut(self, texts: Sequence[str], among: int | None = None) -> str:
        """Returns a note on texts that are longer than what is read; empty where there are none.

        Args:
            among: the number of texts that these are of, which a trained run reads; None: the texts are for training.
        """
        return ""

    def has_frames(self, item: Any) -> bool:
        """Returns whether a file (a path, or its bytes) has several frames; False for one that cannot be read."""
        return False

    @property
    def units(self) -> tuple[float, ...]:
        """The unit of each regression target, by which predictions and errors are multiplied; empty: they have none."""
        return ()

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "InputFormat":
        """Returns the format that `to_json` described; fields that a file of an older version lacks have defaults."""
        names = [f.name for f in fields(cls)]
        needed = [f.name for f in fields(cls) if f.default is MISSING]
        if value.get("kind") != cls.kind or not set(needed) <= value.keys():
            raise UpstairsError(f"{value} is no {cls.kind} format: it needs kind '{cls.kind}' and {', '.join(needed)}")
        own = {name: value[name] for name in names if name in value}
        return cls(**{name: tuple(one) if isinstance(one, list) else one for name, one in own.items()})


@dataclass(frozen=True)
class DrawnFunctions:
    """`Functions` drawn by a user's function."""

    function: Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
    name: str

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return self.function(count, generator)


@dataclass(frozen=True)
class Source:
    """Holds examples by class.

    Attributes:
        name: its name in results.
        inputs: [rows, *feature]; uint8 is read as value/255, uint16 (tokens) and floats as they are. May be
            memory-mapped.
        labels: the name of each class.
        rows: for each class the rows of `inputs` that belong to it.
        groups: for each class the name of its group (alphabet, script, superclass); empty without groups.
        turns: for each class the quarter turns (counter-clockwise) of its images; 4 to 7 are also mirrored.
        augment: a random change of each sampled input; None for none.
        format: how a raw input becomes a row; None for arrays.
        functions: the distribution of regression tasks, which have no classes.
        texts: the text of each row, to be displayed; empty where inputs are no texts.
        speakers: the speaker of each row; empty where unknown.
        summary: one line that says what was read from files and what was not; empty where no files were read.
        random: the inputs were drawn at random when they were read: read again, they are others.
        parts, weights: the sources of a mixture and their shares (see `mixed`).
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
    summary: str = ""
    parts: "tuple[Source, ...]" = ()
    weights: tuple[float, ...] = ()
    random: bool = False

    def __post_init__(self) -> None:
        count = len(self.labels)
        for what, value in (("rows", self.rows), ("groups", self.groups), ("turns", self.turns)):
            if len(value) not in ((count,) if what == "rows" else (0, count)):
                raise UpstairsError(
                    f"{self.name}: {count} class labels and {len(value)} {what}: give one for each class"
                )

    @classmethod
    def from_arrays(cls, x: Any, y: Any, *, name: str = "arrays") -> "Source":
        """Returns a source of examples in memory.

        Args:
            x: inputs [n, *feature], a tensor, an array or a list; uint8 is read as value/255, anything else as floats.
            y: a label for each input, of any type that can be sorted.

        Raises:
            UpstairsError: no examples, inputs that are no finite numbers, or no label for each.
        """
        x, y = as_array(x, f"{name}: the inputs"), flat_labels(y, name)
        if x.ndim < 2 or x.dtype.kind not in "fiubO":
            raise UpstairsError(f"{name}: inputs are {x.dtype} of shape {list(x.shape)}: give numbers [n, *feature]")
        if len(x) != len(y):
            raise UpstairsError(f"{name}: {len(x)} inputs and {len(y)} labels: give one label for each input")
        if len(x) == 0:
            raise UpstairsError(f"{name}: no examples were given")
        if x.dtype != np.uint8:
            try:
                x = x.astype(np.float32)
            except (TypeError, ValueError) as error:
                raise UpstairsError(f"{name}: inputs are no numbers ({reason(error)}): give numbers") from error
            if not np.isfinite(x).all():
                bad = int(np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(1))[0])
                raise UpstairsError(f"{name}: input {bad} has a NaN or an infinite value: remove or fix it")
        if y.dtype == object and len({type(label) for label in y}) > 1:  # of types that cannot be sorted together
            y = y.astype(str)
        labels, inverse = np.unique(y, return_inverse=True)
        rows = tuple(np.flatnonzero(inverse == k) for k in range(len(labels)))
        return cls(name, x, tuple(str(label) for label in labels), rows)

    @classmethod
    def from_function(
        cls, draw: Callable[[int, torch.Generator], tuple[Tensor, Tensor]], *, name: str = "functions"
    ) -> "Source":
        """Returns a source of regression tasks, each a function that `draw` draws.

        Args:
            draw: (count, generator) -> x [count, d] and y [count, k] of one function; it must take all random numbers
                from the generator, so that a task depends on its seed alone.

        Raises:
            UpstairsError: x or y has another shape.
        """
        return function_source(DrawnFunctions(draw, name))

    def __len__(self) -> int:
        """The number of classes."""
        return len(self.labels)

    @property
    def most_way(self) -> int:
        """The largest number of classes that a task can have."""
        return min(len(part) for part in self.parts or (self,))

    @property
    def task_kind(self) -> TaskKind:
        """The kind of the tasks: regression for functions, else classification."""
        return "regression" if self.functions else "classification"

    @property
    def targets(self) -> int:
        """The number of regression targets; 0 for classes."""
        return self.functions.draw(2, torch.Generator().manual_seed(0))[1].shape[1] if self.functions else 0

    @property
    def feature_shape(self) -> tuple[int, ...]:
        return tuple(self.inputs.shape[1:])

    def subset(self, classes: Iterable[int], *, name: str | None = None) -> "Source":
        """Returns a source with only these classes (by place)."""
        keep = list(classes)

        def pick(values: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(values[i] for i in keep) if values else ()

        return replace(
            self, name=name or self.name, labels=pick(self.labels), rows=pick(self.rows),
            groups=pick(self.groups), turns=pick(self.turns),
        )  # fmt: skip

    def by_group(self) -> "dict[str, Source]":
        """Returns a source for each group of classes; for a mixture, its parts."""
        if self.parts:
            return {part.name: part for part in self.parts}
        groups = self.groups or ("",) * len(self)
        return {name: self.subset(i for i, group in enumerate(groups) if group == name) for name in sorted(set(groups))}

    def gather(self, rows: Int[Tensor, " n"], turns: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n *feature"]:
        """Returns the inputs of these rows as floats, each rotated as `turns` says, before augmentation."""
        x = as_floats(self.inputs[rows.numpy()])
        if turns is not None:
            for k in range(1, 8):
                if (chosen := turns == k).any():
                    seen = x[chosen] if k < 4 else x[chosen].flip(-1)
                    x[chosen] = torch.rot90(seen, k % 4, (-2, -1))
        return x


def as_array(values: Any, what: str) -> np.ndarray:
    """Returns a tensor, an array or a list as an array; raises UpstairsError for anything else."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().to_dense()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    for one in values if isinstance(values, list | tuple) else (values,):
        refuse_masked(one, f"{what} have")
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise UpstairsError(f"{what} are of several shapes: give those of one shape") from error
    if array.ndim == 0:
        raise UpstairsError(f"{what} are a {type(values).__name__}: give a dense array, a list or a tensor")
    return array


def refuse_masked(values: Any, what: str) -> None:
    """Raises UpstairsError for a masked array of NumPy that hides values, which would be read as if they were there."""
    if isinstance(values, np.ma.MaskedArray) and (hidden := int(np.ma.count_masked(values))):
        raise UpstairsError(
            f"{what} a mask that hides {hidden} of {values.size} values: fill them, as x.filled(0), or leave them out"
        )


def flat_labels(y: Any, name: str) -> np.ndarray:
    """Returns labels [n] or [n, 1] as an array [n]; raises UpstairsError for others, and for missing ones."""
    y = as_array(y, f"{name}: the labels")
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim > 1:
        raise UpstairsError(
            f"{name}: labels have shape {list(y.shape)}: give one for each input, such as y.argmax(1) of one-hot labels"
        )
    if missing := [i for i, label in enumerate(y.tolist()) if label is None or label != label]:
        raise UpstairsError(f"{name}: label {missing[0]} is missing ({y[missing[0]]}): give one, or leave it out")
    return y


def function_source(functions: Functions, format: InputFormat | None = None, *, summary: str = "") -> Source:
    """Returns a source of regression tasks: `Episodes(function_source(Sinusoids()), shot=5)`.

    Raises:
        UpstairsError: x or y has another shape than x [count, d] and y [count, k].
    """
    x, y = functions.draw(2, torch.Generator().manual_seed(0))
    if x.ndim < 2 or y.ndim != 2 or len(x) != 2 or len(y) != 2:
        raise UpstairsError(
            f"{functions.name}: for 2 examples x has shape {tuple(x.shape)} and y {tuple(y.shape)}: draw x [count, d] "
            "and y [count, k]"
        )
    nothing = np.zeros((0, *x.shape[1:]), np.float32)
    return Source(functions.name, nothing, (), (), format=format, functions=functions, summary=summary)


def as_floats(rows: np.ndarray) -> Float[Tensor, "n *feature"]:
    """Returns rows as a network takes them: bytes as value/255, anything else as float32."""
    if rows.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(rows)).float() / 255
    return torch.from_numpy(np.ascontiguousarray(rows, np.float32))
