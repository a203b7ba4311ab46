"""What the terminal shows: bars with the time left, plain lines where the output is no terminal, and the table."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

Progress = Callable[[int, int], None]
BEST = ("exact_posterior",)  # beside the baselines: what none can beat
LINE_EVERY = 10.0  # seconds between plain lines


@dataclass(frozen=True)
class Status:
    """What the trainer tells while it works."""

    done: float  # share of the budget, 0 to 1
    step: int
    seconds: float
    loss: float
    score: dict[str, float]  # on the training tasks of late: accuracy, or mse
    validation: dict[str, float] | None  # the newest point of the learning curve


@contextmanager
def counting(what: str, *, quiet: bool) -> Iterator[Progress | None]:
    """A bar for work that counts (done, total); on a plain output, a line when it took over two seconds."""
    if quiet:
        yield None
    elif not sys.stderr.isatty():
        started = last = time.monotonic()

        def line(done: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last > LINE_EVERY or (done == total and time.monotonic() - started > 2):
                last = time.monotonic()
                left = (last - started) * (total - done) / max(done, 1)
                print(f"{what}: {done}/{total}, {left:.0f} s left", file=sys.stderr, flush=True)

        yield line
    else:
        with _bars(MofNCompleteColumn()) as bars:
            task = bars.add_task(what, total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def training(what: str, *, quiet: bool) -> Iterator[Callable[[Status], None]]:
    """A bar with the time left and the score of late; on a plain output, a line every ten seconds."""
    if quiet:
        yield lambda status: None
    elif not sys.stderr.isatty():
        last = 0.0

        def line(status: Status) -> None:
            nonlocal last
            if time.monotonic() - last > LINE_EVERY or status.done >= 1:
                last = time.monotonic()
                left = status.seconds * (1 - status.done) / max(status.done, 1e-9)
                now = f"step {status.step}, {100 * status.done:.0f}%, {left:.0f} s left, loss {status.loss:.3f}"
                print(f"{what}: {now}, {describe(status)}", file=sys.stderr, flush=True)

        yield line
    else:
        with _bars(TextColumn("{task.fields[now]}")) as bars:
            task = bars.add_task(what, total=1.0, now="")
            yield lambda status: bars.update(task, completed=status.done, now=describe(status))


def tell_user(text: str) -> None:
    """A line beside the result, so on standard error."""
    print(text, file=sys.stderr, flush=True)


def describe(status: Status) -> str:
    """The scores of this moment in a few words."""
    (name, value), *_ = status.score.items()
    text = f"training tasks {write_number(name, value)}"
    if status.validation and name in status.validation:
        text += f", validation {write_number(name, status.validation[name])}"
    return text


def _bars(column: Any) -> Bars:
    return Bars(
        TextColumn("{task.description}"), BarColumn(), column, TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
    )  # fmt: skip


def print_results(results: list[dict[str, Any]]) -> None:
    """The table of learners and baselines, one row for each result."""
    seen = any(s.get("transductive") for r in results for s in (r, *r["baselines"].values()))
    caption = "† transductive: it sees all queries of a task at once" if seen else None
    names = list(dict.fromkeys(name for r in results for name in r["baselines"]))
    rows, kind = [], score_name(results[0])
    sign = -1 if kind == "mse" else 1
    for r in results:
        cells = [write_score(r["baselines"].get(name)) for name in names]
        note = f"each query alone: {write_score(r['inductive'])}" if "inductive" in r else write_likelihood(r)
        for name in BEST if "likelihood" in r else ():
            best = write_likelihood(r["baselines"].get(name, {}))
            note += best and f"; {name.replace('_', ' ')}: {best}"
        beaten = [n for n, b in r["baselines"].items() if n not in BEST and sign * (b[kind] - r[kind]) >= 0]
        if beaten:
            note += f"; does NOT beat {', '.join(beaten)}"
        rows.append((r["learner"], write_task(r), write_score(r), *cells, note.strip("; ")))
    show_table(
        title_of(results[0]), ("learner", "task", kind, *(n.replace("_", " ") for n in names), "note"), rows, caption,
    )  # fmt: skip


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str | None = None) -> None:
    """Text to the left, numbers (cells that hold a ±) to the right."""
    table, rows = Table(title=title, caption=caption), list(rows)
    for place, column in enumerate(columns):
        numbers = any("±" in row[place] and not row[place][0].isalpha() for row in rows)
        table.add_column(column, justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table) if console.is_terminal else Console(width=140).print(table)


def title_of(result: Mapping[str, Any]) -> str:
    """What a table of results is about."""
    part = f"{result['split']} {'functions' if result['way'] is None else 'classes'}"
    return f"{result['data']}, {part}, {result['tasks']} tasks, 95% intervals"


def write_task(result: Mapping[str, Any]) -> str:
    return f"{result['shot']} examples" if result["way"] is None else f"{result['way']}-way {result['shot']}-shot"


def score_name(result: Mapping[str, Any]) -> str:
    """How a result is judged: accuracy, mse or bound."""
    return next(name for name in ("accuracy", "mse", "bound") if name in result)


def write_number(name: str, value: float) -> str:
    """An accuracy in per cent, an error to three digits."""
    return f"{100 * value:.1f}%" if name == "accuracy" else f"{value:.3g}"


def write_score(score: Mapping[str, Any] | None) -> str:
    """The mean and its interval."""
    if score is None:
        return ""
    name = score_name(score)
    half = f"{100 * score['ci95']:.1f}" if name == "accuracy" else f"{score['ci95']:.2g}"
    return f"{write_number(name, score[name])} ± {half}{'†' if score.get('transductive') else ''}"


def write_likelihood(score: Mapping[str, Any]) -> str:
    """The mean log-likelihood of a query with its interval; nothing where predictions are not Gaussian."""
    own = score.get("likelihood")
    return f"log-likelihood {own['likelihood']:.3f} ± {own['ci95']:.3f} nats" if own else ""


def write_difference(name: str, pair: Mapping[str, Any]) -> str:
    """A paired difference and its interval: accuracies in points."""
    if name == "accuracy":
        return f"{100 * pair['difference']:+.1f} ± {100 * pair['ci95']:.1f}"
    return f"{pair['difference']:+.3g} ± {pair['ci95']:.2g}"
