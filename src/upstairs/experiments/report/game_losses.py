"""The training curves of learners with several players: each one's loss."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from upstairs.experiments.report.figures import add_legend, choose_style, drawing, scale_numbers, to_svg
from upstairs.experiments.report.panels import Panel
from upstairs.experiments.report.tables import Table
from upstairs.experiments.report.values import Record, Score, Series, read_number

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
