"""Evaluation of a run and its baselines on a frozen list of tasks."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from upstairs.console import counting
from upstairs.data.episodes import Episodes
from upstairs.data.mixture import SIGN, episodes_of
from upstairs.data.open import absolute, open_splits, reader_for, reader_of
from upstairs.data.source import Source
from upstairs.engine.evaluate import evaluate
from upstairs.errors import UpstairsError
from upstairs.learners import Unconditioned, baselines_for
from upstairs.settings import DataOptions
from upstairs.training.run import Run, check_task_kind, load


def evaluate_run(
    path: Path,
    *,
    data: str | None = None,
    split: str | None = None,
    way: int | None = None,
    shot: int | None = None,
    query: int | None = None,
    tasks: int = 600,
    seed: int = 0,
    inner_steps: int | None = None,
    baselines: bool = True,
    quiet: bool = False,
) -> dict[str, Any]:
    """Returns the score of a run, with its interval and baselines, on a frozen list of tasks."""
    run = load(path)
    episodes, name, part = choose_episodes([run], data=data, split=split, way=way, shot=shot, query=query, quiet=quiet)
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


UNHEARD: dict[str, Any] = {"spoken": None}  # synthesised words are used in training only


def reads(run: Run, data: str) -> bool:
    """Returns whether data has the kind of inputs (texts, sounds, pictures or arrays) that the run was trained on."""
    return isinstance(run.inputs.format, reader_for(data).formats)


def choose_source(run: Run, data: str | None, split: str | None, *, quiet: bool) -> tuple[Source, str, str]:
    """Returns the classes to evaluate on, with the names of the data and of the split."""
    name, form = str(data or run.settings.data), run.inputs.format
    own = data is None or absolute(data) == run.settings.data
    if not reader_for(name).has_splits:
        if split not in (None, "test"):
            raise UpstairsError(
                f"`split` is '{split}' and {name} has no split, since every task is a new function: leave it out"
            )
        return open_splits(DataOptions(data=name), quiet=quiet).test, name, "test"
    split = split or ("test" if own else "all")
    if split not in ("train", "val", "test", "all"):
        raise UpstairsError(f"`split` is '{split}': choose train, val, test or all")
    if own and split != "all":
        again = open_splits(replace(run.settings, **UNHEARD), quiet=quiet, format=form)
        return getattr(again, split), run.settings.data, split
    options = replace(run.settings, **UNHEARD) if own else DataOptions(data=name, skip_bad=run.settings.skip_bad)
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
    quiet: bool,
) -> tuple[Episodes, str, str]:
    """Returns the tasks to evaluate on, with the names of the data and of the split.

    An option that is None is set to a value that every run supports.
    """
    source, name, part = choose_source(runs[0], data, split, quiet=quiet)
    check_task_kind(runs, source)
    if shot is None:
        shot = runs[0].settings.shots[1] if source.functions else 1
    if source.functions:
        return Episodes(source, way=way, shot=shot, query=query or 15), name, part
    if way is None:
        way = min([5, max(2, source.most_way), *(run.learner.max_way or 5 for run in runs)])
    smallest = min((len(rows) for rows in source.rows), default=0)
    if query is None:
        query = max(1, min(15, smallest - shot))
    episodes = episodes_of(source, way=way, shot=shot, query=query)
    for run in runs:
        run.learner.for_way(way)  # refused before anything is scored
    return episodes, name, part
