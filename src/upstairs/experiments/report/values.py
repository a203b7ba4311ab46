"""What a report holds, read from its dict: scores, settings, results and series; and how each is written."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from upstairs.errors import UpstairsError

Record = Mapping[str, Any]
Place = TypeVar("Place", float, str)  # where a score was taken: a number of steps, shots or seconds; or a group


class Score(NamedTuple):
    """A mean accuracy over tasks, 0 to 1, and the half width of its 95% interval where one is known."""

    accuracy: float
    ci95: float | None = None

    def __str__(self) -> str:
        interval = "" if self.ci95 is None else f"\u00a0±\u00a0{100 * self.ci95:.1f}"
        return f"{100 * self.accuracy:.1f}%{interval}"


class Setting(NamedTuple):
    """What was asked: which data, how many classes in a task, how many examples of each."""

    data: str
    split: str
    way: int
    shot: int

    def __str__(self) -> str:
        return f"{self.way}-way {self.shot}-shot"


class Result(NamedTuple):
    """One learner in one setting. `score` is None where the run gave no finite accuracy.

    A transductive learner that was also scored one query at a time has a second result for that, with `alone` True.
    """

    learner: str
    setting: Setting
    score: Score | None
    transductive: bool
    baselines: dict[str, Score]
    record: Record
    alone: bool = False

    @property
    def name(self) -> str:
        return f"{self.learner}, one query at a time" if self.alone else self.learner


@dataclass(frozen=True)
class Series(Generic[Place]):
    """A learner's scores at several places. `learner` fixes its looks; `name` is what it is called."""

    learner: str
    name: str
    scores: dict[Place, Score]


def read_number(value: Any) -> float | None:
    """The value as a finite float; None where it is missing, NaN or infinite."""
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def read_score(record: Record) -> Score | None:
    """The score of a record; None where it has no finite accuracy."""
    accuracy = read_number(record.get("accuracy"))
    return None if accuracy is None else Score(accuracy, read_number(record.get("ci95")))


def read_results(report: Record) -> list[Result]:
    """All results, in the order given.

    Raises:
        UpstairsError: one has no learner, way or shot.
    """
    results = []
    for record in report.get("results") or ():
        data, split = (str(record.get(key) or report.get(key) or "") for key in ("data", "split"))
        scores = {name: read_score(value or {}) for name, value in (record.get("baselines") or {}).items()}
        if missing := [key for key in ("learner", "way", "shot") if record.get(key) is None]:
            raise UpstairsError(f"a result of the report has no '{missing[0]}': give learner, way and shot with each")
        result = Result(
            learner=str(record["learner"]),
            setting=Setting(data, split, int(record["way"]), int(record["shot"])),
            score=read_score(record),
            transductive=bool(record.get("transductive")),
            baselines={name: score for name, score in scores.items() if score is not None},
            record=record,
        )
        results.append(result)
        if record.get("inductive"):
            results.append(result._replace(score=read_score(record["inductive"]), transductive=False, alone=True))
    return results


def read_series(entry: Record, points: str, key: str) -> Series[float]:
    """The scores of `entry[points]` at increasing `key`; points without a finite accuracy or place are left out."""
    scores = {}
    for point in entry.get(points) or ():
        place, score = read_number(point.get(key)), read_score(point)
        if place is not None and score is not None:
            scores[place] = score
    learner = str(entry.get("learner") or "the learner")
    return Series(learner, learner, dict(sorted(scores.items())))


def read_groups(entry: Record) -> Series[str]:
    """The scores by group, best first; groups without a finite accuracy are left out."""
    found = {str(point["group"]): read_score(point) for point in entry.get("points") or ()}
    scores = [(group, score) for group, score in found.items() if score is not None]
    learner = str(entry.get("learner") or "the learner")
    return Series(learner, learner, dict(sorted(scores, key=lambda item: -item[1].accuracy)))


def find_best(results: Sequence[Result]) -> Result | None:
    """The highest accuracy, a transductive result only where there is no other: the two are not comparable."""
    scored = [result for result in results if result.score]
    return max(scored, key=lambda result: (not result.transductive, result.score), default=None)


def find_headline(results: Sequence[Result]) -> list[Result]:
    """The best result in each main setting."""
    best = (find_best([r for r in results if r.setting == setting]) for setting in find_main_settings(results))
    return [result for result in best if result is not None]


def find_best_baseline(result: Result) -> tuple[str, Score] | None:
    """The strongest baseline beside a result: its name and score."""
    return max(result.baselines.items(), key=lambda item: item[1].accuracy, default=None)


def find_main_settings(results: Sequence[Result]) -> list[Setting]:
    """The settings of the headline: the fewest shots there are, and of them 5 and 20 ways where they were measured."""
    scored = [result.setting for result in results if result.score]
    if not scored:
        return []
    same = [setting for setting in scored if setting[:2] == scored[0][:2]]
    fewest = min(setting.shot for setting in same)
    settings = sorted({setting for setting in same if setting.shot == fewest})
    return [setting for setting in settings if setting.way in (5, 20)] or settings[:2]


def compare(score: Score, other: Score) -> int:
    """1 where `score` is above `other` by more than their intervals together, -1 where below, 0 where neither."""
    difference = score.accuracy - other.accuracy
    margin = math.hypot(score.ci95 or 0.0, other.ci95 or 0.0)
    return (difference > margin) - (difference < -margin)


def write_duration(seconds: float) -> str:
    """Seconds as a reader says them: '12 s', '8 min 12 s', '1 h 5 min'."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def write_list(words: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


def write_name(name: str) -> str:
    """A baseline as it is read: 'nearest centroid'."""
    return name.replace("_", " ").strip()
