"""Starts and resumes runs, with progress on the terminal."""

import json
import secrets
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from upstairs.console import tell_user, write_value
from upstairs.core import Learner
from upstairs.data.episodes import Episodes
from upstairs.data.open import open_splits, split_own, with_paths
from upstairs.data.regression.rows import left_out
from upstairs.data.source import Source
from upstairs.data.splits import Splits
from upstairs.engine.metrics import score_kind
from upstairs.errors import UpstairsError, check_type
from upstairs.learners.registry import ObjectOptions, changed, read_settings
from upstairs.ranks import all_told, check_alike, first_then_others, is_first, on_all, process_group, shared, world
from upstairs.settings import Settings
from upstairs.storage import load_tensors, write_atomically
from upstairs.training.compatibility import check_same_data
from upstairs.training.defaults import (
    RunRequest,
    expand_preset,
    fit_settings,
    plain_values,
    request_object,
    request_run,
)  # fmt: skip
from upstairs.training.pretrain import prepare, with_bar
from upstairs.training.run import Run, load
from upstairs.training.trainer import Trainer, restore


def start_run(
    request: RunRequest, out: Path, *, quiet: bool, splits: Splits | None = None, learner: Learner | None = None
) -> Run:
    """Trains a new run.

    Raises:
        UpstairsError: `out` holds a run already, the data cannot be used, or a loss is not finite.
    """
    if (out / "last.safetensors").exists():
        raise UpstairsError(f"{out} holds a run already: go on with it by `resume`, or choose another `out`")
    quiet = quiet or not is_first()
    if "shards" not in request.given and world() > 1:
        request = replace(
            request, settings=replace(request.settings, shards=world(), threads=request.settings.threads or 1)
        )
    trainer, splits = open_run(request, out, quiet=quiet, splits=splits, learner=learner)
    if is_first():
        write_atomically(out / "settings.json", json.dumps(trainer.settings.to_json(), indent=1).encode())
    _check_together(trainer)
    prepare(trainer, splits, quiet=quiet)
    return _train(trainer, quiet=quiet, splits=splits)


def open_run(
    request: RunRequest, out: Path, *, quiet: bool, splits: Splits | None = None, learner: Learner | None = None
) -> tuple[Trainer, Splits]:
    """Returns a run before its first step, and its data; nothing is written.

    Raises:
        UpstairsError: settings or data that cannot be used.
    """
    if splits is None:
        splits = first_then_others(lambda: open_splits(request.settings, quiet=quiet))
        if quiet and ";" in splits.train.summary:  # what was left out is said in any case
            tell_user(splits.train.summary)
    settings = fit_settings(request, splits.train)
    if note := left_out(splits.train, settings.shots[1] + settings.query):
        tell_user(note)
    return Trainer(settings, splits, out, learner=learner), splits


def train(
    learner: str | nn.Module, *, out: str | Path, data: Any = "glyphs", quiet: bool = False, **settings: Any
) -> Run:
    """Meta-trains a learner: `upstairs.train("protonet", data="my_pictures/", out="runs/mine", minutes=10)`.

        upstairs.train(upstairs.maml(net, way=5, inner_lr=0.4, steps=1), data=dataset, out="runs/mine", steps=1000)

    Args:
        learner: its published name, or that of a preset; or a `Learner` object, which is trained in place.
        out: the run's directory; a run that it holds already is resumed. For an object: make it as at the first time.
        data: as in `upstairs train --data`; or your own: a `Source`, `Splits`, `Episodes` (for training only), or a
            torch `Dataset` of (input, label), whose classes are split for training, validation and test.
        settings: options of every run, such as `minutes`, `steps`, `way`, `shot`, `seed`, and those of a learner that
            was named.

    Raises:
        UpstairsError: a setting, a path or data that cannot be used.
    """
    check_type("out", out, (str, Path), "the path of a directory for the run")
    out, own = Path(out), learner if isinstance(learner, Learner) else None
    settings = plain_values(settings)
    if not isinstance(learner, str | Learner) or isinstance(settings.get("net"), nn.Module):
        what = f"`net` is a module for {learner!r}" if isinstance(learner, str) else f"it is a {type(learner).__name__}"
        raise UpstairsError(
            f"the learner is a name, such as 'maml', or an object with a network of your own, such as "
            f"upstairs.maml(net, way=5), and {what}: give one of these"
        )
    made = None if isinstance(data, str | Path) else data
    if isinstance(made, Episodes):
        way, shot = made.way, made.shot
        if way is not None and way[0] != way[1]:
            raise UpstairsError(f"`way` of the episodes is from {way[0]} to {way[1]}: a run has one number of classes")
        shots = str(shot[0]) if shot[0] == shot[1] else f"{shot[0]}-{shot[1]}"
        settings = {"way": way and way[0], "shot": shots, "query": made.query, "speakers": made.speakers, **settings}
    source = made.train if isinstance(made, Splits) else made.source if isinstance(made, Episodes) else made
    settings["data"] = str(data) if made is None else source.name if isinstance(source, Source) else type(data).__name__
    with process_group(settings.get("device", "auto")):
        if (out / "last.safetensors").exists():
            stored = resumed_settings(out, learner, **settings)
            splits = None if made is None else split_own(made, stored)
            return resume_run(out, stored, quiet=quiet, splits=splits, learner=own)
        if isinstance(learner, Learner):
            request = request_object(learner, **settings)
        else:
            regression = None if made is None else isinstance(source, Source) and source.functions is not None
            request = request_run(learner, regression=regression, **settings)
        splits = None if made is None else split_own(made, request.settings)
        return start_run(request, out, quiet=quiet, splits=splits, learner=own)


def resumed_settings(out: Path, learner: str | Learner | None = None, **values: Any) -> Settings:
    """Returns the settings to resume the run in `out` with: a new budget or device replaces the old one.

    Raises:
        UpstairsError: the checkpoint cannot be read, or another setting differs from the run's.
    """
    stored = read_settings(load_tensors(out / "last.safetensors", kind="run")[1]["settings"])
    if isinstance(stored.own, ObjectOptions) and not isinstance(learner, Learner):
        raise UpstairsError(
            f"the run in {out} trains an object of the class '{stored.learner}': go on with it by the same call of "
            "upstairs.train in Python"
        )
    if isinstance(learner, Learner):
        learner = type(learner).__name__
    else:
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


def resume_run(
    out: Path, settings: Settings, *, quiet: bool, splits: Splits | None = None, learner: Learner | None = None
) -> Run:
    """Resumes the run in `out` from its last checkpoint, with settings from `resumed_settings`."""
    quiet = quiet or not is_first()
    opened = splits or first_then_others(lambda: open_splits(settings, quiet=quiet))
    trainer = Trainer(settings, opened, out, learner=learner)
    restore(trainer)
    _check_together(trainer)
    return _train(trainer, quiet=quiet, splits=splits)


def _check_together(trainer: Trainer) -> None:
    """Raises UpstairsError, on all processes of a run, where they differ or do not share the folder of the run."""
    here = {"upstairs": version("upstairs"), "torch": torch.__version__, "step": trainer.progress.step}
    check_alike(**here, settings=trainer.settings.to_json())
    theirs = all_told(trainer.fingerprint)[0]
    on_all(lambda: check_same_data(trainer.fingerprint, theirs, trainer.out))
    if world() > 1:
        token = trainer.out / ".processes"
        word = shared(lambda: _write_word(token))
        on_all(lambda: _read_word(token, word))
        if is_first():
            token.unlink(missing_ok=True)


def _write_word(token: Path) -> str:
    write_atomically(token, (word := secrets.token_hex(8)).encode())
    return word


def _read_word(token: Path, word: str) -> None:
    until = time.monotonic() + 10  # a network's file system may show a file late
    while not (token.is_file() and token.read_text(encoding="ascii") == word):
        if time.monotonic() > until:
            raise UpstairsError(
                f"a process does not see what process 0 writes into {token.parent}: give an `out` in a folder that all "
                "machines share"
            )
        time.sleep(0.1)


def _train(trainer: Trainer, *, quiet: bool, splits: Splits | None) -> Run:
    by_object = isinstance(trainer.settings.own, ObjectOptions)
    go_on = f"go on with: upstairs train --out {trainer.out} --resume" if not by_object else "the same call goes on"
    with_bar(trainer, f"training {trainer.settings.learner}", go_on, quiet=quiet)
    all_told(None, long=True)  # the first process has written the last checkpoint
    run = replace(load(trainer.out, learner=trainer.learner if by_object else None), splits=splits)
    if not quiet:
        kind, value = score_kind(trainer.episodes), trainer.progress.best
        best = "no validation" if value is None else f"best on validation tasks {write_value(kind.name, value)}"
        stopped = f", stopped after {trainer.settings.patience} validations without a better one" * trainer.stale
        steps = f"{trainer.progress.step} steps{stopped}"
        tell_user(f"{trainer.out}: {steps}, {best}" + f"; next: upstairs evaluate {trainer.out}" * (splits is None))
    return run
