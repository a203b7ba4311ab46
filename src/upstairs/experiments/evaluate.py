"""Evaluation of a run and its baselines on a frozen list of tasks."""

import io
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from upstairs.console import counting, one_line, tell_user
from upstairs.data import BUILT_IN
from upstairs.data.episodes import Episodes
from upstairs.data.mixture import SIGN, episodes_of
from upstairs.data.open import absolute, open_splits
from upstairs.data.readers import reader_for, reader_of
from upstairs.data.regression.rows import left_out, sizes_that_fit
from upstairs.data.source import Source
from upstairs.data.splits import Splits
from upstairs.engine.evaluate import evaluate
from upstairs.engine.metrics import ModelScore, NumberScore
from upstairs.errors import UpstairsError, check_type
from upstairs.learners import Unconditioned, baselines_for
from upstairs.settings import DataOptions
from upstairs.storage import write_atomically
from upstairs.training.model import load_adapted
from upstairs.training.run import Run, check_task_kind, load


def evaluate_run(
    path: str | Path | Run,
    *,
    data: str | None = None,
    split: str | None = None,
    columns: str | None = None,
    pattern: str | None = None,
    way: int | None = None,
    shot: int | None = None,
    query: int | None = None,
    tasks: int = 600,
    seed: int = 0,
    inner_steps: int | None = None,
    baselines: bool = True,
    quiet: bool = False,
) -> dict[str, Any]:
    """Returns the score of a run (or of the run in a directory), with its interval and baselines, on frozen tasks."""
    run = load(path)
    check_type("inner_steps", inner_steps, (int, NoneType), "a whole number, or None for as trained")
    episodes, name, part = choose_episodes(
        [run], data=data, split=split, columns=columns, pattern=pattern, way=way, shot=shot, query=query, quiet=quiet
    )
    learner = run.learner
    if inner_steps is not None:
        learner = learner.with_steps(inner_steps)
    plain = baselines_for(run.settings, episodes.source, episodes.largest_way) if baselines else {}
    if baselines and learner.conditions_on_none:
        plain["unconditioned"] = Unconditioned(learner)
    started = time.monotonic()
    with counting(f"evaluating {run.settings.learner}", quiet=quiet) as progress:
        scores = evaluate(learner, episodes, tasks=tasks, seed=seed, baselines=plain, progress=progress)
    return {
        "learner": run.settings.learner,
        "data": name,
        "split": part,
        **scores,
        "seconds": time.monotonic() - started,
        "steps": run.meta["progress"]["step"],
        "norm": run.settings.norm,
        **({} if learner.inner_steps is None else {"inner_steps": learner.inner_steps}),
        "versions": run.meta["versions"],
    }


def evaluate_model(
    path: Path, data: str | None, *, columns: str | None = None, pattern: str | None = None, out: Path | None = None,
    quiet: bool = False,
) -> ModelScore | NumberScore:  # fmt: skip
    """Returns the score of an adapted model on labelled files (or of rows), and draws its confusion matrix.

    Args:
        out: a page (.html), or a picture (.png, .svg, .pdf).
    """
    if data is None:
        raise UpstairsError(
            f"{path} is an adapted model: give labelled files as `data`, such as a folder of class folders"
        )
    if out is not None and out.suffix.lower() not in DRAWN:
        raise UpstairsError(f"`out` is {out}: name a file that ends in {', '.join(DRAWN)}")
    model = load_adapted(path)
    if out is not None and model.settings.way is None:
        raise UpstairsError(
            f"`out` draws what is confused and {path} predicts numbers, which are not confused: leave it out"
        )
    score = model.evaluate(data, columns=columns, pattern=pattern, quiet=quiet)
    if out is not None and isinstance(score, ModelScore):
        write_score(score, out)
    return score


def write_score(score: ModelScore, out: Path) -> Path:
    """Writes a page (.html) with a model's score and its confusion matrix, or a picture of the matrix."""
    drawn = _draw_confusion(score, DRAWN[out.suffix.lower()])
    if out.suffix.lower() == ".html":
        head = '<!doctype html><meta charset="utf-8"><title>How good an adapted model is</title>'
        drawn = f"{head}<pre>{escape(str(score))}</pre>".encode() + drawn[drawn.index(b"<svg") :]
    write_atomically(out, drawn)
    return out


DRAWN = {".html": "svg", ".png": "png", ".svg": "svg", ".pdf": "pdf"}


def _draw_confusion(score: ModelScore, format: str) -> bytes:
    """Draws a row for each true label, darker where more of its inputs got the answer."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    counts, content = np.array(score["confusion"]), io.BytesIO()
    shares = counts / counts.sum(1, keepdims=True)
    with warnings.catch_warnings(), mpl.rc_context({"svg.fonttype": "none", "text.parse_math": False}):
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")  # a browser has fonts of its own
        width, height = (min(60, 2 + 0.5 * count) for count in counts.shape[::-1])
        figure = Figure(figsize=(width + 0.5, height), layout="constrained")
        axes = figure.subplots()
        axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", aspect="auto")
        axes.set_xticks(range(counts.shape[1]), [*map(one_line, score["columns"])], rotation=90)
        axes.set_yticks(range(counts.shape[0]), [*map(one_line, score["rows"])])
        axes.set(xlabel="answer", ylabel="true label")
        for (i, j), count in np.ndenumerate(counts) if counts.size <= 2500 else ():
            axes.text(j, i, str(count), ha="center", va="center", color="black" if shares[i, j] < 0.5 else "white")
        figure.savefig(content, format=format)
    return content.getvalue()


UNHEARD: dict[str, Any] = {"spoken": None}  # synthesised words are used in training only


def reads(run: Run, data: str) -> bool:
    """Returns whether data has the kind of inputs (texts, sounds, pictures or arrays) that the run was trained on."""
    return isinstance(run.inputs.format, reader_for(data).formats)


def choose_source(
    run: Run, data: str | None, split: str | None, *, columns: str | None = None, pattern: str | None = None,
    quiet: bool,
) -> tuple[Source, str, str]:  # fmt: skip
    """Returns the classes to evaluate on, with the names of the data and of the split."""
    name, form = str(data or run.settings.data), run.inputs.format
    if data is None and run.splits is not None and split in (None, *Splits._fields):
        return getattr(run.splits, split or "test"), name, split or "test"
    own = data is None or absolute(data) == run.settings.data
    if data is None and not (name in BUILT_IN or SIGN in name or Path(name).is_absolute()):
        raise UpstairsError(
            f"{run.path} was trained on data made in Python ({name}), which it does not hold: give `data`, or the "
            "tasks to upstairs.evaluate(run.learner, tasks)"
        )
    if not reader_for(name).has_splits:
        if split not in (None, "test"):
            raise UpstairsError(
                f"`split` is '{split}' and {name} has no split, since every task is a new function: leave it out"
            )
        return open_splits(DataOptions(data=name), quiet=quiet).test, name, "test"
    split = split or ("test" if own else "all")
    if split not in ("train", "val", "test", "all"):
        raise UpstairsError(f"`split` is '{split}': choose train, val, test or all")
    options = DataOptions(data=name, columns=columns, pattern=pattern, skip_bad=run.settings.skip_bad)
    if own:
        name = run.settings.data
        said = {"columns": columns or run.settings.columns, "pattern": pattern or run.settings.pattern}
        options = replace(run.settings, **UNHEARD, **said)
    if split != "all":
        return getattr(open_splits(options, quiet=quiet, format=form), split), name, split
    if SIGN in name:
        raise UpstairsError(f"`split` all is about one data set and {name} is several: leave it out, or name one")
    with counting("reading examples", quiet=quiet) as progress:
        return reader_of(form).source(options, form, progress), name, split


def choose_episodes(
    runs: Sequence[Run],
    *,
    data: str | None,
    split: str | None,
    way: int | None,
    shot: int | None,
    query: int | None,
    columns: str | None = None,
    pattern: str | None = None,
    quiet: bool,
) -> tuple[Episodes, str, str]:
    """Returns the tasks to evaluate on, with the names of the data and of the split.

    An option that is None is set to a value that every run supports.
    """
    for option, value in (("way", way), ("shot", shot), ("query", query)):
        check_type(option, value, (int, NoneType), "a whole number, or None for what suits the data")
    check_type(
        "data", data, (str, Path, NoneType),
        "a name or a path; for a Source of your own: upstairs.evaluate(run.learner, Episodes(source, way=5, shot=1))",
    )  # fmt: skip
    source, name, part = choose_source(runs[0], data, split, columns=columns, pattern=pattern, quiet=quiet)
    check_task_kind(runs, source)
    if shot is None:
        shot = runs[0].settings.shots[1] if source.functions else 1
    if source.functions:
        query = query or sizes_that_fit(source, shot, 15)[1]
        if not quiet and (note := left_out(source, shot + query)):
            tell_user(note)
        return Episodes(source, way=way, shot=shot, query=query), name, part
    if way is None:
        way = min([5, max(2, source.most_way), *(run.learner.max_way or 5 for run in runs)])
    smallest = min((len(rows) for rows in source.rows), default=0)
    if query is None:
        query = max(1, min(15, smallest - shot))
    episodes = episodes_of(source, way=way, shot=shot, query=query)
    for run in runs:
        run.learner.for_way(way)  # refused before anything is scored
    return episodes, name, part
