"""Confidence intervals over tasks, and of paired differences on the same tasks."""

import math
from collections.abc import Collection, Mapping
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from upstairs.errors import UpstairsError


class Interval(NamedTuple):
    """A mean and half the width of its 95% interval."""

    mean: float
    ci95: float

    def __str__(self) -> str:
        return write_interval(*self)


def write_interval(
    mean: float, ci95: float | None = None, *, percent: bool = True, digits: int | None = 1, signed: bool = False
) -> str:
    """Returns a mean with half the width of its 95% interval, if known: '96.8% ± 0.3'.

    Args:
        percent: the mean is a share from 0 to 1.
        digits: the number of decimals; None: three significant digits of the mean and two of the interval.
        signed: the mean is a difference, of shares in points: '+1.2 ± 0.3'.
    """
    scale, places = (100 if percent else 1), [".3g", ".2g"] if digits is None else [f".{digits}f"] * 2
    text = f"{scale * mean:{'+' * signed}{places[0]}}{'%' * (percent and not signed)}"
    return text if ci95 is None or not math.isfinite(ci95) else f"{text} ± {scale * ci95:{places[1]}}"


def interval(values: ArrayLike) -> Interval:
    """Returns Student's t interval of the mean of independent values (one per task); infinite for a single value."""
    from scipy import special  # late: a fifth of a second

    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return Interval(float(values.mean()), float("inf"))
    half = special.stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / np.sqrt(len(values))
    return Interval(float(values.mean()), float(half))


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """Returns the 95% interval of a share, `right` of `total` independent examples (Wilson 1927)."""
    z2 = 1.959964**2
    half = (z2 * right * (total - right) / total + z2**2 / 4) ** 0.5
    low, high = ((right + z2 / 2 + sign * half) / (total + z2) for sign in (-1, 1))
    return max(0.0, float(low)), min(1.0, float(high))


def paired_interval(first: ArrayLike, second: ArrayLike) -> Interval:
    """Returns the mean of first - second over the same tasks, with Student's paired t interval (Student 1908).

    The difficulty of a task cancels out, so the interval is far narrower than for separate tasks.

    Raises:
        UpstairsError: different numbers of values.
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
    """Returns the difference of means and its paired interval for every two learners, the better one first.

    Args:
        scores: each task's score, by learner; all on the same tasks.
        baselines: learners that are not compared with each other.

    Returns:
        `first`, `second`, `difference` (first - second), `ci95`, and `clear` (the interval excludes zero).
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
