"""What an adapted model knows: its examples, and the learner adapted to them; examples can be added and removed."""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from hashlib import blake2b
from threading import RLock
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from upstairs.core import Examples, Learner, check_measured, evaluating
from upstairs.engine.leave_one_out import leave_one_out, temperature
from upstairs.errors import UpstairsError
from upstairs.learners import threshold


class LeftOut(NamedTuple):
    """The support examples, each predicted by the learner adapted to all others."""

    logits: Float64[Tensor, "n way"]
    checked: list[int]  # the places in the support set of these examples: a class with one example cannot be checked
    temperature: float


@dataclass
class Fit:
    """A learner adapted to the examples of a moment; it does not change."""

    learner: Learner
    state: Any
    support: Examples | None  # None: they were left out of the file
    labels: list[str]
    names: list[str]  # of the examples; empty: they have none
    threshold: float | None = None
    temperature: float | None = None  # None: not measured
    left_out: LeftOut | None = None  # computed when it is needed


class Example(NamedTuple):
    """One example of the support set."""

    row: Float[Tensor, "*feature"]
    label: str
    name: str


class Knowledge:
    """The examples of a model, and the learner adapted to them: computed when it is needed, once for many changes.

    The classes are numbered in the order in which they came. After any changes a learner that is adapted in closed form
    answers as if it had been adapted to the examples at once, up to the order of summation.

    Threads may read and change it: a change is seen whole or not at all.

    Args:
        fit: the learner, adapted.
        unknown: the share of known inputs that `threshold` refuses, which is computed again after a change.
        calibrated: measure the temperature of the probabilities by leaving examples out.
    """

    def __init__(self, fit: Fit, *, unknown: float | None = None, calibrated: bool = False) -> None:
        self.unknown, self.calibrated = unknown, calibrated
        self._fit: Fit | None = fit
        self._lock = RLock()
        self._labels = list(fit.labels)
        self._learner = fit.learner
        self._last = fit  # the one before the changes
        self._examples: dict[int, Example] | None = None  # by a number that grows; None: not needed so far
        self._places: dict[bytes, list[int]] = {}  # the numbers of the examples, by a digest of their rows

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            return self.__dict__ | {"_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_lock": RLock()}

    @property
    def fit(self) -> Fit:
        """The learner adapted to the examples there are now."""
        with self._lock:
            if self._fit is None:
                self._fit = self._adapted()
            return self._fit

    def left_out(self, fit: Fit) -> LeftOut:
        """Returns the examples of a fit, each predicted without itself.

        Raises:
            UpstairsError: the examples are not in the file, or no class has two.
        """
        with self._lock:
            if fit.left_out is None:
                fit.left_out = _leave_out(fit)
            return fit.left_out

    def temperature(self, fit: Fit) -> float:
        """Returns what calibrates the probabilities: logits are divided by it; 1 where nothing can be left out."""
        if self.calibrated and fit.temperature is None:
            left_out = fit.support is not None and _has_pairs(fit.support)
            fit.temperature = self.left_out(fit).temperature if left_out else 1.0
        return fit.temperature or 1.0

    def add(self, rows: Float[Tensor, "n *feature"], labels: Sequence[str], names: Sequence[str]) -> None:
        with self._lock:
            examples = self._remembered()
            for row, label, name in zip(rows, labels, names, strict=True):
                self._put(examples, Example(row, label, name))
            self._changed()

    def remove(self, rows: Iterable[Float[Tensor, "*feature"]], names: Sequence[str]) -> None:
        """Removes examples by their rows; all or none.

        Raises:
            UpstairsError: a row that is none of the examples, or fewer than two classes would be left.
        """
        with self._lock:
            examples, numbers = self._remembered(), set[int]()
            for row, name in zip(rows, names, strict=True):
                known = [number for number in self._places.get(_digest(row), ()) if number not in numbers]
                if not known:
                    raise UpstairsError(f"{name} is none of the model's examples: nothing was removed")
                numbers.add(known[0])
            self._drop(examples, numbers)

    def remove_class(self, label: str) -> None:
        with self._lock:
            examples = self._remembered()
            numbers = {number for number, one in examples.items() if one.label == label}
            if not numbers:
                raise UpstairsError(f"the model knows no class '{label}': it knows {', '.join(self._labels[:8])}")
            self._drop(examples, numbers)

    def correct(self, row: Float[Tensor, "*feature"], label: str, name: str) -> None:
        """Gives an example its right label: a new one is added, one of another label changes it."""
        with self._lock:
            examples = self._remembered()
            numbers = set(self._places.get(_digest(row), ()))
            if any(examples[number].label == label for number in numbers) and len(numbers) == 1:
                return
            if numbers:
                self._check_left({n: one for n, one in examples.items() if n not in numbers}, also={label})
                self._forget(examples, numbers)
            self._put(examples, Example(row, label, name))
            self._changed()

    def _remembered(self) -> dict[int, Example]:
        if self._examples is None:
            fit = self.fit
            if fit.support is None:
                raise UpstairsError("the examples were left out of the model's file: adapt it anew, to all of them")
            self._examples = {}
            names = fit.names or [f"example {i}" for i in range(len(fit.support.y))]
            for row, k, name in zip(fit.support.x, fit.support.y.tolist(), names, strict=True):
                self._put(self._examples, Example(row, fit.labels[k], name))
        return self._examples

    def _put(self, examples: dict[int, Example], one: Example) -> None:
        number = next(reversed(examples), -1) + 1
        examples[number] = one
        self._places.setdefault(_digest(one.row), []).append(number)

    def _drop(self, examples: dict[int, Example], numbers: set[int]) -> None:
        self._check_left({number: one for number, one in examples.items() if number not in numbers})
        self._forget(examples, numbers)
        self._changed()

    def _check_left(self, left: dict[int, Example], *, also: AbstractSet[str] = frozenset()) -> None:
        if len(classes := {one.label for one in left.values()} | also) < 2:
            raise UpstairsError(
                f"the model would know {len(classes)} class after that, and needs two: add another one before"
            )

    def _forget(self, examples: dict[int, Example], numbers: set[int]) -> None:
        for number in numbers:
            key = _digest(examples.pop(number).row)
            self._places[key].remove(number)

    def _changed(self) -> None:
        if self._fit is not None:
            self._last, self._fit = self._fit, None

    def _adapted(self) -> Fit:
        assert self._examples is not None
        there = dict.fromkeys(one.label for one in self._examples.values())
        self._labels = [label for label in self._labels if label in there]
        self._labels += [label for label in there if label not in set(self._labels)]
        numbers = {label: k for k, label in enumerate(self._labels)}
        every = sorted(self._examples.values(), key=lambda one: numbers[one.label])  # stable
        support = Examples(torch.stack([one.row for one in every]), torch.tensor([numbers[one.label] for one in every]))
        learner = self._learner.for_way(len(self._labels))
        bar = self._last.threshold
        with evaluating(learner):
            check_measured(learner)
            state = learner.adapt(support)
        if self.unknown is not None and len(self._labels) > 2:
            bar = threshold(learner, support, share=self.unknown)
        return Fit(learner, state, support, list(self._labels), [one.name for one in every], bar)


def _digest(row: Tensor) -> bytes:
    return blake2b(row.contiguous().numpy().tobytes(), digest_size=16).digest()


def _has_pairs(support: Examples) -> bool:
    return bool((support.y.bincount() > 1).any())


def _leave_out(fit: Fit) -> LeftOut:
    if fit.support is None:
        raise UpstairsError("the examples were left out of the model's file: adapt it anew with them to check it")
    if not _has_pairs(fit.support):
        raise UpstairsError("every class has one example, and none can be left out: add a second one of some classes")
    logits = leave_one_out(fit.learner, fit.support).double()
    checked = logits.isfinite().all(-1) if logits.isnan().any() else torch.ones(len(logits), dtype=torch.bool)
    logits = logits[checked]
    return LeftOut(logits, checked.nonzero()[:, 0].tolist(), temperature(logits, fit.support.y[checked]))
