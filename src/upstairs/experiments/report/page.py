"""The report: a dict becomes one standalone HTML page, with no script and no request to anywhere."""

import textwrap
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from upstairs.errors import UpstairsError
from upstairs.experiments.report.bounds import draw_bounds
from upstairs.experiments.report.drawings import make_drawings
from upstairs.experiments.report.figures import encode_picture, is_picture
from upstairs.experiments.report.panels import (
    draw_breadth,
    draw_classes,
    draw_curves,
    draw_differences,
    draw_gap,
    draw_length,
    draw_matrices,
    draw_players,
    draw_shots,
    draw_steps,
    draw_waits,
    make_order,
)
from upstairs.experiments.report.sentences import (
    choose_words,
    say_bars,
    say_episode,
    say_headline,
    say_held_out,
    say_marks,
    say_verdicts,
)
from upstairs.experiments.report.tables import list_results, list_runs, make_comparison, write_seconds
from upstairs.experiments.report.values import (
    Record,
    Result,
    Score,
    find_headline,
    read_number,
    read_results,
    write_list,
    write_name,
)
from upstairs.storage import write_atomically


class Bar(NamedTuple):
    name: str
    score: Score
    kind: str  # learner, baseline or chance: a CSS class
    series: int = 0  # which of the page's colours, for a learner


class Tile(NamedTuple):
    """One query of the episode: its picture, what it was taken for, and the words for who cannot see it."""

    picture: str
    right: bool
    taken: str
    says: str


class Row(NamedTuple):
    """One class of the episode: its name, its support pictures, its queries."""

    label: str
    support: list[str]
    queries: list[Tile]


def write_report(report: Mapping[str, Any], path: Path) -> Path:
    """Write the page of a report, whole or not at all, and return its path. Missing folders are made.

    Raises:
        UpstairsError: `render` refuses the report, or the file cannot be written.
    """
    write_atomically(Path(path), render(report).encode())
    return Path(path)


def render(report: Mapping[str, Any]) -> str:
    """The page of a report, as HTML. A section whose part of the report is missing or empty is left out, and so
    is an episode whose inputs are no pictures.

    Raises:
        UpstairsError: title, command or versions is missing; a result has no learner, way or shot.
    """
    for key in ("title", "command", "versions"):
        if key not in report:
            raise UpstairsError(
                f"the report has no '{key}': give title, command and versions, even of a run that failed"
            )
    results, runs = read_results(report), report.get("runs") or ()
    words, order = choose_words(str(report.get("data") or "")), make_order(report)
    best = find_headline(results)
    environment = Environment(
        loader=PackageLoader("upstairs.experiments", "report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("page.html").render(
        title=report["title"],
        headline=say_headline(best[0], str(report.get("trained_on") or ""), words) if best else "",
        headline_scores=[str(bar.score) for bar in make_bars(best[0], order)[:-1]] if best else [],
        bars=[(result.setting.way, result.setting.shot, make_bars(result, order)) for result in best],
        bars_say=say_bars(best),
        episode=make_episode(report.get("episode") or {}),
        drawings=make_drawings(report.get("drawings") or ()),
        differences=draw_differences(report.get("differences") or (), order),
        curves=[
            *draw_curves(runs, order),
            *draw_waits(runs, report.get("times") or {}, order),
            *draw_players(runs),
        ],
        depth=[
            *draw_bounds(report.get("bounds") or ()),
            *draw_shots(report.get("depth_shots") or (), order),
            *draw_steps(report.get("depth_steps") or (), order),
            *draw_length(report.get("depth_length") or (), order),
            *draw_gap(report.get("depth_gap") or (), order),
            *draw_classes(report.get("depth_classes") or (), order),
        ],
        breadth=[
            *draw_breadth(report.get("breadth") or (), order, words),
            *draw_matrices(report.get("matrices") or ()),
        ],
        words=words,
        comparison=make_comparison(results) if results else None,
        verdicts=say_verdicts(results),
        marks=say_marks(results),
        held_out=say_held_out(results),
        all_results=list_results(results),
        all_runs=list_runs(runs) if runs else None,
        command=str(report["command"]),
        facts=list_facts(report, results),
        versions=report["versions"] or {},
    )


def make_bars(result: Result, order: Mapping[str, int]) -> list[Bar]:
    """A learner, its baselines from the strongest, and guessing."""
    baselines = sorted(result.baselines.items(), key=lambda item: -item[1].accuracy)
    bars = [Bar(result.name, result.score, "learner", order[result.learner] % 6)] if result.score else []
    bars += [Bar(write_name(name), score, "baseline") for name, score in baselines]
    return [*bars, Bar("guessing", Score(1 / result.setting.way), "chance")]


def make_episode(episode: Record) -> dict[str, Any] | None:
    """The support examples and the judged queries of one task, by class; None where there is nothing to look at."""
    support, queries = episode.get("support") or (), episode.get("query") or ()
    if not (support or queries) or not all("text" in i or is_picture(i["image"]) for i in (*support, *queries)):
        return None
    count = 1 + max(int(item[key]) for item in (*support, *queries) for key in ("label", "predicted") if key in item)
    labels = [str(label) for label in episode.get("classes") or ()]
    labels += [f"class {k + 1}" for k in range(len(labels), count)]
    rows = [Row(label, [], []) for label in labels]
    for item in support:
        rows[int(item["label"])].support.append(show_example(item))
    for item in queries:
        rows[int(item["label"])].queries.append(make_tile(item, labels))
    learner, shot = str(episode.get("learner") or ""), episode.get("shot")
    return {
        "rows": rows,
        "texts": any("text" in item for item in support),
        "says": say_episode(learner, queries, labels, shot) if queries else "",
        "examples": {row.label: row.support[0] for row in rows if row.support},
        "task": f"{len(labels)}-way" + (f" {shot}-shot" if shot else ""),
    }


def show_example(item: Record) -> str:
    """A picture's address, or a text that is not too long to be looked at."""
    return textwrap.shorten(item["text"], 90, placeholder=" …") if "text" in item else encode_picture(item["image"])


def make_tile(item: Record, labels: Sequence[str]) -> Tile:
    """One query, judged: never by colour alone."""
    right = item.get("predicted") == item["label"]
    taken = "" if item.get("predicted") is None else labels[int(item["predicted"])]
    sure = read_number(item.get("probability"))
    says = f"{'right' if right else 'wrong'}: {labels[int(item['label'])]} taken for {taken or 'nothing'}"
    return Tile(show_example(item), right, taken, says + (f", {100 * sure:.0f}% sure" if sure else ""))


def list_facts(report: Record, results: Sequence[Result]) -> dict[str, str]:
    """When, where and from what the report was made; only what is known."""
    seeds = sorted({result.record["seed"] for result in results if result.record.get("seed") is not None})
    tasks = sorted({result.record["tasks"] for result in results if result.record.get("tasks") is not None})
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
    """An ISO time to the minute; anything else as it is."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{time:%Y-%m-%d %H:%M} {time.tzname() or ''}".strip()
