"""Regression tasks that are rows of a table: the tasks are sites, cities, people."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from upstairs.data.source import InputFormat, Source, function_source
from upstairs.data.splits import RATIO, Splits, part_sizes
from upstairs.data.tables import NAMES, DataTable, check_rows, is_table, name_key, plain_labels, read_table, split_names
from upstairs.errors import UpstairsError

TASKS = (  # usual names of the column that names the task, the likeliest first
    "task", "site", "city", "customer", "patient", "subject", "user", "client", "person", "store", "shop", "device",
    "machine", "sensor", "station", "region", "country", "school", "location", "group",
)  # fmt: skip


@dataclass(frozen=True)
class TaskTable:
    """Regression tasks of a table: each has rows of its own, and a draw is one of those with enough rows."""

    name: str
    x: tuple[Float32[Tensor, "_ d"], ...]
    y: tuple[Float32[Tensor, "_ k"], ...]
    names: tuple[str, ...] = ()

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        able = [place for place, x in enumerate(self.x) if len(x) >= count]
        if not able:
            raise UpstairsError(
                f"tasks of {self.name} have {max(map(len, self.x))} rows at most, and `shot` and `query` are {count} "
                "together: lower them"
            )
        place = able[int(torch.randint(len(able), (), generator=generator))]
        rows = torch.randperm(len(self.x[place]), generator=generator)[:count]
        return self.x[place][rows], self.y[place][rows]


def left_out(source: Source, need: int) -> str:
    """Returns a note on the tasks of a table with fewer than `need` rows, which are never drawn; '' without any."""
    table = source.functions
    small = [k for k, x in enumerate(table.x) if len(x) < need] if isinstance(table, TaskTable) else []
    if not small or not isinstance(table, TaskTable):
        return ""
    names = ", ".join(name for k in small[:3] for name in table.names[k : k + 1]) + ", ..." * (len(small) > 3)
    what = f"{len(small)} of {len(table.x)} tasks have fewer than {need} rows, for shot and query"
    return f"{what}, and are left out: {names}"


def sizes_that_fit(source: Source, shot: int, query: int) -> tuple[int, int]:
    """Returns shot and query, lowered so that nine of ten tasks of a table have as many rows; functions have any."""
    if not isinstance(source.functions, TaskTable):
        return shot, query
    sizes = sorted(map(len, source.functions.x))
    small = sizes[len(sizes) // 10]
    shot = min(shot, max(1, small - 1))
    return shot, max(1, min(query, small - shot))


@dataclass(frozen=True)
class RowFormat(InputFormat):
    """Reads a row of a regression table: float32 [inputs], in standard deviations from the mean of the training tasks.

    Attributes:
        task, inputs, targets: the columns.
        means, scales: of each input and each target.
    """

    kind = "rows"
    net = "mlp"

    task: str
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.inputs),)

    @property
    def units(self) -> tuple[float, ...]:
        return self.scales[len(self.inputs) :]

    def read(self, item: Any, *, name: str | None = None) -> Float32[np.ndarray, " inputs"]:
        """Reads the inputs of one row: numbers in the order of `inputs`, or a dict by their names."""
        if isinstance(item, Mapping):
            if missing := set(self.inputs) - item.keys():
                raise UpstairsError(f"{name or 'the row'} has no '{min(missing)}': give {', '.join(self.inputs)}")
            item = [item[column] for column in self.inputs]
        count = len(self.inputs)
        try:
            values = np.asarray(item, np.float64)
        except (TypeError, ValueError):
            values = np.array(np.nan)
        if values.shape != (count,) or not np.isfinite(values).all():
            raise UpstairsError(f"{name or 'the row'} is {item!r:.80}: give {count} numbers: {', '.join(self.inputs)}")
        return ((values - self.means[:count]) / self.scales[:count]).astype(np.float32)

    def each(self, items: Any) -> Any:
        """Returns rows one by one: several, or one, as numbers or dicts; or a data frame with the columns."""
        if hasattr(items, "columns") and hasattr(items, "to_numpy"):
            if missing := {*self.inputs} - {*items.columns}:
                raise UpstairsError(f"the data frame has no column '{min(missing)}': give {', '.join(self.inputs)}")
            return items[list(self.inputs)].to_numpy()
        first = items[0] if isinstance(items, list | tuple | np.ndarray | Tensor) and len(items) else None
        return [items] if isinstance(items, Mapping) or isinstance(first, int | float | np.number) else items

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> InputFormat:
        return super().from_json({name: tuple(v) if isinstance(v, list) else v for name, v in value.items()})

    def scaled(self, y: Float[np.ndarray, "n k"]) -> Float32[Tensor, "n k"]:
        """Returns targets in standard deviations from their mean."""
        return torch.from_numpy(((y - self.means[len(self.inputs) :]) / self.units).astype(np.float32))

    def in_units(self, y: Float[Tensor, "n k"]) -> Float[np.ndarray, "n k"]:
        """Returns predicted targets in the units of the table; the inverse of `scaled`."""
        return y.double().numpy() * self.units + self.means[len(self.inputs) :]


class Rows(NamedTuple):
    """The rows of a regression table: the task of each, inputs and targets as numbers, and notes on what was read."""

    tasks: list[str]
    x: Float[np.ndarray, "n d"]
    y: Float[np.ndarray, "n k"]
    names: tuple[str, tuple[str, ...], tuple[str, ...]]  # the columns of task, inputs and targets
    notes: list[str]


def is_task_table(data: str | Path) -> bool:
    """Returns whether this is a table with a column that names a task, no texts, and numbers in the last column."""
    path = Path(data)
    if not is_table(path):
        return False
    try:
        table = read_table(path, head=True)
    except UpstairsError:  # the reader of texts says what is wrong
        return False
    names = [name_key(name) for name in table.columns]
    if not {*TASKS} & {*names} or {*NAMES["text"]} & {*names} or len(names) < 3:
        return False
    spaces = [sum(str(row.get(name)).count(" ") for row in table.rows) for name in table.columns]
    return max(spaces) < 2 * len(table.rows) and _numeric(table, table.columns[-1])


def read_points(
    path: Path, *, task: str | None = None, inputs: Sequence[str] | None = None, targets: Sequence[str] | None = None,
    encoding: str | None = None, skip_bad: bool | None = False, one: bool = False, judged: bool = True,
) -> Rows:  # fmt: skip
    """Reads the rows of a regression table.

    Args:
        task, inputs, targets: the columns; None finds the task by its name, takes the last column as the target, and
            all other columns of numbers as inputs.
        encoding, skip_bad: see `upstairs.settings.DataOptions`.
        one: the rows are of one task, whose column need not be there.
        judged: False where targets need not be there.

    Raises:
        UpstairsError: columns that are not there or hold no numbers, or rows without a number or a task.
    """
    table = read_table(path, encoding=encoding)
    if not table.rows:
        raise UpstairsError(f"{path} has no rows: give a table with a column for the task and columns of numbers")
    if table.parts:
        raise UpstairsError(
            f"{path} is divided into train and test, and tasks are divided at random: save all rows in one list"
        )
    if one and name_key(task) not in map(name_key, table.columns):
        task = ""
    else:
        task = table.find(task) if task else _task_column(table)
    last = [name for name in table.columns if name != task][-1:]
    goals = [table.find(name) for name in (last if targets is None else targets)] if judged else []
    if inputs is None:
        rest = [name for name in table.columns if name not in (task, *goals)]
        own = [name for name in rest if _numeric(table, name)]
    else:
        rest = own = [table.find(name) for name in inputs]
    if both := {*own} & {task, *goals}:
        raise UpstairsError(f"{path}: '{min(both)}' is an input and also the task or a target: leave it out of one")
    if not own:
        raise UpstairsError(f"{path} has no column of numbers other than {', '.join(goals)}: give inputs as `columns`")
    labels = plain_labels([row.get(task) for row in table.rows]) if task else ["all"] * len(table.rows)
    values = np.array([_numbers(table, name) for name in (*own, *goals)], np.float64).T
    bad = dict(table.bad)
    for number, (label, row) in enumerate(zip(labels, values, strict=True), 1):
        wrong = [name for name, value in zip((*own, *goals), row, strict=True) if not np.isfinite(value)]
        if number not in bad and (wrong or label is None):
            bad[number] = f"row {number} has no {f'number as {wrong[0]}' if wrong else task}"
    left_out = check_rows(table.name, bad, skip=skip_bad)
    keep = [number - 1 for number in range(1, len(values) + 1) if number not in bad]
    unused = ", ".join(repr(name) for name in rest if name not in own)
    notes = [", ".join(table.notes), left_out, unused and f"no numbers: {unused} left out"]
    x, y = values[keep, : len(own)], values[keep, len(own) :]
    if one and len({labels[i] for i in keep}) > 1:
        raise UpstairsError(f"{path} has rows of several tasks in '{task}': give those of one")
    return Rows([str(labels[i]) for i in keep], x, y, (task, tuple(own), tuple(goals)), [n for n in notes if n])


def task_splits(
    path: Path, *, task: str | None = None, inputs: str | None = None, targets: str | None = None, seed: int = 0,
    ratio: tuple[float, float, float] | None = None, encoding: str | None = None, skip_bad: bool = False,
    format: RowFormat | None = None,
) -> Splits:  # fmt: skip
    """Opens a table of regression tasks, one for each value of a column, and splits the tasks at random.

    Args:
        task, inputs, targets: the columns, several divided by commas; None finds them (see `read_points`).
        format: the format of a trained run, whose columns and statistics are then used.

    Raises:
        UpstairsError: rows that cannot be read, or fewer than three tasks of two rows or more.
    """
    if format:
        rows = read_points(
            path, task=task or format.task, inputs=format.inputs, targets=format.targets, encoding=encoding,
            skip_bad=skip_bad,
        )  # fmt: skip
    else:
        asked = (None if names is None else split_names(names) for names in (inputs, targets))
        own, goals = asked
        rows = read_points(path, task=task, inputs=own, targets=goals, encoding=encoding, skip_bad=skip_bad)
    places: dict[str, list[int]] = {}
    for place, label in enumerate(rows.tasks):
        places.setdefault(label, []).append(place)
    able = [own for own in places.values() if len(own) > 1]
    column, names, goals = rows.names
    if len(able) < 3:
        raise UpstairsError(
            f"{path} has {len(able)} tasks of two rows or more in '{column}', and 3 are needed, to train, validate and "
            "test: name another column as `task_column`"
        )
    if len(able) < len(places):
        rows.notes.append(f"{len(places) - len(able)} of {len(places)} tasks have one row and were left out")
    order = torch.randperm(len(able), generator=torch.Generator().manual_seed(seed)).tolist()
    first, second = part_sizes(len(order), ratio or RATIO)
    parts = [[able[i] for i in part] for part in (order[:first], order[first:second], order[second:])]
    if format is None:
        if (same := np.ptp(rows.y, 0) == 0).any():
            raise UpstairsError(f"{path}: each '{goals[int(same.argmax())]}' is the same: name another as `target`")
        seen = np.concatenate([rows.x, rows.y], 1)[[place for own in parts[0] for place in own]]
        scales = [scale if scale > 0 else 1.0 for scale in seen.std(0).tolist()]
        format = RowFormat(column, names, goals, tuple(seen.mean(0).tolist()), tuple(scales))
    sizes = sorted(map(len, able))
    split = ", ".join(str(len(part)) for part in parts)
    what = f"{sum(sizes)} rows of {len(able)} tasks ('{column}', {sizes[0]} to {sizes[-1]} rows) from {path.name}: "
    what += f"{', '.join(goals)} from {', '.join(names)}, {split} tasks to train, validate and test"
    summary = "; ".join([what, *rows.notes])
    return Splits(*(_task_source(path, rows, part, format, summary) for part in parts))


def task_source(path: Path, format: RowFormat, **options: Any) -> Source:
    """Returns all tasks of a table, in the columns and statistics of a trained run."""
    parts = [
        part.functions for part in task_splits(path, format=format, **options) if isinstance(part.functions, TaskTable)
    ]
    joined = TaskTable(path.stem, sum((part.x for part in parts), ()), sum((part.y for part in parts), ()),
                       sum((part.names for part in parts), ()))  # fmt: skip
    return function_source(joined, format)


def _task_source(path: Path, rows: Rows, tasks: Sequence[Sequence[int]], format: RowFormat, summary: str) -> Source:
    x = tuple(torch.from_numpy(np.stack([format.read(rows.x[place]) for place in own])) for own in tasks)
    y = tuple(format.scaled(rows.y[list(own)]) for own in tasks)
    names = tuple(rows.tasks[own[0]] for own in tasks)
    return function_source(TaskTable(path.stem, x, y, names), format, summary=summary)


def _task_column(table: DataTable) -> str:
    named = [name for wanted in TASKS for name in table.columns if name_key(name) == wanted]
    named = named or [name for name in table.columns if not _numeric(table, name)][:1]
    if not named:
        raise UpstairsError(
            f"{table.name} has no column that names the task: give one of {table.named} as `task_column`"
        )
    return named[0]


def _numeric(table: DataTable, name: str) -> bool:
    """Returns whether most values of a column are numbers."""
    there = [row.get(name) for row in table.rows if row.get(name) not in (None, "")]
    return bool(there) and sum(map(math.isfinite, _numbers(table, name))) > 0.8 * len(there)


def _numbers(table: DataTable, name: str) -> list[float]:
    """Returns a column as numbers, NaN for others; a comma is decimal unless each has three digits behind it."""
    values = [row.get(name) for row in table.rows]
    commas = {value.partition(",")[2] for value in values if isinstance(value, str) and "," in value}
    decimal = any(re.fullmatch(r"\d{1,2}|\d{4,}", digits) for digits in commas)

    def number(value: Any) -> float:
        try:
            return float(value.replace(",", ".") if decimal and isinstance(value, str) else value)
        except (TypeError, ValueError, OverflowError):
            return math.nan

    return [math.nan if isinstance(value, bool) else number(value) for value in values]
