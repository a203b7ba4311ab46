"""How far learning to learn reaches: runs by kinds of data, `upstairs breadth RUN... --data A B`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from upstairs.console import counting, show_table, write_number, write_score
from upstairs.errors import UpstairsError
from upstairs.evaluate import describe_score, enough_seeds, score_kind, score_tasks
from upstairs.opening import choose_episodes
from upstairs.report.measure import name_runs, short_name
from upstairs.run import load


def breadth(
    runs: Sequence[str | Path],
    data: Sequence[str],
    *,
    way: int = 5,
    shot: int = 1,
    query: int | None = None,
    tasks: int = 600,
    seed: int = 0,
    quiet: bool = False,
) -> dict[str, Any]:
    """Each run on the test classes of each kind of data.

    Args:
        runs: the directories of runs.
        data: what `upstairs train --data` takes; each must suit the inputs that the runs were trained on.
        way, shot, query, tasks, seed: as `upstairs evaluate` takes them.

    Returns:
        `rows`: for each run its name, what it was trained on, its `cells` (score and interval for each kind of data),
        and the mean and the worst of them.

    Raises:
        UpstairsError: no run, no data, or data that a run cannot read.
    """
    loaded = [load(path) for path in runs]
    if not loaded or not data:
        raise UpstairsError("a table of breadth needs runs and data: write `upstairs breadth RUN RUN --data A B`")
    if regression := [str(run.path) for run in loaded if run.settings.way == 0]:
        raise UpstairsError(f"{regression[0]} learned regression, which has no kinds of classes: take other runs")
    seeds, rows = enough_seeds(seed, tasks), []
    with counting("measuring breadth", quiet=quiet) as progress:
        for name, run in zip(name_runs(loaded), loaded, strict=True):
            cells = []
            for kind in data:
                episodes, *_ = choose_episodes(
                    [run], data=kind, split="test", way=way, shot=shot, query=query, quiet=True
                )
                if tuple(episodes.source.feature_shape) != run.inputs.shape:
                    raise UpstairsError(
                        f"{kind} has inputs of shape {tuple(episodes.source.feature_shape)} and {run.path} takes "
                        f"{run.inputs.shape}: take data of the kind that it was trained on"
                    )
                done = len(rows) * len(data) + len(cells)
                tell = progress and (lambda k, n, done=done: progress(done * n + k, n * len(data) * len(loaded)))
                cells.append(
                    describe_score(score_tasks(run.learner, episodes, seeds, progress=tell), score_kind(episodes))
                )
            scores = [cell["accuracy"] for cell in cells]
            rows.append(
                {
                    "name": name,
                    "trained_on": run.settings.data,
                    "transductive": run.learner.transductive,
                    "cells": cells,
                    "mean": float(np.mean(scores)),
                    "worst": min(scores),
                }
            )
    return {"data": list(data), "way": way, "shot": shot, "tasks": tasks, "seed": seed, "rows": rows}


def print_breadth(result: dict[str, Any]) -> None:
    """The table on the terminal."""
    show_table(
        f"{result['way']}-way {result['shot']}-shot, {result['tasks']} tasks of test classes",
        ("run", "trained on", *map(short_name, result["data"]), "mean", "worst"),
        [
            (
                row["name"],
                short_name(row["trained_on"]),
                *(write_score({**cell, "transductive": row["transductive"]}) for cell in row["cells"]),
                write_number("accuracy", row["mean"]),
                write_number("accuracy", row["worst"]),
            )
            for row in result["rows"]
        ],
        "† transductive: it sees all queries of a task at once"
        if any(r["transductive"] for r in result["rows"])
        else None,
    )


def draw_breadth(result: dict[str, Any], path: Path) -> Path:
    """The table as a picture, brighter where more is right."""
    from matplotlib.figure import Figure

    scores = np.array([[100 * cell["accuracy"] for cell in row["cells"]] for row in result["rows"]])
    half = np.array([[100 * cell["ci95"] for cell in row["cells"]] for row in result["rows"]])
    figure = Figure(figsize=(2.6 + 1.5 * scores.shape[1], 1.4 + 0.6 * scores.shape[0]), layout="constrained")
    axes = figure.subplots()
    axes.imshow(scores, vmin=100 / result["way"], vmax=100, cmap="Blues", aspect="auto")
    axes.set_xticks(range(scores.shape[1]), [short_name(d) for d in result["data"]])
    axes.set_yticks(range(scores.shape[0]), [f"{r['name']} on {short_name(r['trained_on'])}" for r in result["rows"]])
    axes.set_xlabel("tested on")
    for (i, j), value in np.ndenumerate(scores):
        bright = value < (100 + 100 / result["way"]) / 2
        axes.text(
            j, i, f"{value:.1f} ± {half[i, j]:.1f}", ha="center", va="center", color="black" if bright else "white"
        )
    try:
        figure.savefig(path)
    except (ValueError, OSError) as error:
        raise UpstairsError(f"the picture {path} cannot be drawn ({error}): name one such as breadth.png") from error
    return path
