"""Typed contents of a report's dict (scores, settings, results, series), and how they are written."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from upstairs.errors import UpstairsError
from upstairs.statistics import write_interval

Record = Mapping[str, Any]


class Score(NamedTuple):
    """A mean accuracy over tasks, 0 to 1, and the half width of its 95% interval where one is known."""

    accuracy: float
    ci95: float | None = None

    def __str__(self) -> str:
        return write_interval(*self)


class Setting(NamedTuple):
    """A kind of task: data, split, way and shot."""

    data: str
    split: str
    way: int
    shot: int

    def __str__(self) -> str:
        return f"{self.way}-way {self.shot}-shot"


class Result(NamedTuple):
    """One learner in one setting. `score` is None where the run gave no finite accuracy.

    A transductive learner that was also scored one query at a time has a second result for that.
    """

    learner: str
    name: str  # the learner's, with "one query at a time" for an inductive result
    setting: Setting
    score: Score | None
    transductive: bool
    baselines: dict[str, Score]
    record: Record

    @property
    def best_baseline(self) -> tuple[str, Score] | None:
        """The name and score of the strongest baseline on the same tasks."""
        return max(self.baselines.items(), key=lambda item: item[1].accuracy, default=None)


@dataclass(frozen=True)
class Series:
    """A learner's scores by place: a number of steps, shots or seconds, or a group of classes.

    `learner` fixes its colour; `name` is its label.
    """

    learner: str
    name: str
    scores: dict[Any, Any]  # values are `Score`, or in a figure of times the time with its earliest and latest


def read_number(value: Any) -> float | None:
    """Returns the value as a finite float; None where it is missing, NaN or infinite."""
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else None


def read_score(record: Record | None) -> Score | None:
    """Returns the score of a record; None where it has no finite accuracy."""
    accuracy = read_number((record or {}).get("accuracy"))
    return None if accuracy is None or record is None else Score(accuracy, read_number(record.get("ci95")))


def read_scores(records: Mapping[str, Record | None]) -> dict[str, Score]:
    """Returns the finite scores of records by name."""
    return {name: score for name, record in records.items() if (score := read_score(record))}


def read_results(report: Record) -> list[Result]:
    """Returns all results of a report, in its order.

    Raises:
        UpstairsError: one has no learner, way or shot.
    """
    results = []
    for record in report.get("results") or ():
        if missing := [key for key in ("learner", "way", "shot") if record.get(key) is None]:
            raise UpstairsError(f"a result of the report has no '{missing[0]}': give learner, way and shot with each")
        data, split = (str(record.get(key) or report.get(key) or "") for key in ("data", "split"))
        setting, learner = Setting(data, split, int(record["way"]), int(record["shot"])), str(record["learner"])
        baselines = read_scores(record.get("baselines") or {})
        transductive = bool(record.get("transductive"))
        result = Result(learner, learner, setting, read_score(record), transductive, baselines, record)
        results.append(result)
        if record.get("inductive"):
            alone = {"name": f"{learner}, one query at a time", "score": read_score(record["inductive"])}
            results.append(result._replace(**alone, transductive=False))
    return results


def read_series(entry: Record, key: str, points: str = "points") -> Series:
    """Returns the scores of `entry[points]` by `key`: increasing numbers, or groups, the best first.

    Points without a finite accuracy or number are left out.
    """
    found = [
        (str(point[key]) if key == "group" else read_number(point.get(key)), read_score(point))
        for point in entry.get(points) or ()
    ]
    scores = {place: score for place, score in found if place is not None and score is not None}
    learner = str(entry.get("learner") or "the learner")
    order = sorted(scores, key=(lambda place: -scores[place].accuracy) if key == "group" else float)
    return Series(learner, learner, {place: scores[place] for place in order})


def find_best(results: Sequence[Result]) -> Result | None:
    """Returns the result with the highest accuracy; a transductive one only where there is no other."""
    scored = [result for result in results if result.score]
    return max(scored, key=lambda result: (not result.transductive, result.score), default=None)


def find_headline(results: Sequence[Result]) -> list[Result]:
    """Returns the best result in each main setting: the fewest shots, and 5 and 20 ways where they were measured."""
    scored = [result for result in results if result.score]
    same = [result.setting for result in scored if result.setting[:2] == scored[0].setting[:2]]
    fewest = min((setting.shot for setting in same), default=0)
    settings = sorted({setting for setting in same if setting.shot == fewest})
    settings = [setting for setting in settings if setting.way in (5, 20)] or settings[:2]
    best = (find_best([r for r in results if r.setting == setting]) for setting in settings)
    return [result for result in best if result is not None]


def compare_scores(score: Score, other: Score) -> int:
    """Returns 1 where `score` is above `other` by more than their combined interval, -1 where below, else 0."""
    difference = score.accuracy - other.accuracy
    margin = math.hypot(score.ci95 or 0.0, other.ci95 or 0.0)
    return (difference > margin) - (difference < -margin)


def write_duration(seconds: float) -> str:
    """Writes seconds as '12 s', '8 min 12 s' or '1 h 5 min'."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def write_list(words: Sequence[str]) -> str:
    """Joins words as 'a', 'a and b', 'a, b and c'."""
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


def write_name(name: str) -> str:
    """Writes the name of a baseline as 'nearest centroid'."""
    return name.replace("_", " ").strip()
