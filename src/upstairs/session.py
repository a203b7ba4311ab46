"""What the commands do, with progress on the terminal; each is one call in Python too."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from upstairs.checkpoint import load_tensors, write_atomically
from upstairs.console import counting, tell_user, training, write_number
from upstairs.defaults import absolute, draft, resolve, with_paths
from upstairs.errors import UpstairsError
from upstairs.evaluate import evaluate, score_kind
from upstairs.learners import GradientLearner, baselines_for, with_steps
from upstairs.pipeline import prepare
from upstairs.report.measure import measure
from upstairs.report.page import write_report
from upstairs.run import Run, load, load_adapted, refuse_other_kind, refuse_unlike
from upstairs.settings import Settings
from upstairs.tasks.datasets import open_data, open_source
from upstairs.tasks.episodes import Episodes
from upstairs.tasks.functions import FUNCTIONS, function_splits
from upstairs.tasks.sources import Source, Splits
from upstairs.tasks.tables import is_text, open_texts, text_splits, texts_of
from upstairs.trainer import Training, restore, train_run


def open_splits(settings: dict[str, Any], *, quiet: bool) -> Splits:
    """The data that settings name, with a bar while pictures are decoded for the first time."""
    if functions := function_splits(settings.get("data", "glyphs")):
        return functions
    if is_text(settings.get("data", "glyphs")):
        with counting("reading texts", quiet=quiet) as progress:
            return text_splits(
                settings["data"],
                split=settings.get("split"),
                seed=settings.get("split_seed") or 0,
                columns=settings.get("columns"),
                encoder=settings.get("encoder"),
                progress=progress,
            )
    with counting("reading pictures", quiet=quiet) as progress:
        return open_data(
            settings.get("data", "glyphs"),
            split=settings.get("split"),
            seed=settings.get("split_seed") or 0,
            progress=progress,
        )


def start_run(given: dict[str, Any], out: Path, *, quiet: bool, splits: Splits | None = None) -> Run:
    """Train from the beginning.

    Raises:
        UpstairsError: `out` holds a run already, the data cannot be used, or training met something not finite.
    """
    if (out / "last.safetensors").exists():
        raise UpstairsError(f"{out} holds a run already: go on with it by --resume, or choose another --out")
    given = with_paths({"data": "glyphs", **given})
    draft(given, regression=splits.train.functions is not None if splits else given["data"] in FUNCTIONS)
    splits = splits or open_splits(given, quiet=quiet)
    trainer = Training(resolve(given, splits.train), splits, out)
    write_atomically(out / "settings.json", json.dumps(trainer.settings.to_json(), indent=1).encode())
    prepare(trainer, splits, quiet=quiet)
    return _train(trainer, quiet=quiet)


def train(
    learner: str, *, out: str | Path, data: str | Path | Splits = "glyphs", quiet: bool = False, **settings: Any
) -> Run:
    """Meta-train from Python: `upstairs.train("protonet", data="my_pictures/", out="runs/mine", minutes=10)`.

    Args:
        learner: its published name.
        out: the run's directory; a run that it holds already is gone on with.
        data: what `upstairs train --data` takes, or `Splits` of your own: `split_by_ratio(Source.from_arrays(x, y))`.
        settings: any field of `Settings`, such as `minutes`, `steps`, `way`, `shot`, `seed`.

    Raises:
        UpstairsError: a setting, a path or data that cannot be used.
    """
    out = Path(out)
    if unknown := set(settings) - {f.name for f in fields(Settings)}:
        raise UpstairsError(f"there is no setting '{min(unknown)}': `upstairs train --help` names them all")
    splits = data if isinstance(data, Splits) else None
    given = {**settings, "learner": learner, "data": splits.train.name if splits else str(data)}
    if (out / "last.safetensors").exists():
        return resume_run(out, given, quiet=quiet, splits=splits)
    return start_run(given, out, quiet=quiet, splits=splits)


def resume_run(out: Path, given: dict[str, Any], *, quiet: bool, splits: Splits | None = None) -> Run:
    """Go on from the last checkpoint. A new --steps or --minutes replaces the budget; nothing else may differ.

    Raises:
        UpstairsError: the checkpoint cannot be read, or a setting was given that the run does not have.
    """
    _, meta = load_tensors(out / "last.safetensors", kind="run")
    settings = Settings.from_json(meta["settings"])
    given = with_paths(given)
    budget = {name: given.pop(name) for name in ("steps", "minutes") if name in given}
    for name, value in given.items():
        if getattr(settings, name) != value:
            raise UpstairsError(
                f"--{name.replace('_', '-')} is {value} and the run in {out} has {getattr(settings, name)}: "
                "leave it out to go on with that run, or choose another --out"
            )
    if budget:
        settings = replace(settings, steps=budget.get("steps"), minutes=budget.get("minutes"))
    trainer = Training(settings, splits or open_splits(settings.to_json(), quiet=quiet), out)
    restore(trainer)
    return _train(trainer, quiet=quiet)


def _train(trainer: Training, *, quiet: bool) -> Run:
    try:
        with training(f"training {trainer.settings.learner}", quiet=quiet) as tell:
            train_run(trainer, tell)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"step {trainer.progress.step} is saved; go on with: upstairs train --out {trainer.out} --resume"
        ) from None
    run = load(trainer.out)
    if not quiet:
        kind, value = score_kind(trainer.episodes), trainer.progress.best
        best = "no validation" if value is None else f"best on validation tasks {write_number(kind.name, value)}"
        tell_user(f"{trainer.out}: {trainer.progress.step} steps, {best}; next: upstairs evaluate {trainer.out}")
    return run


def choose_source(run: Run, data: str | None, split: str | None, *, quiet: bool) -> tuple[Source, str, str]:
    """The classes to evaluate on, with the data's name and the split's."""
    if functions := function_splits(data or run.settings.data):
        if split not in (None, "test"):
            raise UpstairsError(
                f"--split is '{split}' and {functions.test.name} has no split, since every task is a new function: "
                "leave it out"
            )
        return functions.test, functions.test.name, "test"
    own = data is None or absolute(data) == run.settings.data
    split = split or ("test" if own else "all")
    if split not in ("train", "val", "test", "all"):
        raise UpstairsError(f"--split is '{split}': choose train, val, test or all")
    if own and split != "all":
        return getattr(open_splits(run.settings.to_json(), quiet=quiet), split), run.settings.data, split
    form, name = run.inputs.format, str(data or run.settings.data)
    if run.inputs.are_texts:
        if split != "all":
            raise UpstairsError(f"--split is '{split}' and {name} is judged whole: leave it out")
        with counting("reading texts", quiet=quiet) as progress:
            columns = run.settings.columns if own else None
            return open_texts(name, columns=columns, format=form, progress=progress), name, split
    with counting("reading pictures", quiet=quiet) as progress:
        size, channels, ink = (form.size, form.channels, form.ink) if form else (None, None, None)
        if split == "all":
            return open_source(name, size=size, channels=channels, ink=ink, progress=progress), name, split
        splits = open_data(name, size=size, channels=channels, ink=ink, progress=progress)
        return getattr(splits, split), name, split


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
    refuse_other_kind(runs, source)
    if shot is None:
        shot = runs[0].settings.shots[1] if source.functions else 1
    if source.functions:
        return Episodes(source, way=way or 0, shot=shot, query=query or 15), name, part
    if way is None:
        way = min([5, max(2, len(source)), *(run.learner.max_way or 5 for run in runs)])
    smallest = min((len(rows) for rows in source.rows), default=0)
    if query is None:
        query = max(1, min(15, smallest - shot))
    episodes = Episodes(source, way=way, shot=shot, query=query)
    for run in runs:
        run.learner.for_way(way)  # refused before anything is scored
    return episodes, name, part


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
    """One result: the score, its interval and baselines on a frozen list of tasks."""
    run = load(path)
    episodes, name, part = choose_episodes([run], data=data, split=split, way=way, shot=shot, query=query, quiet=quiet)
    learner = run.learner
    if inner_steps is not None:
        if not isinstance(learner, GradientLearner) or inner_steps < 0:
            raise UpstairsError(
                f"--inner-steps is {inner_steps}: it takes 0 or more, for learners with an inner loop alone"
            )
        learner = with_steps(learner, inner_steps)
    opponents = baselines_for(run.settings, episodes.source, episodes.way[1]) if baselines else {}
    started = time.monotonic()
    with counting(f"evaluating {run.settings.learner}", quiet=quiet) as progress:
        scores = evaluate(learner, episodes, tasks=tasks, seed=seed, baselines=opponents, progress=progress)
    return {
        "learner": run.settings.learner,
        "data": name,
        "split": part,
        **scores,
        "seconds": time.monotonic() - started,
        "steps": run.meta["progress"]["step"],
        "norm": run.settings.norm,
        **({"inner_steps": learner.steps} if isinstance(learner, GradientLearner) else {}),
        "versions": run.meta["versions"],
    }


def lines_of(path: Path) -> list[str]:
    """The texts of a file, or of standard input where it is `-`."""
    return [line for line in sys.stdin.read().splitlines() if line.strip()] if str(path) == "-" else texts_of(path)


def predict_file(model: Path, inputs: list[Path]) -> list[dict[str, Any]]:
    """For each input its label and the probabilities, by an adapted model's file.

    Raises:
        UpstairsError: no inputs, or a file that cannot be read.
    """
    if not inputs:
        raise UpstairsError("no inputs were given: write `upstairs predict MODEL INPUT...`")
    adapted = load_adapted(model)
    items = [text for path in inputs for text in lines_of(path)] if adapted.inputs.are_texts else inputs
    logits = adapted.logits(items)
    return [
        {
            "input": str(item),
            "label": label,
            "probability": float(p.max()),
            "probabilities": dict(zip(adapted.labels, map(float, p), strict=True)),
        }
        for item, label, p in zip(items, adapted.name(logits), logits.softmax(-1), strict=True)
    ]


def report_runs(paths: list[Path], *, out: Path | None, tasks: int, seed: int, quiet: bool, command: str) -> Path:
    """Measure the runs on their test classes and write the page.

    Raises:
        UpstairsError: no run was given, one cannot be read, or they cannot be compared.
    """
    if not paths:
        raise UpstairsError("no run was given: write `upstairs report RUN...`")
    runs = [load(path) for path in paths]
    refuse_unlike(runs)
    if runs[0].settings.way == 0:
        raise UpstairsError(f"{paths[0]} learned regression and a report is about classes: use evaluate and compare")
    splits = open_splits(runs[0].settings.to_json(), quiet=quiet)
    with counting("measuring", quiet=quiet) as progress:
        report = measure(runs, splits, tasks=tasks, seed=seed, command=command, progress=progress)
    return write_report(report, out or paths[0] / "report.html")
