"""Starts and resumes runs, with progress on the terminal."""

import json
from pathlib import Path
from typing import Any

from upstairs.console import tell_user, write_value
from upstairs.data.open import limited, open_splits, with_paths
from upstairs.data.splits import Splits
from upstairs.engine.metrics import score_kind
from upstairs.errors import UpstairsError
from upstairs.learners.registry import changed, read_settings
from upstairs.settings import Settings
from upstairs.storage import load_tensors, write_atomically
from upstairs.training.defaults import RunRequest, expand_preset, fit_settings, request_run
from upstairs.training.pretrain import prepare, with_bar
from upstairs.training.run import Run, load
from upstairs.training.trainer import Trainer, restore


def start_run(request: RunRequest, out: Path, *, quiet: bool, splits: Splits | None = None) -> Run:
    """Trains a new run.

    Raises:
        UpstairsError: `out` holds a run already, the data cannot be used, or a loss is not finite.
    """
    if (out / "last.safetensors").exists():
        raise UpstairsError(f"{out} holds a run already: go on with it by `resume`, or choose another `out`")
    trainer, splits = open_run(request, out, quiet=quiet, splits=splits)
    write_atomically(out / "settings.json", json.dumps(trainer.settings.to_json(), indent=1).encode())
    prepare(trainer, splits, quiet=quiet)
    return _train(trainer, quiet=quiet)


def open_run(request: RunRequest, out: Path, *, quiet: bool, splits: Splits | None = None) -> tuple[Trainer, Splits]:
    """Returns a run before its first step, and its data; nothing is written.

    Raises:
        UpstairsError: settings or data that cannot be used.
    """
    if splits is None:
        splits = open_splits(request.settings, quiet=quiet)
        if quiet and ";" in splits.train.summary:  # what was left out is said in any case
            tell_user(splits.train.summary)
    return Trainer(fit_settings(request, splits.train), splits, out), splits


def train(
    learner: str, *, out: str | Path, data: str | Path | Splits = "glyphs", quiet: bool = False, **settings: Any
) -> Run:
    """Meta-trains a learner: `upstairs.train("protonet", data="my_pictures/", out="runs/mine", minutes=10)`.

    Args:
        learner: its published name, or that of a preset.
        out: the run's directory; a run that it holds already is resumed.
        data: as in `upstairs train --data`, or your own `Splits`: `split_by_ratio(Source.from_arrays(x, y))`.
        settings: options of every run, such as `minutes`, `steps`, `way`, `shot`, `seed`, and the learner's own.

    Raises:
        UpstairsError: a setting, a path or data that cannot be used.
    """
    out, splits = Path(out), data if isinstance(data, Splits) else None
    name = splits.train.name if splits else str(data)
    if (out / "last.safetensors").exists():
        stored = resumed_settings(out, learner, data=name, **settings)
        return resume_run(out, stored, quiet=quiet, splits=splits and limited(splits, stored))
    regression = splits.train.functions is not None if splits else None
    request = request_run(learner, regression=regression, data=name, **settings)
    return start_run(request, out, quiet=quiet, splits=splits and limited(splits, request.settings))


def resumed_settings(out: Path, learner: str | None = None, **values: Any) -> Settings:
    """Returns the settings to resume the run in `out` with: a new budget or device replaces the old one.

    Raises:
        UpstairsError: the checkpoint cannot be read, or another setting differs from the run's.
    """
    stored = read_settings(load_tensors(out / "last.safetensors", kind="run")[1]["settings"])
    learner, values = expand_preset(learner or stored.learner, values)
    if learner != stored.learner:
        raise _differs(out, "learner", learner, stored.learner)
    values = with_paths({name: value for name, value in values.items() if value is not None})
    if {"steps", "minutes"} & set(values):
        values = {"steps": None, "minutes": None, **values}
    settings, old = changed(stored, values), stored.to_json()
    for name in sorted(values.keys() - {"steps", "minutes", "device"}):
        if values[name] != old[name]:
            raise _differs(out, name, values[name], old[name])
    return settings


def _differs(out: Path, name: str, given: Any, stored: Any) -> UpstairsError:
    return UpstairsError(
        f"`{name}` is {given} and the run in {out} has {stored}: leave it out to go on with that run, or choose "
        "another `out`"
    )


def resume_run(out: Path, settings: Settings, *, quiet: bool, splits: Splits | None = None) -> Run:
    """Resumes the run in `out` from its last checkpoint, with settings from `resumed_settings`."""
    trainer = Trainer(settings, splits or open_splits(settings, quiet=quiet), out)
    restore(trainer)
    return _train(trainer, quiet=quiet)


def _train(trainer: Trainer, *, quiet: bool) -> Run:
    go_on = f"go on with: upstairs train --out {trainer.out} --resume"
    with_bar(trainer, f"training {trainer.settings.learner}", go_on, quiet=quiet)
    run = load(trainer.out)
    if not quiet:
        kind, value = score_kind(trainer.episodes), trainer.progress.best
        best = "no validation" if value is None else f"best on validation tasks {write_value(kind.name, value)}"
        stopped = f", stopped after {trainer.settings.patience} validations without a better one" * trainer.stale
        steps = f"{trainer.progress.step} steps{stopped}"
        tell_user(f"{trainer.out}: {steps}, {best}; next: upstairs evaluate {trainer.out}")
    return run
