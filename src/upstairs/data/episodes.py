"""Episodes draw few-shot tasks from a source. A task is a pure function of its seed."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from upstairs.core import Examples, Task
from upstairs.data.files import listed
from upstairs.data.regression.functions import draw_functions
from upstairs.data.seeds import dice, stream_seeds
from upstairs.data.source import Source
from upstairs.errors import UpstairsError, check_type
from upstairs.settings import TaskKind
from upstairs.tree import map_tensors

Range = int | tuple[int, int]


def as_range(value: Range) -> tuple[int, int]:
    """Returns (lowest, highest) of a number or a range."""
    if isinstance(value, int):
        return value, value
    if not isinstance(value, tuple | list) or len(value) != 2 or not all(isinstance(end, int) for end in value):
        raise UpstairsError(f"`way` or `shot` is {value!r}: give a whole number, or a pair of them, such as (1, 5)")
    return value[0], value[1]


def check_task_sizes(source: Source, way: tuple[int, int] | None, shot: tuple[int, int], query: int) -> None:
    """Raises UpstairsError if the source has too few classes or examples for such tasks."""
    check_type("query", query, int, "the number of queries of each class")
    if source.functions and way is not None:
        raise UpstairsError(f"`way` is {way[1]} and {source.name} is regression, which has no classes: leave it out")
    if not source.functions and way is None:
        raise UpstairsError(f"`way` is None and {source.name} has classes: give the number of classes in a task")
    for name, (low, high) in (("way", way or (1, 1)), ("shot", shot), ("query", (query, query))):
        if low < 1 or high < low:
            raise UpstairsError(f"`{name}` is {low if low == high else (low, high)}: it must be at least 1")
    if way is not None and way[1] > len(source):
        raise UpstairsError(
            f"{source.name} has {len(source)} classes and `way` is {way[1]}: lower `way` or add classes"
        )
    need = shot[1] + query
    if source.functions:
        source.functions.draw(need, dice(0))  # a table may have too few rows
    small = [label for label, rows in zip(source.labels, source.rows, strict=True) if len(rows) < need]
    if small:
        count = len(source.rows[source.labels.index(small[0])])
        raise UpstairsError(
            f"class '{small[0]}' of {source.name} has {count} examples and {shot[1]} shot + {query} query need {need}: "
            "add examples, lower `shot` or `query`, or remove the class"
            + f"; {len(small)} of {len(source)} classes have too few: {listed(small)}" * (len(small) > 1)
            + (source.summary and f" (it was read as {source.summary})")
        )


def voices(source: Source) -> list[Tensor]:
    """Returns the speaker of each row of each class, numbered from 0 over all classes.

    Raises:
        UpstairsError: the source does not know its speakers.
    """
    if not source.speakers:
        raise UpstairsError(f"`speakers` is about sounds of known speakers and {source.name} names none: leave it out")
    names = [[source.speakers[row] for row in rows] for rows in source.rows]
    numbers = np.unique([name for own in names for name in own], return_inverse=True)[1]
    return list(torch.from_numpy(numbers).split([len(own) for own in names]))


def by_few(
    rows: list[Tensor], voices: list[Tensor], speakers: int, need: int, generator: torch.Generator
) -> list[Tensor]:
    """Returns each class's rows by `speakers` random speakers, and by further ones until there are `need` rows."""
    rank = torch.randperm(1 + max(int(own.max()) for own in voices), generator=generator)
    ranks = [rank[own].sort(stable=True) for own in voices]
    return [
        own[place[: max(need, int((order < speakers).sum()))]] for own, (order, place) in zip(rows, ranks, strict=True)
    ]


def padded(x: Tensor, labels: Sequence[Tensor]) -> Examples:
    """Stacks tasks, concatenated in x, padded to the length of the longest: [task, n, ...] with a mask."""
    longest = max(len(own) for own in labels)
    y = torch.zeros(len(labels), longest, dtype=torch.long)
    mask = torch.zeros(len(labels), longest, dtype=torch.bool)
    for i, own in enumerate(labels):
        y[i, : len(own)], mask[i, : len(own)] = own, True
    if mask.all():
        return Examples(x.unflatten(0, mask.shape), y, mask)
    wide = x.new_zeros(*mask.shape, *x.shape[1:])
    wide[mask] = x
    return Examples(wide, y, mask)


class Episodes:
    """Draws few-shot tasks from a source.

    `way` and `shot` may be ranges `(low, high)`: each task then draws its own, and a batch is padded to its
    largest task, with `mask` False on the padding. Support and query never share an example. Classes are uniform over
    those of the source, without repetition and in random order; so are a class's examples.

    Since a task depends on its seed alone, a stream is resumed without any state, a frozen list of tasks is a list of
    seeds, and `batch([seed])` draws a task again.

    With `global_labels` a class has the same label in every task: its place in the source. A source of functions has no
    classes: leave `way` out; `shot` and `query` then count the examples of a task.

    With `speakers` all examples of a task are by this number of speakers, drawn anew for each task (and by a few more
    where a class would have too few examples), so that the voice does not give the class away.

    Raises:
        UpstairsError: a way below 1 or above the number of classes, a shot or query below 1, a class with too few
            examples, or `speakers` where the source does not know them.
    """

    def __init__(
        self, source: Source, *, way: Range | None = None, shot: Range, query: int = 15, global_labels: bool = False,
        speakers: int | None = None,
    ) -> None:  # fmt: skip
        self.global_labels, self.speakers = global_labels, speakers
        self.source, self.shot, self.query = source, as_range(shot), query
        self.way = None if way is None else as_range(way)
        check_task_sizes(source, self.way, self.shot, query)
        self._rows = [torch.from_numpy(rows) for rows in source.rows]
        self._turns = torch.tensor(source.turns) if any(source.turns) else None
        self._voices = voices(source) if speakers else []

    @property
    def task_kind(self) -> TaskKind:
        """The kind of the tasks: classification, regression, or (with one class) generation."""
        return "generation" if self.way == (1, 1) else self.source.task_kind

    @property
    def largest_way(self) -> int | None:
        """The largest number of classes in a task; None for regression."""
        return None if self.way is None else self.way[1]

    def stream(
        self, size: int, *, seed: int = 0, steps: int | None = None, start: int = 0,
        device: torch.device | str | None = None,
    ) -> Iterator[Task]:  # fmt: skip
        """Yields a batch of `size` tasks for each meta-step, those that a training run with this seed receives.

            for batch in episodes.stream(4, seed=0, steps=1000): ...

        Args:
            steps: the number of meta-steps; None never ends.
            start: the first step, to resume a training: batches from there to `steps` follow.
            device: where the batches are moved, such as "cuda"; None leaves them on the CPU.

        Raises:
            UpstairsError: a size below 1.
        """
        if size < 1:
            raise UpstairsError(f"`size` is {size}: it must be at least 1")
        numbers = itertools.count(start) if steps is None else range(start, steps)
        tasks = (self.batch(stream_seeds(seed, number, size)) for number in numbers)
        return tasks if device is None else (map_tensors(lambda t: t.to(device, non_blocking=True), b) for b in tasks)

    def batch(self, seeds: Sequence[int], among: Sequence[int] | None = None) -> Task:
        """Returns the tasks of these seeds, stacked: x [task, n, *feature], y and mask [task, n].

        Args:
            among: the classes to draw from; None is all.
        """
        if self.source.functions:
            return draw_functions(self.source.functions, seeds, shot=self.shot, query=self.query)
        drawn = [self._draw(seed, among) for seed in seeds]
        parts = []
        for part in (0, 1):
            rows, classes, labels, noise = zip(*(task[part] for task in drawn), strict=True)
            parts.append(padded(self._read(torch.cat(rows), torch.cat(classes), noise), labels))
        return Task(*parts)

    def labels(self, seed: int) -> list[str]:
        """Returns the names of the classes 0, 1, ... of the task with this seed."""
        return [self.source.labels[k] for k in self.classes(seed)]

    def texts(self, seed: int) -> list[list[str]]:
        """Returns the support texts and the query texts of the task with this seed; empty where inputs are no texts."""
        drawn = self._draw(seed, None) if self.source.texts else []
        return [[self.source.texts[row] for row in part[0].tolist()] for part in drawn]

    def classes(self, seed: int, among: Sequence[int] | None = None) -> list[int]:
        """Returns the task's classes as places in the source, in the order of their labels."""
        return self._begin(seed, among)[2].tolist()

    def _begin(self, seed: int, among: Sequence[int] | None) -> tuple[torch.Generator, int, Tensor]:
        generator = dice(seed)
        ranges = (self.way or (0, 0), self.shot)
        way, shot = (int(torch.randint(low, high + 1, (), generator=generator)) for low, high in ranges)
        classes = torch.randperm(len(self.source if among is None else among), generator=generator)[:way]
        return generator, shot, classes if among is None else torch.tensor(among)[classes]

    def _draw(self, seed: int, among: Sequence[int] | None) -> list[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
        """Returns rows, classes, labels and augmentation noise, for support and query."""
        generator, shot, classes = self._begin(seed, among)
        there = [self._rows[c] for c in classes.tolist()]
        if self.speakers:
            there = by_few(
                there, [self._voices[c] for c in classes.tolist()], self.speakers, shot + self.query, generator
            )
        chosen = [rows[torch.randperm(len(rows), generator=generator)] for rows in there]
        parts = []
        for start, count in ((0, shot), (shot, self.query)):
            rows = torch.cat([r[start : start + count] for r in chosen])
            label = torch.arange(len(classes)).repeat_interleave(count)
            own, augment = classes[label], self.source.augment
            noise = augment.draw(len(rows), generator) if augment else None
            parts.append((rows, own, own if self.global_labels else label, noise))
        return parts

    def _read(self, rows: Tensor, classes: Tensor, noise: tuple[Tensor | None, ...]) -> Tensor:
        x = self.source.gather(rows, self._turns[classes] if self._turns is not None else None)
        if self.source.augment is None:
            return x
        return self.source.augment.apply(x, torch.cat([n for n in noise if n is not None]))
