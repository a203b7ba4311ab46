"""The panels of depth that ask for more than one number of a run: the gap, times to an accuracy, several trainings."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from markupsafe import Markup

from upstairs.experiments.report.depth_sentences import say_classes, say_gap, say_length, say_times
from upstairs.experiments.report.figures import draw_dots, draw_lines, draw_times
from upstairs.experiments.report.panels import Panel, arrange, group_entries, list_scores, write_budget
from upstairs.experiments.report.tables import Table
from upstairs.experiments.report.values import (
    Record,
    Series,
    read_groups,
    read_score,
    read_series,
    write_duration,
    write_name,
)

TARGETS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
MOST = 6  # targets in the figure


def draw_gap(entries: Sequence[Record], order: Mapping[str, int]) -> list[Panel]:
    """Accuracy on classes that were trained on and on new ones (overfitting): a panel for each way and shot."""
    panels = []
    for task, group in group_entries(entries, ("way", "shot")).items():
        places = list(dict.fromkeys(str(p["group"]) for entry in group for p in entry.get("points") or ()))
        series = []
        for one in arrange([read_groups(entry) for entry in group], order):
            series.append(replace(one, scores={at: one.scores[at] for at in places if at in one.scores}))
        if not series or len(places) < 2 or not {places[0], places[-1]} <= set(series[0].scores):
            continue
        alt = "Dot plot: accuracy on tasks of training, validation and test classes, with 95% intervals."
        svg = draw_dots(series, name=f"gap-{len(panels)}", alt=alt, order=order)
        says = say_gap(series, places[0], places[-1])
        panels.append(
            Panel(f"Overfitting: classes seen and new{task}", Markup(svg), says, list_scores(series, "tasks of"))
        )
    return panels


def draw_classes(entries: Sequence[Record], order: Mapping[str, int]) -> list[Panel]:
    """Accuracy against the number of training classes (too little data), on new classes and on those of training."""
    panels = []
    for task, group in group_entries(entries, ("way", "shot")).items():
        series = arrange([read_series(entry, "points", "classes") for entry in group], order)
        if not series:
            continue
        trained = {one.learner: one for one in (read_series(entry, "trained", "classes") for entry in group)}
        seen = [
            replace(trained[one.learner], learner="", name=f"{one.name} on its own")
            for one in series
            if trained[one.learner].scores
        ]
        alt = "Line chart: accuracy against the number of training classes, with 95% intervals."
        axes = ("training classes", "accuracy")
        name = f"classes-{len(panels)}"
        svg = draw_lines([*series, *seen], axes=axes, name=name, alt=alt, order=order, band=False)
        says = say_classes(series, trained, write_budget(group))
        panels.append(
            Panel(f"More training classes{task}", Markup(svg), says, list_scores([*series, *seen], "classes"))
        )
    return panels


def draw_length(entries: Sequence[Record], order: Mapping[str, int]) -> list[Panel]:
    """Accuracy against the length of the inner loop, in training and in use."""
    panels = []
    for task, group in group_entries(entries, ("way", "shot")).items():
        series = arrange([read_series(entry, "points", "length") for entry in group], order)
        if series:
            alt = "Line chart: accuracy against inner-loop length, with 95% intervals."
            axes, name = ("inner steps, in training and in use", "accuracy on new tasks"), f"length-{len(panels)}"
            svg = draw_lines(series, axes=axes, name=name, alt=alt, order=order, band=False)
            says = say_length(series, write_budget(group))
            panels.append(Panel(f"A longer inner loop{task}", Markup(svg), says, list_scores(series, "inner steps")))
    return panels


def draw_waits(runs: Sequence[Record], plain: Record, order: Mapping[str, int]) -> list[Panel]:
    """How long meta-training takes to an accuracy on the validation tasks (slow training).

    Args:
        plain: opponents without meta-training on the same tasks, by name.
    """
    series = arrange([read_series(run, "history", "seconds") for run in runs], order)
    scores = {name: score for name, record in plain.items() if (score := read_score(record))}
    best = max(scores.items(), key=lambda item: item[1].accuracy, default=None)
    targets = sorted({*TARGETS, *([best[1].accuracy] if best else [])})
    waits = {one.name: {t: w for t in targets if (w := find_wait(one, t))} for one in series}
    # an accuracy that everyone has at the first validation says nothing, unless it is the opponent's
    own_first = {one.name: min(one.scores) for one in series}
    telling = [t for t in targets if any(t in own and own[t][0] > own_first[name] for name, own in waits.items())]
    plain_too = [t for t in targets if best and t == best[1].accuracy and any(t in own for own in waits.values())]
    shown = sorted({*telling[-MOST:], *plain_too})
    if not shown:
        return []
    first, own = series[0], waits[series[0].name]
    missed = [t for t in targets if t not in own][:1]
    title = {t: f"{100 * t:.0f}%" for t in shown}
    if best:
        title[best[1].accuracy] = f"{best[1].accuracy:.1%}, {write_name(best[0])}"
    rows = {title[t]: {one.name: waits[one.name].get(t) for one in series} for t in shown}
    alt = "Dot plot: seconds of meta-training to each validation accuracy, with the interval from that of the accuracy."
    svg = draw_times(series, rows, name="waits", alt=alt, order=order)
    plain_one = None if best is None else (write_name(best[0]), best[1])
    least = best[1].accuracy if best else 0.0
    above = {t: w[0] for t, w in own.items() if t in shown and t >= least}
    says = say_times(first.name, above, missed, plain_one, first=min(first.scores))
    table = Table(
        ["validation accuracy", *(one.name for one in series)],
        [[row, *(write_wait(cells[one.name]) for one in series)] for row, cells in rows.items()],
    )
    return [Panel("Time to an accuracy", Markup(svg), says, table)]


Wait = tuple[float, float, float | None]  # seconds: of the mean, at the soonest, at the latest (None: not by the end)


def find_wait(series: Series[float], target: float) -> Wait | None:
    """When a curve is first at the target: its mean, the upper end of its interval, and the lower end."""

    def first(sign: int) -> float | None:
        return next((x for x, s in series.scores.items() if s.accuracy + sign * (s.ci95 or 0.0) >= target), None)

    when, soon, late = first(0), first(1), first(-1)
    return None if when is None or soon is None else (when, soon, late)


def write_wait(wait: Wait | None) -> str:
    """'1 min (50 s to 2 min)'."""
    if wait is None:
        return "–"
    when, soon, late = wait
    return f"{write_duration(when)} ({write_duration(soon)} to {'the end' if late is None else write_duration(late)})"
