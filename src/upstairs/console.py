"""Terminal output: progress bars (plain lines if the output is not a terminal) and tables."""

import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from upstairs.statistics import write_interval

numbers = random.getstate()  # rich draws from Python's generator when it is imported
from rich.console import Console  # noqa: E402
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn  # noqa: E402
from rich.progress import Progress as Bars  # noqa: E402
from rich.table import Table  # noqa: E402

random.setstate(numbers)
Progress = Callable[[int, int], None]
BEST = ("exact_posterior",)  # a bound among the baselines, which no learner can beat
LINE_EVERY = 10.0  # seconds between plain lines
DAGGER = "† transductive: it sees all queries of a task at once"


@dataclass(frozen=True)
class Status:
    """The state of a training, for progress output."""

    done: float  # share of the budget, 0 to 1
    step: int
    seconds: float
    loss: float
    score: dict[str, float]  # on the recent training tasks: accuracy, or mse
    validation: dict[str, float] | None  # the newest point of the learning curve


@contextmanager
def counting(what: str, *, quiet: bool) -> Iterator[Progress | None]:
    """Shows a progress bar for (done, total); on a plain output, a line after more than two seconds."""
    with _following(what, quiet=quiet) as tell:
        yield None if tell is None else lambda done, total: tell(done / max(total, 1), f"{done}/{total}", None)


@contextmanager
def training(what: str, *, quiet: bool) -> Iterator[Callable[[Status], None]]:
    """Shows a bar with the time left and the recent score; on a plain output, a line every ten seconds."""
    with _following(what, quiet=quiet) as tell:

        def follow(status: Status) -> None:
            (name, value), *_ = status.score.items()
            words = f"step {status.step}, loss {status.loss:.3f}, training tasks {write_value(name, value)}"
            if status.validation and name in status.validation:
                words += f", validation {write_value(name, status.validation[name])}"
            if tell:
                tell(status.done, words, status.seconds)

        yield follow


@contextmanager
def _following(what: str, *, quiet: bool) -> Iterator[Callable[[float, str, float | None], None] | None]:
    """Shows the completed share and some words; the end of short work only if its seconds are given."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}")
        with Bars(*columns, TimeRemainingColumn(elapsed_when_finished=True), console=Console(stderr=True)) as bars:
            task = bars.add_task(what, total=1.0, words="")
            yield lambda done, words, _: bars.update(task, completed=done, words=words)
    else:
        started = last = time.monotonic()

        def line(done: float, words: str, seconds: float | None) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last > LINE_EVERY or (done >= 1 and (seconds is not None or now - started > 2)):
                last, left = now, (seconds or now - started) * (1 - done) / max(done, 1e-9)
                tell_user(f"{what}: {words}, {100 * done:.0f}%, {left:.0f} s left")

        yield line


def tell_user(text: str) -> None:
    """Prints a line on standard error, since standard output is for results."""
    print(text, file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    """Returns a name with its control characters and line breaks escaped, so that it cannot break a line."""
    return "".join(c if c.isprintable() or c in " \u3000\xa0\u200c\u200d" else repr(c)[1:-1] for c in text)


def print_results(results: list[dict[str, Any]]) -> None:
    """Prints the table of learners and baselines, one row for each result."""
    seen = any(s.get("transductive") for r in results for s in (r, *r["baselines"].values()))
    names = list(dict.fromkeys(name for r in results for name in r["baselines"]))
    rows, kind = [], score_name(results[0])
    sign = -1 if kind == "mse" else 1
    for r in results:
        cells = [write_mean(r["baselines"].get(name)) for name in names]
        note = f"each query alone: {write_mean(r['inductive'])}" if "inductive" in r else write_likelihood(r)
        for name in BEST if "likelihood" in r else ():
            best = write_likelihood(r["baselines"].get(name, {}))
            note += best and f"; {name.replace('_', ' ')}: {best}"
        beaten = [n for n, b in r["baselines"].items() if n not in BEST and sign * (b[kind] - r[kind]) >= 0]
        if beaten:
            note += f"; does NOT beat {', '.join(beaten)}"
        rows.append((r["learner"], write_task(r), write_mean(r), *cells, note.strip("; ")))
    columns = ("learner", "task", kind, *(name.replace("_", " ") for name in names), "note")
    show_table(title_of(results[0]), columns, rows, DAGGER if seen else None)


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str | None = None) -> None:
    """Prints a table with text aligned left, and numbers (cells with ±) aligned right."""
    table = Table(title=title, caption=caption)
    for place, column in enumerate(columns):
        numbers = any("±" in row[place] and not row[place][0].isalpha() for row in rows)
        table.add_column(column, justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table) if console.is_terminal else Console(width=140).print(table)


def title_of(result: Mapping[str, Any]) -> str:
    """Returns the title of a table of results."""
    part = f"{result['split']} {'functions' if result['way'] is None else 'classes'}"
    return f"{result['data']}, {part}, {result['tasks']} tasks, 95% intervals"


def write_task(result: Mapping[str, Any]) -> str:
    return f"{result['shot']} examples" if result["way"] is None else f"{result['way']}-way {result['shot']}-shot"


def score_name(result: Mapping[str, Any]) -> str:
    """Returns the name of a result's score: accuracy, mse or bound."""
    return next(name for name in ("accuracy", "mse", "bound") if name in result)


def write_value(name: str, mean: float, ci95: float | None = None, *, signed: bool = False) -> str:
    """Returns a score with its interval, if known: an accuracy in per cent, an error to three digits."""
    share = name == "accuracy"
    return write_interval(mean, ci95, percent=share, digits=1 if share else None, signed=signed)


def write_mean(score: Mapping[str, Any] | None) -> str:
    """Returns a result's score with its interval; empty without a result."""
    if score is None:
        return ""
    name = score_name(score)
    return write_value(name, score[name], score.get("ci95")) + "†" * bool(score.get("transductive"))


def write_likelihood(score: Mapping[str, Any]) -> str:
    """Returns the mean log-likelihood of a query with its interval; empty if predictions are not Gaussian."""
    own = score.get("likelihood")
    return f"log-likelihood {write_interval(*own.values(), percent=False, digits=3)} nats" if own else ""
