"""The panels of the page: a figure, the sentence under it, and the table of its numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from upstairs.experiments.report.figures import (
    add_legend,
    choose_style,
    draw_dots,
    draw_lines,
    draw_times,
    drawing,
    scale_numbers,
    to_svg,
)
from upstairs.experiments.report.sentences import (
    Words,
    say_breadth,
    say_classes,
    say_curve,
    say_differences,
    say_gap,
    say_length,
    say_matrix,
    say_shots,
    say_steps,
    say_times,
)
from upstairs.experiments.report.tables import Table, list_differences, write_score
from upstairs.experiments.report.values import (
    Place,
    Record,
    Score,
    Series,
    find_headline,
    read_groups,
    read_number,
    read_results,
    read_score,
    read_series,
    write_duration,
    write_name,
)

BASELINES = frozenset({"nearest_centroid", "tf_idf", "scratch"})  # what they are called where no result names them


class Panel(NamedTuple):
    title: str
    svg: Markup
    says: str
    table: Table


def make_order(report: Record) -> dict[str, int]:
    """Each learner's place, which fixes its colour in all figures, the headline's first; baselines have none."""
    results = read_results(report)
    headline = [result.learner for result in find_headline(results)]
    baselines = BASELINES.union(name for result in results for name in result.baselines)
    names = headline + [result.learner for result in results]
    for part in ("runs", "depth_steps", "depth_shots", "depth_length", "depth_classes", "depth_gap", "breadth"):
        learners = (str(entry.get("learner", "")) for entry in report.get(part) or ())
        names += [learner for learner in learners if learner not in baselines]
    return {name: place for place, name in enumerate(dict.fromkeys(names))}


def draw_curves(runs: Sequence[Record], order: Mapping[str, int]) -> list[Panel]:
    """Validation accuracy of every run against time and against steps."""
    panels = []
    for unit, key in (("seconds", "seconds"), ("steps", "step")):
        series = arrange([read_series(run, "history", key) for run in runs], order)
        if not series:
            continue
        drawn, axis = series, "meta-training steps"
        if unit == "seconds":
            longest = max(x for one in series for x in one.scores)
            word, size = ("hours", 3600) if longest > 3 * 3600 else ("minutes", 60) if longest > 180 else (unit, 1)
            drawn = [replace(one, scores={x / size: score for x, score in one.scores.items()}) for one in series]
            axis = f"{word} of meta-training"
        alt = f"Line chart: validation accuracy against {axis}, with 95% intervals."
        svg = draw_lines(
            drawn, axes=(axis, "validation accuracy"), name=f"curve-{unit}", alt=alt, order=order, band=True
        )
        title = "Learning curve, by time" if unit == "seconds" else "Learning curve, by steps"
        panels.append(Panel(title, Markup(svg), say_curve(series, unit), list_scores(series, unit)))
    return panels


def draw_steps(entries: Sequence[Record], order: Mapping[str, int]) -> list[Panel]:
    """Accuracy against adaptation steps: a panel for each way and shot."""
    panels = []
    for task, group in group_entries(entries, ("way", "shot")).items():
        series = arrange([read_series(entry, "points", "steps") for entry in group], order)
        if series:
            alt = "Line chart: accuracy against adaptation steps, with 95% intervals."
            axis, name = "adaptation steps in a new task", f"steps-{len(panels)}"
            svg = draw_lines(series, axes=(axis, "accuracy on new tasks"), name=name, alt=alt, order=order, band=False)
            panels.append(Panel(f"More steps{task}", Markup(svg), say_steps(series), list_scores(series, "steps")))
    return panels


def draw_shots(entries: Sequence[Record], order: Mapping[str, int]) -> list[Panel]:
    """Accuracy against shots, learners and baselines: a panel for each way."""
    panels = []
    for task, group in group_entries(entries, ("way",)).items():
        series = arrange([read_series(entry, "points", "shot") for entry in group], order)
        if series:
            alt = "Line chart: accuracy against shots, with 95% intervals."
            axis, name = "examples of each class (shots)", f"shots-{len(panels)}"
            svg = draw_lines(series, axes=(axis, "accuracy on new tasks"), name=name, alt=alt, order=order, band=False)
            learners, baselines = (
                [one for one in series if (one.learner in order) == known] for known in (True, False)
            )
            says = say_shots(learners, baselines)
            panels.append(Panel(f"More examples{task}", Markup(svg), says, list_scores(series, "shots")))
    return panels


def draw_breadth(entries: Sequence[Record], order: Mapping[str, int], words: Words) -> list[Panel]:
    """Accuracy by group, sorted: a panel for each way and shot, its headline's learner first."""
    panels = []
    for task, group in group_entries(entries, ("way", "shot")).items():
        series = arrange([read_groups(entry) for entry in group], order)
        if series:
            alt = f"Dot plot: accuracy on each {words.group}, with 95% intervals, best at the top."
            svg = draw_dots(series, name=f"breadth-{len(panels)}", alt=alt, order=order)
            table = list_scores(series, words.group)
            panels.append(Panel(f"By {words.group}{task}", Markup(svg), say_breadth(series, words), table))
    return panels


def draw_matrices(matrices: Sequence[Record]) -> list[Panel]:
    """All of them that have rows."""
    return [draw_matrix(matrix, number) for number, matrix in enumerate(matrices) if matrix.get("rows")]


def draw_matrix(matrix: Record, number: int) -> Panel:
    """Runs by kinds of data, trained on rows and tested on columns: dots, and the numbers as a table."""
    rows, kinds = matrix["rows"], matrix.get("data") or ()
    learners = {row["name"] for row in rows if row["trained_on"]}
    one = learners.pop() if len(learners) == 1 else ""  # in the title then, so that the legend has room for kinds
    names = [
        (row["trained_on"] if one else f"{row['name']} on {row['trained_on']}") if row["trained_on"] else row["name"]
        for row in rows
    ]
    scores = [[read_score(cell or {}) for cell in row["cells"]] for row in rows]
    series = [
        Series(name, name, {kind: score for kind, score in zip(kinds, own, strict=True) if score})
        for name, own in zip(names, scores, strict=True)
    ]
    alt = "Dot plot: accuracy of each run on each kind of data, with 95% intervals."
    places = {name: place for place, (name, row) in enumerate(zip(names, rows, strict=True)) if row["trained_on"]}
    svg = draw_dots(series, name=f"matrix-{number}", alt=alt, order=places)
    means = [what for what in ("mean", "own", "other", "worst") if any(row.get(what) is not None for row in rows)]
    words = {"own": "mean of its own kinds", "other": "mean of other kinds"}
    table = Table(
        ["trained on ↓, tested on →", *kinds, *(words.get(what, what) for what in means)],
        [
            [name + (" †" if row["transductive"] else ""), *map(write_score, own)]
            + ["–" if row.get(what) is None else write_score(Score(row[what])) for what in means]
            for name, row, own in zip(names, rows, scores, strict=True)
        ],
    )
    head = f"{one} trained" if one else "Trained"
    title = f"{head} on rows, tested on columns, {matrix['way']}-way {matrix['shot']}-shot"
    return Panel(
        title,
        Markup(svg),
        say_matrix(
            [f"{one} on {n}" if one and row["trained_on"] else n for n, row in zip(names, rows, strict=True)],
            rows,
            matrix["tasks"],
            write_budget([matrix]),
        ),
        table,
    )


def write_budget(group: Sequence[Record]) -> str:
    """' for 1 min', where all trainings of a figure had the same budget."""
    minutes = {entry.get("minutes") for entry in group}
    known = read_number(minutes.pop()) if len(minutes) == 1 else None
    return "" if known is None else f" for {write_duration(60 * known)}"


def draw_differences(entries: Sequence[Record], order: Mapping[str, int]) -> list[Panel]:
    """The best learner against every other contestant, task by task: a panel for each way and shot."""
    panels = []
    for entry in entries:
        baselines = entry.get("baselines") or ()
        pairs = [p for p in entry.get("pairs") or () if read_number(p.get("difference")) is not None]
        best = next((p[k] for p in pairs for k in ("first", "second") if p[k] not in baselines), None)
        own = [p for p in pairs if best in (p["first"], p["second"])]
        if not own:
            continue
        words = {str(p[k]): str(p[k]) for p in pairs for k in ("first", "second")}
        words |= {name: write_name(name) for name in baselines}
        ahead = {
            words[p["second"] if p["first"] == best else p["first"]]: Score(
                p["difference"] if p["first"] == best else -p["difference"], read_number(p.get("ci95"))
            )
            for p in own
        }
        series = Series(str(best), str(best), ahead)
        task = f"{entry.get('way')}-way {entry.get('shot')}-shot"
        alt = f"Dot plot: {best} minus each other contestant on the same tasks, in points, with 95% intervals."
        svg = draw_dots([series], name=f"differences-{len(panels)}", alt=alt, order=order, difference=True)
        says = say_differences(str(best), ahead, len(pairs))
        panels.append(Panel(f"{best} minus the others, {task}", Markup(svg), says, list_differences(pairs, words)))
    return panels


def arrange(series: Sequence[Series[Place]], order: Mapping[str, int]) -> list[Series[Place]]:
    """The series with any score, each with a name of its own, and first the one that the sentence is about.

    That is the headline's learner where it was measured, or else the best learner; baselines come last.
    """
    full: list[Series[Place]] = []
    for one in series:
        if one.scores:
            name = one.name if one.learner in order else write_name(one.name)
            same = sum(other.learner == one.learner for other in full)
            full.append(replace(one, name=f"{name} ({same + 1})" if same else name))

    def rank(one: Series[Place]) -> tuple[bool, bool, float]:
        mean = sum(score.accuracy for score in one.scores.values()) / len(one.scores)
        return one.learner not in order, order.get(one.learner) != 0, -mean

    return sorted(full, key=rank)


def group_entries(entries: Sequence[Record], keys: tuple[str, ...]) -> dict[str, list[Record]]:
    """Entries that belong in one figure, by what its title adds: ', 5-way 1-shot'."""
    groups: dict[str, list[Record]] = {}
    for entry in entries:
        parts = [f"{entry[key]}-{key}" for key in keys if entry.get(key) is not None]
        groups.setdefault(f", {' '.join(parts)}" if parts else "", []).append(entry)
    return groups


def list_scores(series: Sequence[Series[Place]], place: str) -> Table:
    """The numbers of a figure: a row for each place, a column for each series."""
    places = list(dict.fromkeys(at for one in series for at in one.scores))
    if all(isinstance(at, float) for at in places):
        places.sort()
    rows = [
        [f"{at:,.10g}" if isinstance(at, float) else at, *(write_score(one.scores.get(at)) for one in series)]
        for at in places
    ]
    return Table([place, *(one.name for one in series)], rows)


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
        plain: baselines without meta-training on the same tasks, by name.
    """
    series = arrange([read_series(run, "history", "seconds") for run in runs], order)
    scores = {name: score for name, record in plain.items() if (score := read_score(record))}
    best = max(scores.items(), key=lambda item: item[1].accuracy, default=None)
    targets = sorted({*TARGETS, *([best[1].accuracy] if best else [])})
    waits = {one.name: {t: w for t in targets if (w := find_wait(one, t))} for one in series}
    # an accuracy that everyone has at the first validation says nothing, unless it is a baseline's
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


LOSS = "loss_"


def draw_players(runs: Sequence[Record]) -> list[Panel]:
    """A panel for each run with several players: what each of them loses, against meta-steps."""
    panels = []
    for run in runs:
        losses = read_losses(run)
        if len(losses) > 1:
            series = [Series(name, name, {x: Score(y) for x, y in points.items()}) for name, points in losses.items()]
            order = {name: place for place, name in enumerate(losses)}
            learner = str(run.get("learner") or "the learner")
            svg = draw_losses(series, order, name=f"players-{len(panels)}", alt=f"Line chart: the losses of {learner}.")
            rows = [
                [f"{x:,.0f}", *(f"{points[x]:.3g}" if x in points else "" for points in losses.values())]
                for x in sorted({x for points in losses.values() for x in points})
            ]
            table = Table(["meta-steps", *losses], rows)
            panels.append(Panel(f"The players of {learner}", Markup(svg), say_players(losses), table))
    return panels


def read_losses(run: Record) -> dict[str, dict[float, float]]:
    """Each player's loss at increasing steps; points that are not finite are left out."""
    found: dict[str, dict[float, float]] = {}
    for point in run.get("history") or ():
        step = read_number(point.get("step"))
        for key in (key for key in point if key.startswith(LOSS)):
            loss = read_number(point[key])
            if step is not None and loss is not None:
                found.setdefault(key.removeprefix(LOSS), {})[step] = loss
    return found


def draw_losses(series: Sequence[Series[float]], order: Mapping[str, int], *, name: str, alt: str) -> str:
    """Losses against steps, a line for each player."""
    with drawing(height=240 + 17 * ((len(series) + 1) // 2)) as (figure, plot):
        for place, one in enumerate(series):
            x, y = list(one.scores), [score.accuracy for score in one.scores.values()]
            plot.plot(x, y, **choose_style(one.learner, order, place), markersize=5)
        plot.set_xlabel("meta-training steps")
        plot.set_ylabel("loss")
        plot.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        scale_numbers(plot, sorted({x for one in series for x in one.scores}), every_value=False)
        add_legend(figure, series, order)
        return to_svg(figure, name, alt)


def say_players(losses: Mapping[str, Mapping[float, float]]) -> str:
    """Where each loss began and ended."""
    ends = []
    for name, points in losses.items():
        first, *_, last = [*points.values(), *points.values()]
        ends.append(f"that of the {name} from {first:.3g} to {last:.3g}")
    return f"The loss goes, {' and '.join(ends)}: they pull against each other, and where both stay level neither wins."
