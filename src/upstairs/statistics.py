"""Intervals over tasks, and of paired differences on the same tasks."""

from collections.abc import Collection, Mapping
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from upstairs.errors import UpstairsError


class Interval(NamedTuple):
    """A mean and half the width of its 95% interval."""

    mean: float
    ci95: float

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f}% ± {100 * self.ci95:.1f}"


def interval(values: ArrayLike) -> Interval:
    """Student's t interval of the mean of independent values (one per task); infinite for a single value."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return Interval(float(values.mean()), float("inf"))
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return Interval(float(values.mean()), float(half))


def paired_interval(first: ArrayLike, second: ArrayLike) -> Interval:
    """The mean of first - second over the same tasks, with Student's paired t interval (Student 1908).

    Tasks differ in difficulty, and what both find hard falls out of the difference: it is far narrower than that of
    two intervals put together.

    Raises:
        UpstairsError: not as many values in one as in the other.
    """
    first, second = (np.asarray(values, dtype=np.float64) for values in (first, second))
    if len(first) != len(second):
        raise UpstairsError(
            f"{len(first)} and {len(second)} tasks cannot be paired: score both learners on the same frozen tasks"
        )
    return interval(first - second)


def paired_differences(
    scores: Mapping[str, ArrayLike], *, less_is_better: bool = False, baselines: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Every two contestants, the better one first: the difference of their means, and its paired interval.

    Args:
        scores: each task's score, by contestant; all on the same tasks.
        baselines: contestants that are not compared with each other.

    Returns:
        `first`, `second`, `difference` (first - second), `ci95`, and `clear`: does the interval leave out zero?
    """
    sign = 1 if less_is_better else -1
    order = sorted(scores, key=lambda name: sign * interval(scores[name]).mean)
    found = []
    for first, second in combinations(order, 2):
        if first in baselines and second in baselines:
            continue
        mean, ci95 = paired_interval(scores[first], scores[second])
        found.append(
            {"first": first, "second": second, "difference": mean, "ci95": ci95, "clear": bool(abs(mean) > ci95)}
        )
    return found
