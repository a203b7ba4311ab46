"""The tables of the report: learners against baselines, every result, every run."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from upstairs.experiments.report.values import (
    Record,
    Result,
    Score,
    Setting,
    find_best,
    read_number,
    write_duration,
    write_name,
)


class Table(NamedTuple):
    """Headers and rows of text; the first cell of a row is its header."""

    headers: list[str]
    rows: list[list[str]]


class Cell(NamedTuple):
    text: str
    best: bool


class Row(NamedTuple):
    """One learner or baseline; `cells` in the order of the comparison's columns."""

    name: str
    baseline: bool
    transductive: bool
    cells: list[Cell]


class Comparison(NamedTuple):
    columns: list[str]
    rows: list[Row]


def make_comparison(results: Sequence[Result]) -> Comparison:
    """Learners and then baselines down, settings across; the best learner of each column is marked.

    A baseline measured beside several learners has one row where its numbers agree, and one beside each where not.
    """
    settings = list(dict.fromkeys(result.setting for result in results))
    settings.sort(key=lambda setting: (setting.data, setting.split, setting.shot, setting.way))
    several = len({setting[:2] for setting in settings}) > 1
    columns = [f"{s.data} {s.split}, {s}" if several else str(s) for s in settings]
    best = {s: find_best([result for result in results if result.setting == s]) for s in settings}
    rows = []
    for learner in dict.fromkeys(result.name for result in results):
        own = {result.setting: result for result in results if result.name == learner}
        cells = [Cell(write_score(own[s].score), own[s] is best[s]) if s in own else Cell("–", False) for s in settings]
        rows.append(Row(learner, False, any(result.transductive for result in own.values()), cells))
    for name in dict.fromkeys(name for result in results for name in result.baselines):
        beside_all = [(result.record.get("baselines") or {}).get(name) or {} for result in results]
        transductive = any(score.get("transductive") for score in beside_all)
        for beside, scores in merge_baselines(name, results):
            text = write_name(name) + (f" (beside {beside})" if beside else "")
            rows.append(Row(text, True, transductive, [Cell(write_score(scores.get(s)), False) for s in settings]))
    return Comparison(columns, rows)


def merge_baselines(name: str, results: Sequence[Result]) -> list[tuple[str, dict[Setting, Score]]]:
    """The rows of one baseline: beside which learner ('' for all of them), and its scores."""
    merged: list[tuple[list[str], dict[Setting, Score]]] = []
    for learner in dict.fromkeys(result.learner for result in results if name in result.baselines):
        scores = {r.setting: r.baselines[name] for r in results if r.learner == learner and name in r.baselines}
        for learners, others in merged:
            if all(others.get(setting, score) == score for setting, score in scores.items()):
                learners.append(learner)
                others.update(scores)
                break
        else:
            merged.append(([learner], scores))
    return [("" if len(merged) == 1 else ", ".join(learners), scores) for learners, scores in merged]


def list_results(results: Sequence[Result]) -> Table:
    """Every result with all that is needed to repeat it."""
    rows = []
    for result in results:
        record, setting = result.record, result.setting
        numbers = [setting.way, setting.shot, *(record.get(key) for key in ("query", "tasks", "seed"))]
        rows.append(
            [
                result.name,
                " ".join(part for part in (setting.data, setting.split) if part) or "–",
                *(write_cell(number) for number in numbers),
                write_score(result.score),
                "yes †" if result.transductive else "no",
                write_seconds(record.get("seconds")),
            ]
        )
    headers = ["learner", "data", "way", "shot", "query", "tasks", "seed", "accuracy ± 95%", "transductive", "time"]
    return Table(headers, rows)


def list_runs(runs: Sequence[Record]) -> Table:
    """Every meta-training run: its size, length and settings."""
    rows = [
        [
            str(run.get("learner", "–")),
            write_cell(run.get("parameters")),
            write_cell(run.get("steps")),
            write_seconds(run.get("seconds")),
            ", ".join(f"{key}={value}" for key, value in (run.get("settings") or {}).items()) or "–",
        ]
        for run in runs
    ]
    return Table(["learner", "meta-parameters", "steps", "time", "settings"], rows)


def list_differences(pairs: Sequence[Record], words: Mapping[str, str]) -> Table:
    """Every two contestants on the same tasks: the mean of the first minus that of the second, in points."""
    rows = [
        [
            f"{words[pair['first']]} − {words[pair['second']]}",
            write_difference(pair),
            "yes" if pair.get("clear") else "no",
        ]
        for pair in pairs
    ]
    return Table(["first − second", "points ± 95%", "clear of zero"], rows)


def write_difference(pair: Record) -> str:
    half = read_number(pair.get("ci95"))
    return f"{100 * pair['difference']:+.1f}" + ("" if half is None else f"\u00a0±\u00a0{100 * half:.1f}")


def write_score(score: Score | None) -> str:
    return "–" if score is None else str(score)


def write_cell(value: Any) -> str:
    """A number with thousands apart; anything else as it is."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else str(value)


def write_seconds(value: Any) -> str:
    seconds = read_number(value)
    return "–" if seconds is None else write_duration(seconds)
