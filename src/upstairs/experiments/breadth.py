"""The accuracy of each run on each kind of data: `upstairs breadth RUN... --data A B`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from upstairs.console import DAGGER, counting, show_table, write_mean, write_value
from upstairs.core import Learner
from upstairs.data.episodes import Episodes
from upstairs.data.mixture import SIGN
from upstairs.data.open import absolute
from upstairs.engine.evaluate import describe_score, enough_seeds
from upstairs.engine.metrics import score_kind
from upstairs.errors import UpstairsError
from upstairs.experiments.evaluate import choose_episodes, reads
from upstairs.experiments.report.cache import Remembered
from upstairs.experiments.report.measure import name_runs, short_name
from upstairs.experiments.report.page import write_report
from upstairs.learners import baselines_for
from upstairs.storage import versions
from upstairs.training.run import Run, load

NEAREST = "nearest centroid"  # the row without meta-training


def breadth(
    runs: Sequence[str | Path | Run],
    data: Sequence[str],
    *,
    way: int = 5,
    shot: int = 1,
    query: int | None = None,
    tasks: int = 600,
    seed: int = 0,
    quiet: bool = False,
    memory: Remembered | None = None,
) -> dict[str, Any]:
    """Evaluates runs on the test classes of several kinds of data, with the nearest centroid of raw inputs as baseline.

    Args:
        runs: the directories of runs; those on texts, pictures and sounds may be mixed.
        data: kinds of data, as in `upstairs train --data`.
        way, shot, query, tasks, seed: as in `upstairs evaluate`.
        memory: the cache of scores; None: a new one for this call.

    Returns:
        `rows`: for each run its name, its training data, its `cells` (score and interval for each kind of data; None
        where the run reads another kind of inputs), their mean and minimum (`worst`), and the means over the kinds of
        data that it was trained on (`own`) and over the others (`other`).

    Raises:
        UpstairsError: no run, no data, data that no run can read, or a run that can read none of it.
    """
    loaded = [load(path) for path in runs]
    if not loaded or not data:
        raise UpstairsError("a table of breadth needs runs and data: write `upstairs breadth RUN RUN --data A B`")
    if regression := [str(run.path) for run in loaded if run.settings.task_kind == "regression"]:
        raise UpstairsError(f"{regression[0]} learned regression, which has no kinds of classes: take other runs")
    readers = [[run for run in loaded if reads(run, kind)] for kind in data]
    if foreign := [kind for kind, some in zip(data, readers, strict=True) if not some]:
        raise UpstairsError(f"no run reads the inputs of {foreign[0]}: take data of the kind that one was trained on")
    if idle := [run for run in loaded if not any(run in some for some in readers)]:
        raise UpstairsError(f"{idle[0].path} reads the inputs of none of {', '.join(data)}: leave it out")
    memory, seeds, names = memory or Remembered(None), enough_seeds(seed, tasks), [*name_runs(loaded), NEAREST]
    jobs: dict[tuple[str, str], tuple[Learner, Episodes]] = {}  # by row and kind of data
    for kind, some in zip(data, readers, strict=True):
        for run, name in zip([*loaded, some[0]], names, strict=True):
            if run in some:
                episodes = tasks_of(run, kind, way=way, shot=shot, query=query)
                plain = baselines_for(run.settings, episodes.source, way) if name == NEAREST else {}
                jobs[name, kind] = next(iter(plain.values()), run.learner), episodes
    cells = {}
    with counting("measuring breadth", quiet=quiet) as progress:
        for job, (learner, episodes) in jobs.items():
            tell = progress and (lambda done, total: progress(len(cells) * total + done, len(jobs) * total))
            cells[job] = describe_score(memory(learner, episodes, seeds, progress=tell), score_kind(episodes))
    rows = [
        {
            "name": name,
            "trained_on": run.settings.data if run else "",
            "transductive": bool(run and run.learner.transductive),
            **summary(
                [cells.get((name, kind)) for kind in data],
                [absolute(kind) in run.settings.data.split(SIGN) for kind in data] if run else (),
            ),
        }
        for name, run in zip(names, [*loaded, None], strict=True)
    ]
    return {"data": list(data), "way": way, "shot": shot, "tasks": tasks, "seed": seed, "rows": rows}


def tasks_of(run: Run, kind: str, *, way: int, shot: int, query: int | None) -> Episodes:
    """Returns tasks of the test classes of a kind of data, in the run's input format."""
    episodes, *_ = choose_episodes([run], data=kind, split="test", way=way, shot=shot, query=query, quiet=True)
    if tuple(episodes.source.feature_shape) != run.inputs.shape:
        raise UpstairsError(
            f"{kind} has inputs of shape {tuple(episodes.source.feature_shape)} and {run.path} takes "
            f"{run.inputs.shape}: take data of the kind that it was trained on"
        )
    return episodes


def summary(cells: Sequence[dict[str, Any] | None], own: Sequence[bool] = ()) -> dict[str, Any]:
    """Returns a row's cells with their mean and minimum, and the means over its own kinds of data and over the others.

    Args:
        own: for each cell, whether the row was trained on that kind of data. Empty: it was not trained.
    """
    scores = [cell["accuracy"] for cell in cells if cell]
    parts = {
        what: [cell["accuracy"] for cell, mine in zip(cells, own, strict=False) if cell and mine == wanted]
        for what, wanted in (("own", True), ("other", False))
    }
    means = {what: float(np.mean(part)) if part else None for what, part in parts.items()}
    return {"cells": list(cells), "mean": float(np.mean(scores or [0.0])), "worst": min(scores, default=0.0), **means}


def print_breadth(result: dict[str, Any]) -> None:
    """Prints the table on the terminal."""
    rows = with_short_names(result)["rows"]
    show_table(
        f"{result['way']}-way {result['shot']}-shot, {result['tasks']} tasks of test classes",
        ("run", "trained on", *map(short_name, result["data"]), "mean", "worst"),
        [
            (
                row["name"],
                row["trained_on"] or "nothing",
                *(write_mean({**c, "transductive": row["transductive"]}) if c else "–" for c in row["cells"]),
                *(write_value("accuracy", row[what]) for what in ("mean", "worst")),
            )
            for row in rows
        ],
        DAGGER if any(row["transductive"] for row in rows) else None,
    )


def write_breadth(result: dict[str, Any], path: Path, *, command: str) -> Path:
    """Writes the table as a page (.html) or as a picture."""
    result = with_short_names(result)
    if path.suffix.lower() != ".html":
        return save_picture(result, path)
    head = {"title": "How far learning to learn reaches", "command": command, "versions": versions()}
    return write_report({**head, "matrices": [result]}, path)


def with_short_names(result: dict[str, Any]) -> dict[str, Any]:
    """Returns the result with data sets named without their paths."""
    rows = [{**row, "trained_on": short_name(row["trained_on"])} for row in result["rows"]]
    return {**result, "data": [short_name(kind) for kind in result["data"]], "rows": rows}


def save_picture(result: dict[str, Any], path: Path) -> Path:
    """Writes the table as a picture, darker where accuracy is higher."""
    from matplotlib.figure import Figure

    scores, half = (
        np.array([[100 * cell[what] if cell else np.nan for cell in row["cells"]] for row in result["rows"]])
        for what in ("accuracy", "ci95")
    )
    figure = Figure(figsize=(2.6 + 1.5 * scores.shape[1], 1.4 + 0.6 * scores.shape[0]), layout="constrained")
    axes, chance = figure.subplots(), 100 / result["way"]
    axes.imshow(scores, vmin=chance, vmax=100, cmap="Blues", aspect="auto")
    axes.set_xticks(range(scores.shape[1]), result["data"])
    axes.set_yticks(
        range(scores.shape[0]), [" on ".join(filter(None, (r["name"], r["trained_on"]))) for r in result["rows"]]
    )
    axes.set_xlabel("tested on")
    for (i, j), value in np.ndenumerate(scores):
        if not np.isnan(value):
            ink = "black" if value < (100 + chance) / 2 else "white"
            axes.text(j, i, f"{value:.1f} ± {half[i, j]:.1f}", ha="center", va="center", color=ink)
    try:
        figure.savefig(path)
    except (ValueError, OSError) as error:
        raise UpstairsError(f"the picture {path} cannot be drawn ({error}): name one such as breadth.png") from error
    return path
