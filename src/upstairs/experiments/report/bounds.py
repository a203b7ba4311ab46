"""How well a generator predicts unseen examples of a class, against how many it was shown."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from upstairs.data.source import Source
from upstairs.experiments.generator_quality import bounds
from upstairs.experiments.report.figures import add_legend, choose_style, drawing, scale_numbers, to_svg, width_of
from upstairs.experiments.report.panels import Panel
from upstairs.experiments.report.tables import Table
from upstairs.experiments.report.values import Record, Score, Series
from upstairs.statistics import interval, paired_interval
from upstairs.training.run import Run

SHOTS, QUERY = (1, 2, 5, 10), 3


def measure_bounds(named: Mapping[str, Run], source: Source, *, tasks: int, seed: int) -> list[dict[str, Any]]:
    """For each variational autoencoder its bound at each number of examples that the classes have.

    A Neural Statistician's starts at 0 examples, the same network unconditioned.
    """
    smallest = min(len(rows) for rows in source.rows)
    shots = [shot for shot in SHOTS if shot + QUERY <= smallest]
    found = []
    for name, run in named.items():
        if shots and run.learner.bounds_likelihood:
            of = (0, *shots) if run.learner.conditions_on_none else shots
            own = bounds(run.learner, source, shots=of, query=QUERY, tasks=tasks, seed=seed)
            points = [
                {"shot": shot, "bound": interval(values), "more": paired_interval(values, own[of[0]])}
                for shot, values in own.items()
            ]
            found.append({"learner": name, "tasks": tasks, "points": points})
    return found


def draw_bounds(entries: Sequence[Record]) -> list[Panel]:
    """One panel: the bound in nats per example against shots, a line for each learner.

    The bars are of the difference from the fewest examples, over the same tasks: tasks differ far more than shots do.
    """
    if not entries:
        return []
    order = {str(entry["learner"]): place for place, entry in enumerate(entries)}
    series = [read_series(entry, "bound") for entry in entries]
    gains = [read_series(entry, "more") for entry in entries]
    shots = sorted({x for one in series for x in one.scores})
    with drawing(height=240 + 17 * ((len(series) + 1) // 2)) as (figure, plot):
        for place, (one, more) in enumerate(zip(series, gains, strict=True)):
            y, half = [s.accuracy for s in one.scores.values()], [width_of(s) for s in more.scores.values()]
            style = choose_style(one.learner, order, place)
            plot.errorbar(list(one.scores), y, yerr=half, **style, markersize=5.5, capsize=2.5, elinewidth=1.2)
        plot.set_xlabel("examples of the class (shots)")
        plot.set_ylabel("nats per example")
        scale_numbers(plot, shots, every_value=True)
        add_legend(figure, series, order)
        svg = to_svg(figure, "bounds", "Line chart: bound on the log-likelihood against shots.")
    rows = [[f"{x:g}"] for x in shots]
    for one, more in zip(series, gains, strict=True):
        for x, row in zip(shots, rows, strict=True):
            row += [say(one.scores.get(x)), say(more.scores.get(x)) if x > min(more.scores) else ""]
    heads = [head for one in series for head in (one.name, f"more than at {min(one.scores):g}, paired")]
    return [Panel("More examples", Markup(svg), say_bounds(series, gains), Table(["shots", *heads], rows))]


def read_series(entry: Record, what: str) -> Series[float]:
    name = str(entry["learner"])
    return Series(name, name, {float(p["shot"]): Score(*p[what]) for p in entry["points"]})


def say(score: Score | None) -> str:
    return f"{score.accuracy:.2f} ± {width_of(score):.2f}" if score else ""


def say_bounds(series: Sequence[Series[float]], gains: Sequence[Series[float]]) -> str:
    """From the fewest examples to the most."""
    parts = []
    for one, more in zip(series, gains, strict=True):
        few, many = min(one.scores), max(one.scores)
        first, last, gain = one.scores[few].accuracy, one.scores[many].accuracy, more.scores[many]
        parts.append(
            f"{one.name} goes from {first:.1f} at {few:g} to {last:.1f} at {many:g} "
            f"({gain.accuracy:+.1f} ± {width_of(gain):.1f} over the same tasks)"
        )
    nothing = any(0 in one.scores for one in series)
    return (
        "A lower bound on the log-likelihood of examples never seen, by 50 importance samples; higher is better: "
        f"{'; '.join(parts)}. The bars are 95% intervals of the difference from the fewest examples"
        f"{'; after 0 examples it is the same network unconditioned' * nothing}."
    )
