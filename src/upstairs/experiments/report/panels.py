"""The panels of the page: a figure, the sentence under it, and the table of its numbers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from markupsafe import Markup

from upstairs.experiments.report import sentences
from upstairs.experiments.report.figures import POINTS, TIME, draw_dots, draw_lines
from upstairs.experiments.report.values import (
    Record,
    Score,
    Series,
    find_headline,
    read_number,
    read_results,
    read_score,
    read_scores,
    read_series,
    write_duration,
    write_name,
)
from upstairs.statistics import write_interval

BASELINES = frozenset({"nearest_centroid", "tf_idf", "scratch"})  # in addition to those of the results
BY_LEARNER = ("runs", "depth_steps", "depth_shots", "depth_length", "depth_classes", "depth_gap", "breadth")
Order = Mapping[str, int]


class Table(NamedTuple):
    """Headers and rows of text; the first cell of a row is its header."""

    headers: list[str]
    rows: list[list[str]]


class Panel(NamedTuple):
    title: str
    svg: Markup
    says: str
    table: Table


def make_order(report: Record) -> dict[str, int]:
    """Returns each learner's place, which fixes its colour, the headline's learner first; baselines have none."""
    results = read_results(report)
    baselines = BASELINES.union(name for result in results for name in result.baselines)
    names = [result.learner for result in (*find_headline(results), *results)]
    entries = (entry for part in BY_LEARNER for entry in report.get(part) or ())
    names += [name for entry in entries if (name := str(entry.get("learner", ""))) not in baselines]
    return {name: place for place, name in enumerate(dict.fromkeys(names))}


def draw_training(report: Record, order: Order) -> list[Panel]:
    """Draws learning curves by time and by steps, the time to an accuracy, and the losses of several players."""
    runs, panels = report.get("runs") or (), []
    for unit, key in (("time", "seconds"), ("steps", "step")):
        series = order_series([read_series(run, key, "history") for run in runs], order)
        if series:
            axis, size = "meta-training steps", 1
            if unit == "time":
                longest = max(x for one in series for x in one.scores)
                word, size = ("hours", 3600) if longest > 3 * 3600 else ("minutes", 60) if longest > 180 else (key, 1)
                axis = f"{word} of meta-training"
            drawn = [replace(one, scores={x / size: score for x, score in one.scores.items()}) for one in series]
            alt = f"Line chart: validation accuracy against {axis}, with 95% intervals."
            look = {"axes": (axis, "validation accuracy"), "name": f"curve-{key}", "alt": alt, "many": True}
            table = list_scores(series, "seconds" if unit == "time" else "steps")
            svg = draw_lines(drawn, order=order, **look)
            panels.append(Panel(f"Learning curve, by {unit}", Markup(svg), sentences.say_curve(series, key), table))
    return [*panels, *draw_waits(runs, report.get("times") or {}, order), *draw_players(runs)]


def draw_depth(report: Record, order: Order) -> list[Panel]:
    """Draws accuracy by shots, adaptation steps, inner-loop length and training classes, and the gap to new classes."""

    def shots(series: list[Series], _: str) -> str:
        learners = [one for one in series if one.learner in order]
        return sentences.say_shots(learners, [one for one in series if one.learner not in order])

    return [
        *draw_bounds(report.get("bounds") or ()),
        *draw_scores(
            report, "depth_shots", "shot", order, title="More examples", head="shots", say=shots, keys=("way",),
            axis="examples of each class (shots)",
        ),
        *draw_scores(
            report, "depth_steps", "steps", order, title="More steps", head="steps",
            axis="adaptation steps in a new task", say=lambda series, _: sentences.say_steps(series),
        ),
        *draw_scores(
            report, "depth_length", "length", order, title="A longer inner loop", head="inner steps",
            axis="inner steps, in training and in use", say=sentences.say_length,
        ),
        *draw_scores(
            report, "depth_gap", "group", order, title="Overfitting: classes seen and new", head="tasks of",
            axis="tasks of training, validation and test classes", say=lambda series, _: sentences.say_gap(series),
        ),
        *draw_scores(
            report, "depth_classes", "classes", order, title="More training classes", head="classes",
            axis="training classes", say=sentences.say_classes,
        ),
    ]  # fmt: skip


def draw_breadth(report: Record, order: Order, words: sentences.Words) -> list[Panel]:
    """Draws accuracy by group, and the matrices of training data by test data."""
    groups = draw_scores(
        report, "breadth", "group", order, title=f"By {words.group}", head=words.group, axis=f"each {words.group}",
        say=lambda series, _: sentences.say_breadth(series, words),
    )  # fmt: skip
    matrices = [matrix for matrix in report.get("matrices") or () if matrix.get("rows")]
    return [*groups, *(draw_matrix(matrix, number) for number, matrix in enumerate(matrices))]


def draw_scores(
    report: Record, part: str, key: str, order: Order, *, title: str, head: str, axis: str,
    say: Callable[[list[Series], str], str], keys: tuple[str, ...] = ("way", "shot"),
) -> Iterator[Panel]:  # fmt: skip
    """Yields a panel for each kind of task, with accuracy by a number (such as shots) or by groups.

    Points on the training classes, where entries have them, are lines in grey. The gap keeps the order of its groups,
    and has no panel unless the first series has the first and the last of them.

    Args:
        part, key: the name of the entries in the report, and of the number or group of their points.
        head: the header of its column in the table.
        axis: the label of the axis.
        say: a function from the series and the training budget to the sentence under the figure.
    """
    for number, (task, group) in enumerate(group_entries(report.get(part) or (), keys).items()):
        series = order_series([read_series(entry, key) for entry in group], order)
        if part == "depth_gap":
            places = list(dict.fromkeys(str(point["group"]) for entry in group for point in entry.get("points") or ()))
            series = [replace(one, scores={at: one.scores[at] for at in places if at in one.scores}) for one in series]
            if len(places) < 2 or not series or not {places[0], places[-1]} <= set(series[0].scores):
                continue
        if not series:
            continue
        trained = {one.learner: one.scores for one in (read_series(entry, key, "trained") for entry in group)}
        series += [Series("", f"{one.name} on its own", trained[one.learner]) for one in series if trained[one.learner]]
        look = {"name": f"{part.removeprefix('depth_')}-{number}", "order": order}
        if key == "group":
            svg = draw_dots(series, alt=f"Dot plot: accuracy on {axis}, with 95% intervals.", **look)
        else:
            alt = f"Line chart: accuracy against {axis}, with 95% intervals."
            svg = draw_lines(
                series, axes=(axis, "accuracy" if any(trained.values()) else "accuracy on new tasks"), alt=alt, **look
            )
        yield Panel(title + task, Markup(svg), say(series, write_budget(group)), list_scores(series, head))


def draw_matrix(matrix: Record, number: int) -> Panel:
    """Draws the accuracy of runs (rows) on kinds of data (columns), as dots and as a table."""
    rows, kinds = matrix["rows"], matrix.get("data") or ()
    learners = {row["name"] for row in rows if row["trained_on"]}
    one = learners.pop() if len(learners) == 1 else ""  # in the title then, so that the legend has room for kinds
    full = [f"{row['name']} on {row['trained_on']}" if row["trained_on"] else row["name"] for row in rows]
    names = [row["trained_on"] or row["name"] for row in rows] if one else full
    scores = [[read_score(cell) for cell in row["cells"]] for row in rows]
    series = [
        Series(name, name, {kind: score for kind, score in zip(kinds, own, strict=True) if score})
        for name, own in zip(names, scores, strict=True)
    ]
    alt = "Dot plot: accuracy of each run on each kind of data, with 95% intervals."
    places = {name: place for place, (name, row) in enumerate(zip(names, rows, strict=True)) if row["trained_on"]}
    svg = draw_dots(series, name=f"matrix-{number}", alt=alt, order=places)
    means = [what for what in ("mean", "own", "other", "worst") if any(row.get(what) is not None for row in rows)]
    words = {"own": "mean of its own kinds", "other": "mean of other kinds"}
    cells = [
        [name + " †" * row["transductive"], *map(score_text, own)]
        + [score_text(None if row.get(what) is None else Score(row[what])) for what in means]
        for name, row, own in zip(names, rows, scores, strict=True)
    ]
    table = Table(["trained on ↓, tested on →", *kinds, *(words.get(what, what) for what in means)], cells)
    title = f"{one} trained" if one else "Trained"
    title += f" on rows, tested on columns, {matrix['way']}-way {matrix['shot']}-shot"
    return Panel(title, Markup(svg), sentences.say_matrix(full, rows, matrix["tasks"], write_budget([matrix])), table)


def draw_differences(entries: Sequence[Record], order: Order) -> list[Panel]:
    """Draws the paired differences of the best learner to every other contestant, for each way and shot."""
    panels = []
    for entry in entries:
        baselines = entry.get("baselines") or ()
        pairs = [pair for pair in entry.get("pairs") or () if read_number(pair.get("difference")) is not None]
        names = list(dict.fromkeys(str(pair[k]) for pair in pairs for k in ("first", "second")))
        best = next((name for name in names if name not in baselines), None)
        words = {name: write_name(name) if name in baselines else name for name in names}
        ahead = {}
        for pair in pairs:
            half = read_number(pair.get("ci95"))
            if pair["first"] == best:
                ahead[words[pair["second"]]] = Score(pair["difference"], half)
            elif pair["second"] == best:
                ahead[words[pair["first"]]] = Score(-pair["difference"], half)
        if best is None:
            continue
        alt = f"Dot plot: {best} minus each other contestant on the same tasks, in points, with 95% intervals."
        svg = draw_dots(
            [Series(best, best, ahead)], name=f"differences-{len(panels)}", alt=alt, order=order, axis=POINTS
        )
        rows = [
            [
                f"{words[pair['first']]} − {words[pair['second']]}",
                write_interval(pair["difference"], read_number(pair.get("ci95")), signed=True),
                "yes" if pair.get("clear") else "no",
            ]
            for pair in pairs
        ]
        title = f"{best} minus the others, {entry.get('way')}-way {entry.get('shot')}-shot"
        table = Table(["first − second", "points ± 95%", "clear of zero"], rows)
        panels.append(Panel(title, Markup(svg), sentences.say_differences(best, ahead, len(pairs)), table))
    return panels


def order_series(series: Sequence[Series], order: Order) -> list[Series]:
    """Returns the series that have scores, with unique names: the headline's learner, others by score, baselines."""
    full: list[Series] = []
    for one in series:
        if one.scores:
            name = one.name if one.learner in order else write_name(one.name)
            same = sum(other.learner == one.learner for other in full)
            full.append(replace(one, name=f"{name} ({same + 1})" if same else name))

    def rank(one: Series) -> tuple[bool, bool, float]:
        mean = sum(score.accuracy for score in one.scores.values()) / len(one.scores)
        return one.learner not in order, order.get(one.learner) != 0, -mean

    return sorted(full, key=rank)


def group_entries(entries: Sequence[Record], keys: tuple[str, ...]) -> dict[str, list[Record]]:
    """Groups entries into figures by the end of the title: ', 5-way 1-shot'."""
    groups: dict[str, list[Record]] = {}
    for entry in entries:
        parts = [f"{entry[key]}-{key}" for key in keys if entry.get(key) is not None]
        groups.setdefault(f", {' '.join(parts)}" if parts else "", []).append(entry)
    return groups


def write_budget(group: Sequence[Record]) -> str:
    """Returns ' for 1 min' where all trainings of a figure had the same budget, else ''."""
    minutes = {entry.get("minutes") for entry in group}
    known = read_number(minutes.pop()) if len(minutes) == 1 else None
    return "" if known is None else f" for {write_duration(60 * known)}"


def score_text(score: Score | None) -> str:
    return "–" if score is None else str(score)


def list_scores(series: Sequence[Series], head: str, write: Callable[[Any], str] = score_text) -> Table:
    """Returns the numbers of a figure: a row for each place, a column for each series."""
    places = list(dict.fromkeys(at for one in series for at in one.scores))
    if all(isinstance(at, float) for at in places):
        places.sort()
    rows = [
        [f"{at:,.10g}" if isinstance(at, float) else at, *(write(one.scores.get(at)) for one in series)]
        for at in places
    ]
    return Table([head, *(one.name for one in series)], rows)


TARGETS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
MOST = 6  # targets in the figure
Wait = tuple[float, float, float | None]  # seconds: of the mean, at the soonest, at the latest (None: not by the end)


def draw_waits(runs: Sequence[Record], plain: Record, order: Order) -> list[Panel]:
    """Draws the time of meta-training to reach an accuracy on validation tasks.

    Args:
        plain: baselines without meta-training on the same tasks, by name.
    """
    series = order_series([read_series(run, "seconds", "history") for run in runs], order)
    best = max(read_scores(plain).items(), key=lambda item: item[1].accuracy, default=None)
    bar = best[1].accuracy if best else 0.0
    targets = sorted({*TARGETS, *([bar] if best else [])})
    waits = {one.name: {t: w for t in targets if (w := find_wait(one, t))} for one in series}
    # a target that everyone reaches by the first validation is not shown, unless it is the baseline's
    own_first = {one.name: min(one.scores) for one in series}
    telling = [t for t in targets if any(t in own and own[t][0] > own_first[name] for name, own in waits.items())]
    shown = sorted({*telling[-MOST:], *(t for own in waits.values() for t in own if best and t == bar)})
    if not shown:
        return []
    title = {t: f"{100 * t:.0f}%" for t in shown}
    if best:
        title[bar] = f"{bar:.1%}, {write_name(best[0])}"
    times = [
        Series(one.learner, one.name, {title[t]: wait for t, wait in waits[one.name].items() if t in shown})
        for one in series
    ]
    rows = [title[t] for t in shown]
    alt = "Dot plot: seconds of meta-training to each validation accuracy, with the interval from that of the accuracy."
    svg = draw_dots(times, name="waits", alt=alt, order=order, axis=TIME, groups=rows[::-1])
    own = waits[series[0].name]
    says = sentences.say_times(
        series[0].name,
        {t: wait[0] for t, wait in own.items() if t in shown and t >= bar},
        [t for t in targets if t not in own][:1],
        None if best is None else (write_name(best[0]), best[1]),
        first=min(series[0].scores),
    )
    table = list_scores(times, "validation accuracy", write_wait)
    table.rows.sort(key=lambda row: rows.index(row[0]))
    return [Panel("Time to an accuracy", Markup(svg), says, table)]


def find_wait(series: Series, target: float) -> Wait | None:
    """Returns the first times at which the mean, the upper and the lower end of the interval reach the target."""

    def first(sign: int) -> float | None:
        return next((x for x, s in series.scores.items() if s.accuracy + sign * (s.ci95 or 0.0) >= target), None)

    when, soon, late = first(0), first(1), first(-1)
    return None if when is None or soon is None else (when, soon, late)


def write_wait(wait: Wait | None) -> str:
    """Writes a wait as '1 min (50 s to 2 min)'."""
    if wait is None:
        return "–"
    when, soon, late = wait
    return f"{write_duration(when)} ({write_duration(soon)} to {'the end' if late is None else write_duration(late)})"


def draw_players(runs: Sequence[Record]) -> list[Panel]:
    """Draws the losses of the players of each run that has several (such as a GAN), against meta-steps."""
    panels = []
    for run in runs:
        learner, history = str(run.get("learner") or "the learner"), run.get("history") or ()
        names = dict.fromkeys(key.removeprefix("loss_") for point in history for key in point if "loss_" in key)
        series = []
        for name in names:
            points = ((read_number(p.get("step")), read_number(p.get(f"loss_{name}"))) for p in history)
            series.append(Series(name, name, {x: Score(y) for x, y in points if x is not None and y is not None}))
        if len(series) > 1 and all(one.scores for one in series):
            look = {"axes": ("meta-training steps", "loss"), "name": f"players-{len(panels)}", "percent": False}
            order, alt = {one.name: k for k, one in enumerate(series)}, f"Line chart: the losses of {learner}."
            svg = draw_lines(series, order=order, alt=alt, many=True, **look)
            table = list_scores(series, "meta-steps", lambda score: f"{score.accuracy:.3g}" if score else "")
            panels.append(Panel(f"The players of {learner}", Markup(svg), sentences.say_players(series), table))
    return panels


def draw_bounds(entries: Sequence[Record]) -> list[Panel]:
    """Draws bounds in nats per example against shots, a line for each generative learner.

    Bars are intervals of the paired difference from the fewest shots, since tasks differ far more than shots do.
    """
    if not entries:
        return []
    names = [str(entry["learner"]) for entry in entries]
    values, gains = (
        [{float(point["shot"]): Score(*point[what]) for point in entry["points"]} for entry in entries]
        for what in ("bound", "more")
    )
    series = [
        Series(name, name, {x: Score(own[x].accuracy, more[x].ci95) for x in own})
        for name, own, more in zip(names, values, gains, strict=True)
    ]
    svg = draw_lines(
        series, axes=("examples of the class (shots)", "nats per example"), name="bounds", percent=False,
        order={name: place for place, name in enumerate(names)},
        alt="Line chart: bound on the log-likelihood against shots.",
    )  # fmt: skip
    columns: list[Series] = []
    for name, own, more in zip(names, values, gains, strict=True):
        later = {x: gain for x, gain in more.items() if x > min(own)}
        columns += [Series(name, name, own), Series(name, f"more than at {min(own):g}, paired", later)]
    table = list_scores(columns, "shots", lambda s: write_interval(*s, percent=False, digits=2) if s else "")
    return [Panel("More examples", Markup(svg), sentences.say_bounds(names, values, gains), table)]
