"""How well a generator predicts unseen examples of a class, against how many it was shown."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from upstairs.judging import bounds
from upstairs.learners import NeuralStatistician, Redrawing
from upstairs.report.figures import add_legend, choose_style, drawing, scale_numbers, to_svg
from upstairs.report.panels import Panel
from upstairs.report.tables import Table
from upstairs.report.values import Record, Score, Series
from upstairs.run import Run
from upstairs.statistics import interval
from upstairs.tasks.sources import Source

SHOTS, QUERY = (1, 2, 5, 10), 3


def measure_bounds(named: Mapping[str, Run], source: Source, *, tasks: int, seed: int) -> list[dict[str, Any]]:
    """For each variational autoencoder its bound at each number of examples that the classes have.

    A Neural Statistician's starts at 0 examples, the same network unconditioned.
    """
    smallest = min(len(rows) for rows in source.rows)
    shots = [shot for shot in SHOTS if shot + QUERY <= smallest]
    found = []
    for name, run in named.items():
        if shots and isinstance(run.learner, NeuralStatistician | Redrawing):
            of = (0, *shots) if isinstance(run.learner, NeuralStatistician) else shots
            own = bounds(run.learner, source, shots=of, query=QUERY, tasks=tasks, seed=seed)
            points = [{"shot": shot, "bound": interval(values)} for shot, values in own.items()]
            found.append({"learner": name, "tasks": tasks, "points": points})
    return found


def draw_bounds(entries: Sequence[Record]) -> list[Panel]:
    """One panel: the bound in nats per example against shots, a line for each learner."""
    if not entries:
        return []
    order = {str(entry["learner"]): place for place, entry in enumerate(entries)}
    series = [
        Series(str(e["learner"]), str(e["learner"]), {float(p["shot"]): Score(*p["bound"]) for p in e["points"]})
        for e in entries
    ]
    shots = sorted({x for one in series for x in one.scores})
    with drawing(height=240 + 17 * ((len(series) + 1) // 2)) as (figure, plot):
        for place, one in enumerate(series):
            y, half = zip(*one.scores.values(), strict=True)
            style = choose_style(one.learner, order, place)
            plot.errorbar(list(one.scores), y, yerr=half, **style, markersize=5.5, capsize=2.5, elinewidth=1.2)
        plot.set_xlabel("examples of the class (shots)")
        plot.set_ylabel("nats per example")
        scale_numbers(plot, shots, every_value=True)
        add_legend(figure, series, order)
        svg = to_svg(figure, "bounds", "Line chart: bound on the log-likelihood against shots, with 95% intervals.")
    rows = [[f"{x:g}", *(say_score(one.scores.get(x)) for one in series)] for x in shots]
    return [Panel("More examples", Markup(svg), say_bounds(series), Table(["shots", *order], rows))]


def say_score(score: Score | None) -> str:
    return f"{score[0]:.2f} ± {score[1]:.2f}" if score else ""


def say_bounds(series: Sequence[Series[float]]) -> str:
    """From the fewest examples to the most."""
    parts = []
    for one in series:
        (few, first), *_, (many, last) = [*one.scores.items(), *one.scores.items()]
        parts.append(f"{one.name} goes from {first[0]:.1f} at {few:g} to {last[0]:.1f} at {many:g}")
    return (
        f"A lower bound on the log-likelihood of examples never seen, by 50 importance samples; higher is better: "
        f"{'; '.join(parts)}."
    )
