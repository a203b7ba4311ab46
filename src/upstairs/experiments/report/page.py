"""Rendering of a report's dict as one standalone HTML page, without scripts or requests."""

import textwrap
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from upstairs.errors import UpstairsError
from upstairs.experiments.report import panels, sentences
from upstairs.experiments.report.figures import encode_picture, is_picture
from upstairs.experiments.report.values import (
    Record,
    Result,
    Score,
    find_best,
    find_headline,
    read_number,
    read_results,
    write_duration,
    write_list,
    write_name,
)
from upstairs.storage import write_atomically


class ResultRow(NamedTuple):
    """A row of the results: for each setting the text of the cell, and whether it is the best learner's."""

    name: str
    baseline: bool
    transductive: bool
    cells: list[tuple[str, bool]]


def write_report(report: Mapping[str, Any], path: Path) -> Path:
    """Writes the page of a report atomically and returns its path. Missing folders are made.

    Raises:
        UpstairsError: `render` refuses the report, or the file cannot be written.
    """
    write_atomically(Path(path), render(report).encode())
    return Path(path)


def render(report: Mapping[str, Any]) -> str:
    """Returns the page of a report as HTML; sections without content, or episodes without pictures, are left out.

    Raises:
        UpstairsError: title, command or versions is missing; a result has no learner, way or shot.
    """
    for key in ("title", "command", "versions"):
        if key not in report:
            raise UpstairsError(
                f"the report has no '{key}': give title, command and versions, even of a run that failed"
            )
    results = read_results(report)
    words, order, best = (
        sentences.choose_words(str(report.get("data") or "")),
        panels.make_order(report),
        find_headline(results),
    )
    settings = sorted({r.setting for r in results}, key=lambda s: (s.data, s.split, s.shot, s.way))
    several = len({setting[:2] for setting in settings}) > 1
    return (
        make_environment()
        .get_template("page.html")
        .render(
            report=report,
            headline=sentences.say_headline(best[0], str(report.get("trained_on") or ""), words) if best else "",
            best=best,
            chances=[Score(1 / result.setting.way) for result in best],
            order=order,
            bars_say=sentences.say_bars(best),
            episode=make_episode(report.get("episode") or {}),
            drawings=[
                one for one in report.get("drawings") or () if all(is_picture(r["support"]) for r in one["rows"])
            ],
            differences=panels.draw_differences(report.get("differences") or (), order),
            curves=panels.draw_training(report, order),
            depth=panels.draw_depth(report, order),
            breadth=panels.draw_breadth(report, order, words),
            words=words,
            columns=[f"{s.data} {s.split}, {s}" if several else str(s) for s in settings],
            rows=compare_results(results, settings),
            results=results,
            verdicts=sentences.say_verdicts(results),
            facts=list_facts(report, results),
        )
        .replace(" ± ", "\u00a0±\u00a0")  # no line ends within an interval
    )


@cache
def make_environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("upstairs.experiments", "report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "duration": write_seconds, "number": number_text, "score": panels.score_text, "baseline": write_name,
        "picture": lambda x: encode_picture(x.clip(0, 1) if hasattr(x, "clip") else x),
    }  # fmt: skip
    return environment


def compare_results(results: Sequence[Result], settings: Sequence[Any]) -> list[ResultRow]:
    """Returns rows of learners and then baselines, with a column for each setting and the best learner marked.

    A baseline measured with several learners has one row where its scores agree, else one for each.
    """
    best = {s: find_best([result for result in results if result.setting == s]) for s in settings}
    rows = []
    for learner in dict.fromkeys(result.name for result in results):
        own = {result.setting: result for result in results if result.name == learner}
        cells = [(panels.score_text(own[s].score), own[s] is best[s]) if s in own else ("–", False) for s in settings]
        rows.append(ResultRow(learner, False, any(result.transductive for result in own.values()), cells))
    for name in dict.fromkeys(name for result in results for name in result.baselines):
        transductive = any(((r.record.get("baselines") or {}).get(name) or {}).get("transductive") for r in results)
        merged: list[tuple[list[str], dict[Any, Score]]] = []  # learners, and the baseline's scores with them
        for learner in dict.fromkeys(result.learner for result in results if name in result.baselines):
            own = {r.setting: r.baselines[name] for r in results if r.learner == learner and name in r.baselines}
            same = (m for m in merged if all(m[1].get(setting, score) == score for setting, score in own.items()))
            learners, scores = next(same, ([], {}))
            if not learners:
                merged.append((learners, scores))
            learners.append(learner)
            scores.update(own)
        for learners, scores in merged:
            text = write_name(name) + (f" (with {', '.join(learners)})" if len(merged) > 1 else "")
            cells = [(panels.score_text(scores.get(s)), False) for s in settings]
            rows.append(ResultRow(text, True, transductive, cells))
    return rows


def make_episode(episode: Record) -> dict[str, Any] | None:
    """Returns the support examples and the predicted queries of one task, by class; None if they cannot be shown."""
    support, queries = episode.get("support") or (), episode.get("query") or ()
    items = (*support, *queries)
    if not items or not all("text" in item or is_picture(item["image"]) for item in items):
        return None
    count = 1 + max(int(item[key]) for item in items for key in ("label", "predicted") if key in item)
    labels = [str(label) for label in episode.get("classes") or ()]
    labels += [f"class {k + 1}" for k in range(len(labels), count)]
    rows: list[dict[str, Any]] = [{"label": label, "support": [], "queries": []} for label in labels]
    for item in support:
        rows[int(item["label"])]["support"].append(show_example(item))
    for item in queries:  # marked in words too, not by colour alone
        right, sure = item.get("predicted") == item["label"], read_number(item.get("probability"))
        taken = "" if item.get("predicted") is None else labels[int(item["predicted"])]
        says = f"{'right' if right else 'wrong'}: {labels[int(item['label'])]} taken for {taken or 'nothing'}"
        says += f", {100 * sure:.0f}% sure" if sure else ""
        tile = {"picture": show_example(item), "right": right, "taken": taken, "says": says}
        rows[int(item["label"])]["queries"].append(tile)
    learner, shot = str(episode.get("learner") or ""), episode.get("shot")
    return {
        "rows": rows,
        "texts": any("text" in item for item in support),
        "says": sentences.say_episode(learner, queries, labels, shot) if queries else "",
        "examples": {row["label"]: row["support"][0] for row in rows if row["support"]},
        "task": f"{len(labels)}-way" + (f" {shot}-shot" if shot else ""),
    }


def show_example(item: Record) -> str:
    """Returns a picture's address, or a shortened text."""
    return textwrap.shorten(item["text"], 90, placeholder=" …") if "text" in item else encode_picture(item["image"])


def list_facts(report: Record, results: Sequence[Result]) -> dict[str, str]:
    """Returns the known facts about the report: data, tasks, seeds, time and machine."""
    seeds, tasks = (
        sorted({result.record[key] for result in results if result.record.get(key) is not None})
        for key in ("seed", "tasks")
    )
    facts = {
        "data": " ".join(str(report[key]) for key in ("data", "split") if report.get(key)),
        "test tasks": write_list([f"{count:,}" for count in tasks]),
        "seeds": write_list([str(seed) for seed in seeds]),
        "made": write_time(str(report.get("created") or "")),
        "took": write_seconds(report.get("seconds")) if report.get("seconds") else "",
        "machine": str(report.get("machine") or ""),
    }
    return {name: value for name, value in facts.items() if value}


def write_time(text: str) -> str:
    """Writes an ISO time to the minute; other text is unchanged."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{time:%Y-%m-%d %H:%M} {time.tzname() or ''}".strip()


def write_seconds(value: Any) -> str:
    seconds = read_number(value)
    return "–" if seconds is None else write_duration(seconds)


def number_text(value: Any) -> str:
    """Writes an integer with thousands separators; other values as text."""
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
