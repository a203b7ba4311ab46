"""Figures as inline SVG with the colours of the page, for light and dark mode."""

import base64
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
from PIL import Image

from upstairs.errors import UpstairsError
from upstairs.experiments.report.values import Score, Series, write_duration

WIDTH = 340  # units of the view box: about the pixels of a phone, so that text keeps its size there
# Placeholder colours: each is replaced by a CSS value of the page.
INK, GRID, PAPER, BASELINE = "#010203", "#010204", "#010205", "#010206"
COLOURS = tuple(f"#0102{k:02d}" for k in range(10, 16))
CSS = {INK: "currentColor", GRID: "var(--grid)", PAPER: "var(--card)", BASELINE: "var(--baseline)"} | {
    colour: f"var(--series-{k})" for k, colour in enumerate(COLOURS)
}
# Neither colour alone nor shape alone tells two learners apart.
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)))
POINTS, TIME = "points of accuracy", "meta-training until then"  # what an axis can show besides accuracy
TIMES = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 18000, 36000, 72000)  # ticks, in seconds
STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "upstairs", "text.parse_math": False, "font.size": 11.5,
    "text.color": INK, "axes.edgecolor": GRID, "axes.labelcolor": INK, "xtick.color": GRID, "ytick.color": GRID,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.8, "lines.linewidth": 2.0,
    "axes.labelsize": 11.5, "axes.facecolor": "none", "figure.facecolor": "none", "legend.frameon": False,
    "legend.handlelength": 2.2, "legend.columnspacing": 1.2, "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.03, "figure.constrained_layout.w_pad": 0.03,
}  # fmt: skip


def draw_lines(
    series: Sequence[Series], *, axes: tuple[str, str], name: str, alt: str, order: Mapping[str, int],
    percent: bool = True, many: bool = False,
) -> str:  # fmt: skip
    """Draws scores against a number: one line for each series, with its 95% intervals.

    Args:
        series: every series has at least one score.
        axes: the labels of the horizontal and the vertical axis.
        name: the prefix of every id, different for each figure of a page.
        alt: the alternative text.
        order: each learner's place, which fixes its colour and marker; others are baselines, in grey.
        percent: scores are accuracies.
        many: there are many points, so intervals are a band instead of bars, and not every point has a tick.
    """
    scale = 100 if percent else 1
    with drawing(240 + legend_height(series)) as (figure, plot):
        for place, one in enumerate(series):
            style = choose_style(one.learner, order, place)
            x = list(one.scores)
            y = np.array([scale * score.accuracy for score in one.scores.values()])
            half = np.array([scale * width_of(score) for score in one.scores.values()])
            if many:
                plot.fill_between(x, y - half, y + half, color=style["color"], alpha=0.2, linewidth=0)
                every = max(1, len(x) // 8)
                plot.plot(x, y, **style, markersize=5, markevery=(place % every, every))
            else:
                plot.errorbar(x, y, yerr=half, **style, markersize=5.5, capsize=2.5, elinewidth=1.2)
        plot.set_xlabel(axes[0])
        plot.set_ylabel(axes[1])
        plot.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        if percent:
            plot.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
            plot.set_ylim(top=min(100.5, plot.get_ylim()[1]), bottom=max(0.0, plot.get_ylim()[0]))
        scale_numbers(plot, sorted({x for one in series for x in one.scores}), every_value=not many)
        add_legend(figure, series, order)
        return to_svg(figure, name, alt)


def draw_dots(
    series: Sequence[Series], *, name: str, alt: str, order: Mapping[str, int], axis: str = "accuracy",
    groups: Sequence[str] = (),
) -> str:  # fmt: skip
    """Draws scores by group: a row for each group, with a dot and an interval for each series.

    Args:
        axis: the label of the horizontal axis, which decides what is drawn: "accuracy", differences of it (`POINTS`),
            or times on a logarithmic axis (`TIME`; an arrow where the upper end is not known).
        groups: from top to bottom; empty: in the order of the first series.
    """
    groups = groups or list(dict.fromkeys(group for one in series for group in one.scores))
    with drawing(64 + legend_height(series) + len(groups) * (18 + 6 * (len(series) - 1))) as (figure, axes):
        ends = [t for one in series if axis == TIME for cell in one.scores.values() for t in cell if t is not None]
        low, high = (0.8 * min(ends), 1.3 * max(ends)) if ends else (0.0, 0.0)
        for place, one in enumerate(series):
            style = choose_style(one.learner, order, place) | {"linestyle": "none"}
            shift = min(0.22, 0.8 / len(series)) * (place - (len(series) - 1) / 2)
            for group, cell in one.scores.items():
                y = groups.index(group) + shift
                if axis == TIME:
                    at, soon, late = cell
                    reach = [[at - soon], [(high if late is None else late) - at]]
                    if late is None:
                        axes.plot([high], [y], color=style["color"], marker=">", markersize=5, clip_on=False)
                else:
                    at, reach = 100 * cell.accuracy, [[100 * width_of(cell)]] * 2
                axes.errorbar([at], [y], xerr=reach, **style, markersize=6, elinewidth=1.6)
        axes.set_yticks(range(len(groups)), [shorten(group, 26 if axis == TIME else 22) for group in groups])
        axes.set_ylim(len(groups) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(axis)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        if axis == TIME:
            axes.set_xscale("log")
            axes.set_xlim(low, high)
            ticks = [t for t in TIMES if low <= t <= high]
            axes.xaxis.set_major_locator(FixedLocator(ticks if len(ticks) <= 6 else ticks[::2]))
            axes.xaxis.set_minor_locator(FixedLocator([]))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda t, _: write_duration(float(t)).replace(".0", "")))
        elif axis == POINTS:
            axes.axvline(0.0, color=BASELINE, linewidth=1.2, zorder=1)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}" if value else "0"))
        else:
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
            axes.set_xlim(left=max(0.0, axes.get_xlim()[0]), right=min(100.8, axes.get_xlim()[1]))
        axes.spines.left.set_visible(False)
        if len(series) > 1:
            add_legend(figure, series, order)
        return to_svg(figure, name, alt)


def legend_height(series: Sequence[Series]) -> int:
    return 17 * ((len(series) + 1) // 2)


def add_legend(figure: Figure, series: Sequence[Series], order: Mapping[str, int]) -> None:
    """Adds a legend under the figure, in two columns, which fit a phone."""
    styles = [choose_style(one.learner, order, place) for place, one in enumerate(series)]
    handles = [Line2D([], [], **style, markersize=5.5) for style in styles]
    # matplotlib leaves a name with a leading underscore out
    labels = [shorten(one.name, 20).lstrip("_") or "?" for one in series]
    figure.legend(handles, labels, loc="outside lower center", ncols=2)


@contextmanager
def drawing(height: float) -> Iterator[tuple[Figure, Axes]]:
    """A context with an empty figure in the report's style, outside pyplot."""
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # the browser draws the text, with its own fonts
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
        yield figure, figure.subplots()


def choose_style(learner: str, order: Mapping[str, int], place: int) -> dict[str, Any]:
    """Returns a learner's colour, marker and dash, the same in every figure; grey and dashed for a baseline."""
    if learner not in order:
        hollow = {"markerfacecolor": PAPER, "markeredgewidth": 1.4}
        return {"color": BASELINE, "linestyle": DASHES[1 + place % 2], "marker": MARKERS[place % 7], **hollow}
    k = order[learner]
    return {"color": COLOURS[k % 6], "linestyle": DASHES[k // 6 % 3], "marker": MARKERS[k % 7]}


def scale_numbers(axes: Axes, values: list[float], *, every_value: bool) -> None:
    """Sets ticks at the measured values, and a logarithmic axis where they span about a decade."""
    if every_value:
        low, high = values[0], values[-1]
        if high >= 8 * max(low, 1.0):
            # linear from 0 to 1, since 0 has no logarithm
            axes.set_xscale("symlog", linthresh=1.0, linscale=0.4)
            axes.set_xlim(low - 0.15 if low < 1 else 0.87 * low, 1.15 * high)
        apart = [values[0]]
        for value in values[1:]:
            if value >= 1.3 * apart[-1]:
                apart.append(value)
        axes.xaxis.set_major_locator(FixedLocator(apart if len(apart) <= 9 else apart[::2]))
        axes.xaxis.set_minor_locator(FixedLocator([]))
    else:
        axes.set_xlim(left=0.0 if values[-1] > 0 else None)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def width_of(score: Score) -> float:
    """Returns half the interval; NaN, which is not drawn, where it is not known."""
    return float("nan") if score.ci95 is None else score.ci95


def shorten(text: str, limit: int) -> str:
    """Returns the text on one line, cut with an ellipsis at `limit` characters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def to_svg(figure: Figure, name: str, alt: str) -> str:
    """Returns the figure as an <svg> element without a fixed size, with unique ids and CSS variables for colours."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    size = re.search(r'viewBox="([^"]*)"', svg)
    box = size.group(1) if size else f"0 0 {WIDTH} {WIDTH}"
    opening = f'<svg class="figure" viewBox="{box}" role="img" aria-label="{escape(alt)}">'
    svg = re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1)
    head, body = svg[: len(opening)], svg[len(opening) :]
    return head + re.sub(r"<[a-z][^>]*>", lambda tag: adopt_tag(tag.group(), name), body)


def adopt_tag(tag: str, name: str) -> str:
    """Adapts the ids, colours and font of a tag of matplotlib's to the page."""
    tag = re.sub(r'^<g id="[^"]*"', "<g", tag)  # nothing refers to a group
    tag = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", tag).replace("xlink:href", "href")
    tag = re.sub(r"font-family: [^;]*; ?", "", tag)
    return re.sub("#0102[0-9]{2}", lambda colour: CSS.get(colour.group(), colour.group()), tag)


LARGEST = 112  # pixels: the size at which the page shows a support picture


def encode_picture(pixels: Any) -> str:
    """Returns a picture as a `data:image/...;base64,` address: PNG, or WebP for a photograph, a tenth of the size.

    Bright ink on dark is inverted, and large pictures are reduced to the size at which they are shown.

    Args:
        pixels: [channel, height, width] or [height, width], an array or nested lists; uint8, or floats from 0 to 1.

    Raises:
        UpstairsError: another shape.
    """
    if not is_picture(pixels):
        raise UpstairsError(
            f"a picture of the report's episode has shape {list(np.shape(pixels))}: give [channel, height, width]"
        )
    image = to_image(pixels)
    image.thumbnail((LARGEST, LARGEST))
    kind = "webp" if image.mode == "RGB" and image.width * image.height > 48 * 48 else "png"
    buffer = io.BytesIO()
    image.save(buffer, format=kind, optimize=True)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def to_image(pixels: Any) -> Image.Image:
    """Returns a picture as an image; bright ink on dark is inverted."""
    array = np.asarray(pixels)
    array = array[None] if array.ndim == 2 else array
    if array.dtype.kind == "f":
        array = np.nan_to_num(array) * 255
    array = array.clip(0, 255).round().astype(np.uint8)
    if len(array) >= 3:
        return Image.fromarray(np.ascontiguousarray(array[:3].transpose(1, 2, 0)))
    return Image.fromarray(255 - array[0] if array[0].mean() < 128 else array[0])


def to_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def is_picture(pixels: Any) -> bool:
    """Returns whether the shape is [height, width], or [channel, height, width] with at most 4 channels."""
    shape = np.shape(pixels)
    return 0 not in shape and (len(shape) == 2 or (len(shape) == 3 and shape[0] <= 4))
