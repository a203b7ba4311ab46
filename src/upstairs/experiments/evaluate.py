"""A run from its directory, scored on a frozen list of tasks beside its baselines."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from upstairs.console import counting
from upstairs.data.audio.folders import is_sound, open_sounds
from upstairs.data.audio.format import AudioFormat
from upstairs.data.episodes import Episodes
from upstairs.data.images.datasets import open_source
from upstairs.data.mixture import SIGN, episodes_of
from upstairs.data.open import absolute, asked_of, open_splits
from upstairs.data.regression import function_splits
from upstairs.data.source import Source
from upstairs.data.text.tables import is_text, open_texts
from upstairs.engine.evaluate import evaluate
from upstairs.errors import UpstairsError
from upstairs.learners import Augmented, Unconditioned, baselines_for
from upstairs.training.run import Run, check_comparable, check_task_kind, load


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
    augment: Path | None = None,
    baselines: bool = True,
    quiet: bool = False,
) -> dict[str, Any]:
    """One result: the score, its interval and baselines on a frozen list of tasks."""
    run = load(path)
    episodes, name, part = choose_episodes([run], data=data, split=split, way=way, shot=shot, query=query, quiet=quiet)
    learner = run.learner
    if inner_steps is not None:
        learner = learner.with_steps(inner_steps)
    plain = baselines_for(run.settings, episodes.source, episodes.way[1]) if baselines else {}
    if augment is not None:
        plain["not augmented"] = learner
        generator = load(augment).generator()
        check_comparable([run, load(augment)], foreign=True)
        learner = Augmented(learner, generator, count=5)
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


UNHEARD: dict[str, Any] = {"spoken": None}  # made-up words serve training alone: no synthesiser is needed after it


def reads(run: Run, data: str) -> bool:
    """Is the data of the kind of inputs (texts, sounds, pictures or arrays) that the run was trained on?"""
    first = data.split(SIGN)[0]
    text, sound = run.inputs.are_texts, isinstance(run.inputs.format, AudioFormat)
    return is_text(first) == text and (text or (first != "glyphs" and is_sound(first)) == sound)


def choose_source(run: Run, data: str | None, split: str | None, *, quiet: bool) -> tuple[Source, str, str]:
    """The classes to evaluate on, with the data's name and the split's."""
    if functions := function_splits(data or run.settings.data):
        if split not in (None, "test"):
            raise UpstairsError(
                f"`split` is '{split}' and {functions.test.name} has no split, since every task is a new function: "
                "leave it out"
            )
        return functions.test, functions.test.name, "test"
    own = data is None or absolute(data) == run.settings.data
    split = split or ("test" if own else "all")
    if split not in ("train", "val", "test", "all"):
        raise UpstairsError(f"`split` is '{split}': choose train, val, test or all")
    if own and split != "all":
        again = open_splits(run.settings.to_json() | UNHEARD, quiet=quiet, format=run.inputs.format)
        return getattr(again, split), run.settings.data, split
    form, name = run.inputs.format, str(data or run.settings.data)
    columns = run.settings.columns if own else None
    if split != "all":
        return getattr(open_splits({"data": name, "columns": columns}, quiet=quiet, format=form), split), name, split
    if SIGN in name:
        raise UpstairsError(f"`split` all is about one data set and {name} is several: leave it out, or name one")
    with counting("reading examples", quiet=quiet) as progress:
        if run.inputs.are_texts:
            return open_texts(name, columns=columns, format=form, progress=progress), name, split
        if isinstance(form, AudioFormat):
            return open_sounds(name, format=form, progress=progress), name, split
        return open_source(name, **asked_of(form), progress=progress), name, split


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
    """The tasks to evaluate on, with the data's name and the split's; what is left out is what all runs can do."""
    source, name, part = choose_source(runs[0], data, split, quiet=quiet)
    check_task_kind(runs, source)
    if shot is None:
        shot = runs[0].settings.shots[1] if source.functions else 1
    if source.functions:
        return Episodes(source, way=way or 0, shot=shot, query=query or 15), name, part
    if way is None:
        way = min([5, max(2, source.most_way), *(run.learner.max_way or 5 for run in runs)])
    smallest = min((len(rows) for rows in source.rows), default=0)
    if query is None:
        query = max(1, min(15, smallest - shot))
    episodes = episodes_of(source, way=way, shot=shot, query=query)
    for run in runs:
        run.learner.for_way(way)  # refused before anything is scored
    return episodes, name, part
