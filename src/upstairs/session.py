"""What the commands do, with progress on the terminal; each is one call in Python too."""

import io
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from upstairs.checkpoint import load_tensors, write_atomically
from upstairs.console import counting, tell_user, write_number
from upstairs.defaults import draft, resolve, with_paths
from upstairs.errors import UpstairsError
from upstairs.evaluate import evaluate, score_kind
from upstairs.learners import (
    Augmented,
    GradientLearner,
    NeuralStatistician,
    Unconditioned,
    baselines_for,
    learners,
    with_steps,
)
from upstairs.opening import choose_episodes, limited, open_splits
from upstairs.pipeline import prepare, with_bar
from upstairs.recipes import DATA, RECIPES
from upstairs.report.drawings import measure_drawings
from upstairs.report.measure import measure
from upstairs.report.page import write_report
from upstairs.run import Run, load, load_adapted, refuse_unlike
from upstairs.settings import Settings
from upstairs.tasks.functions import FUNCTIONS
from upstairs.tasks.sources import Splits
from upstairs.tasks.tables import texts_of
from upstairs.tasks.text import as_text
from upstairs.trainer import Training, restore


def start_run(given: dict[str, Any], out: Path, *, quiet: bool, splits: Splits | None = None) -> Run:
    """Train from the beginning.

    Raises:
        UpstairsError: `out` holds a run already, the data cannot be used, or training met something not finite.
    """
    if (out / "last.safetensors").exists():
        raise UpstairsError(f"{out} holds a run already: go on with it by --resume, or choose another --out")
    trainer, splits = open_run(given, out, quiet=quiet, splits=splits)
    write_atomically(out / "settings.json", json.dumps(trainer.settings.to_json(), indent=1).encode())
    prepare(trainer, splits, quiet=quiet)
    return _train(trainer, quiet=quiet)


def open_run(
    given: dict[str, Any], out: Path, *, quiet: bool, splits: Splits | None = None
) -> tuple[Training, Splits]:  # fmt: skip
    """A run before its first step, and its data; nothing is written.

    Raises:
        UpstairsError: settings or data that cannot be used.
    """
    given = with_paths({"data": "glyphs", **given})
    draft(given, regression=splits.train.functions is not None if splits else given["data"] in FUNCTIONS)
    splits = splits or open_splits(given, quiet=quiet)
    return Training(resolve(given, splits.train), splits, out), splits


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
    return start_run(given, out, quiet=quiet, splits=splits and limited(splits, given))


def resume_run(out: Path, given: dict[str, Any], *, quiet: bool, splits: Splits | None = None) -> Run:
    """Go on from the last checkpoint. A new budget or --device replaces the old one; nothing else may differ.

    Raises:
        UpstairsError: the checkpoint cannot be read, or a setting was given that the run does not have.
    """
    _, meta = load_tensors(out / "last.safetensors", kind="run")
    settings = Settings.from_json(meta["settings"])
    given = with_paths(given)
    budget = {name: given.pop(name) for name in ("steps", "minutes") if name in given}
    settings = replace(settings, device=given.pop("device", settings.device))
    for name, value in given.items():
        if getattr(settings, name) != value:
            raise UpstairsError(
                f"--{name.replace('_', '-')} is {value} and the run in {out} has {getattr(settings, name)}: "
                "leave it out to go on with that run, or choose another --out"
            )
    if budget:
        settings = replace(settings, steps=budget.get("steps"), minutes=budget.get("minutes"))
    own = settings.to_json()
    trainer = Training(settings, limited(splits, own) if splits else open_splits(own, quiet=quiet), out)
    restore(trainer)
    return _train(trainer, quiet=quiet)


def _train(trainer: Training, *, quiet: bool) -> Run:
    go_on = f"go on with: upstairs train --out {trainer.out} --resume"
    with_bar(trainer, f"training {trainer.settings.learner}", go_on, quiet=quiet)
    run = load(trainer.out)
    if not quiet:
        kind, value = score_kind(trainer.episodes), trainer.progress.best
        best = "no validation" if value is None else f"best on validation tasks {write_number(kind.name, value)}"
        stopped = f", stopped after {trainer.settings.patience} validations without a better one" * trainer.stale
        steps = f"{trainer.progress.step} steps{stopped}"
        tell_user(f"{trainer.out}: {steps}, {best}; next: upstairs evaluate {trainer.out}")
    return run


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
        if not isinstance(learner, GradientLearner) or inner_steps < 0:
            raise UpstairsError(
                f"--inner-steps is {inner_steps}: it takes 0 or more, for learners with an inner loop alone"
            )
        learner = with_steps(learner, inner_steps)
    opponents = baselines_for(run.settings, episodes.source, episodes.way[1]) if baselines else {}
    if augment is not None:
        opponents["not augmented"] = learner
        generator = load(augment).generator()
        refuse_unlike([run, load(augment)], foreign=True)
        learner = Augmented(learner, generator, count=5)
    if baselines and isinstance(learner, NeuralStatistician):
        opponents["unconditioned"] = Unconditioned(learner)
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
    if str(path) != "-":
        return texts_of(path)
    own = sys.stdin  # bytes where there are some: in some locales Python lets through what is not UTF-8
    read = as_text(own.buffer.read() if isinstance(own, io.TextIOWrapper) else own.read(), "standard input")
    return [line for line in read.splitlines() if line.strip()]


def predict_file(model: Path, inputs: Sequence[Path], texts: Sequence[str] = ()) -> list[dict[str, Any]]:
    """For each input its label and the probabilities, by an adapted model's file.

    Args:
        texts: inputs that are texts, as they stand here.

    Raises:
        UpstairsError: no inputs, or a file that cannot be read; texts for a model of something else.
    """
    if not inputs and not texts:
        raise UpstairsError("no inputs were given: write `upstairs predict MODEL INPUT...`")
    adapted = load_adapted(model)
    if texts and not adapted.inputs.are_texts:
        raise UpstairsError(f"--text was given and {model} names no texts: give files to name instead")
    items = [text for path in inputs for text in lines_of(path)] if adapted.inputs.are_texts else list(inputs)
    items = [*items, *texts]
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
    if any(run.settings.way == 1 for run in runs):
        drawn = measure_drawings(runs, splits, tasks=tasks, seed=seed, command=command)
        return write_report(drawn, out or paths[0] / "report.html")
    with counting("measuring", quiet=quiet) as progress:
        report = measure(runs, splits, tasks=tasks, seed=seed, command=command, progress=progress)
    return write_report(report, out or paths[0] / "report.html")


def list_all() -> dict[str, list[dict[str, Any]]]:
    """Every learner with its defaults, kind of data and recipe."""
    table = sorted(learners().items())
    return {
        "learners": [{"name": n, "summary": e.summary, "defaults": e.defaults} for n, e in table],
        "data": [{"name": n, "summary": summary} for n, summary in DATA.items()],
        "recipes": [{"name": n, "summary": r.summary, "settings": r.settings} for n, r in RECIPES.items()],
    }
