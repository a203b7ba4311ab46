"""Mixtures of data sets: each task comes from one of them, drawn by given weights."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from upstairs.core import Examples, Task
from upstairs.data.episodes import Episodes, Range
from upstairs.data.seeds import dice
from upstairs.data.source import Source
from upstairs.data.splits import Splits
from upstairs.data.text.hashed import TextFormat
from upstairs.errors import UpstairsError

SIGN = " + "  # between the names of data sets


def mixed_splits(splits: Sequence[Splits], weights: Sequence[float] | None = None) -> Splits:
    """Mixes the training, validation and test classes of several data sets."""
    return Splits(*(mixed([one[place] for one in splits], weights) for place in range(3)))


def mixed(sources: Sequence[Source], weights: Sequence[float] | None = None) -> Source:
    """Returns a source whose tasks each come from one of these sources, with the given shares (equal by default).

    Its classes are those of all sources; the groups of classes are the data sets.

    Raises:
        UpstairsError: fewer than two sources, weights that do not fit them, inputs of different shapes.
    """
    if len(sources) < 2:
        raise UpstairsError(f"{len(sources)} data set is no mixture: name two or more, as `glyphs{SIGN}my_letters/`")
    shares = list(weights or [1.0] * len(sources))
    if len(shares) != len(sources) or min(shares) <= 0:
        raise UpstairsError(f"`mix` has the weights {shares} for {len(sources)} data sets: give one above 0 for each")
    if functions := [source.name for source in sources if source.functions]:
        raise UpstairsError(f"{functions[0]} is regression and has no classes to mix with: train on it alone")
    parts = _alike(sources)
    for part in parts[1:]:
        if part.feature_shape != parts[0].feature_shape:
            raise UpstairsError(
                f"{parts[0].name} has inputs of shape {parts[0].feature_shape} and {part.name} of shape "
                f"{part.feature_shape}: one network reads both only where they are alike"
            )
    return Source(
        SIGN.join(part.name for part in parts),
        parts[0].inputs,
        tuple(f"{part.name}/{label}" for part in parts for label in part.labels),
        tuple(rows for part in parts for rows in part.rows),
        tuple(part.name for part in parts for _ in part.labels),
        format=parts[0].format,
        parts=tuple(parts),
        weights=tuple(share / sum(shares) for share in shares),
    )


def _alike(sources: Sequence[Source]) -> list[Source]:
    """Pads sources of texts to the same number of words; other sources stay as they are."""
    formats = [source.format for source in sources]
    if not all(isinstance(format, TextFormat) for format in formats):
        return list(sources)
    words = max(source.feature_shape[0] for source in sources)
    return [
        replace(s, inputs=np.pad(s.inputs, ((0, 0), (0, words - s.feature_shape[0]), (0, 0))), format=TextFormat(words))
        for s in sources
    ]


class Mixture(Episodes):
    """Draws tasks from a mixed source: a task's seed decides its data set, and then the task as `Episodes` does.

    With `global_labels` the classes of each data set are numbered after those of the ones before it.
    """

    def __init__(
        self, source: Source, *, way: Range | None = None, shot: Range, query: int = 15, global_labels: bool = False,
        speakers: int | None = None,
    ) -> None:  # fmt: skip
        how = {"way": way, "shot": shot, "query": query, "global_labels": global_labels, "speakers": speakers}
        self.parts = [Episodes(part, **how) for part in source.parts]
        first = self.parts[0]
        self.source, self.global_labels = source, global_labels
        self.way, self.shot, self.query = first.way, first.shot, query
        self.first_class = np.cumsum([0, *map(len, source.parts)])[:-1].tolist()

    def part(self, seed: int) -> int:
        """Returns the place of the data set that the task with this seed comes from."""
        generator = dice(seed ^ 0x5EED)
        return int(torch.multinomial(torch.tensor(self.source.weights), 1, generator=generator))

    def batch(self, seeds: Sequence[int], among: Sequence[int] | None = None) -> Task:
        """Returns the tasks of these seeds, stacked and padded to the largest."""
        if among is not None:
            raise UpstairsError("`hard` draws classes of all data sets together: leave it out with several of them")
        drawn = []
        for seed in seeds:
            place = self.part(seed)
            task = self.parts[place].batch([seed])
            if self.global_labels:
                task = Task(*(part._replace(y=part.y + self.first_class[place]) for part in task))
            drawn.append(task)
        return Task(*(_stack(examples) for examples in zip(*drawn, strict=True)))

    def labels(self, seed: int) -> list[str]:
        """Returns the names of the classes 0, 1, ... of the task with this seed."""
        return self.parts[self.part(seed)].labels(seed)

    def texts(self, seed: int) -> list[list[str]]:
        """Returns the support texts and the query texts of the task with this seed; empty where inputs are no texts."""
        return self.parts[self.part(seed)].texts(seed)

    def classes(self, seed: int, among: Sequence[int] | None = None) -> list[int]:
        """Returns the task's classes as places in the mixed source."""
        place = self.part(seed)
        return [self.first_class[place] + k for k in self.parts[place].classes(seed)]


def _stack(parts: Sequence[Examples]) -> Examples:
    widest = max(part.mask.shape[1] for part in parts)

    def padded(leaf: Tensor) -> Tensor:
        return F.pad(leaf, (*(0, 0) * (leaf.ndim - 2), 0, widest - leaf.shape[1]))

    return Examples(*(torch.cat([padded(leaf) for leaf in leaves]) for leaves in zip(*parts, strict=True)))


def episodes_of(
    source: Source, *, way: Range | None = None, shot: Range, query: int = 15, global_labels: bool = False,
    speakers: int | None = None,
) -> Episodes:  # fmt: skip
    """Returns the `Mixture` of a mixed source, or the `Episodes` of any other."""
    make = Mixture if source.parts else Episodes
    return make(source, way=way, shot=shot, query=query, global_labels=global_labels, speakers=speakers)
