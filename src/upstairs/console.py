"""What the terminal shows: bars with the time left, plain lines where the output is no terminal, and the table."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from upstairs.trainer import Status

Progress = Callable[[int, int], None]
LINE_EVERY = 10.0  # seconds between plain lines


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
    """A bar with the time left and the accuracy of late; on a plain output, a line every ten seconds."""
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
    """The accuracies of this moment in a few words."""
    text = f"training tasks {100 * status.accuracy:.1f}%"
    if status.validation and "accuracy" in status.validation:
        text += f", validation {100 * status.validation['accuracy']:.1f}%"
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
    rows = []
    for r in results:
        cells = [percent(r["baselines"].get(name)) for name in names]
        note = f"each query alone: {percent(r['inductive'])}" if "inductive" in r else ""
        beaten = [n for n, b in r["baselines"].items() if b["accuracy"] >= r["accuracy"]]
        if beaten:
            note += f"; does NOT beat {', '.join(beaten)}"
        rows.append((r["learner"], f"{r['way']}-way {r['shot']}-shot", percent(r), *cells, note.strip("; ")))
    show_table(
        f"{results[0]['data']}, {results[0]['split']} classes, {results[0]['tasks']} tasks, 95% intervals",
        ("learner", "task", "accuracy", *(n.replace("_", " ") for n in names), "note"), rows, caption,
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


def percent(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return ""
    return f"{100 * score['accuracy']:.1f}% ± {100 * score['ci95']:.1f}{'†' if score.get('transductive') else ''}"
