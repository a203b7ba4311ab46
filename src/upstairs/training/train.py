"""What the commands do, with progress on the terminal; each is one call in Python too."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from upstairs.console import tell_user, write_number
from upstairs.data.open import data_options, limited, open_splits, with_paths
from upstairs.data.regression import FUNCTIONS
from upstairs.data.splits import Splits
from upstairs.engine.metrics import score_kind
from upstairs.errors import UpstairsError
from upstairs.settings import Settings
from upstairs.storage import load_tensors, write_atomically
from upstairs.training.defaults import draft, resolve
from upstairs.training.pretrain import prepare, with_bar
from upstairs.training.run import Run, load
from upstairs.training.trainer import Trainer, restore


def start_run(given: dict[str, Any], out: Path, *, quiet: bool, splits: Splits | None = None) -> Run:
    """Train from the beginning.

    Raises:
        UpstairsError: `out` holds a run already, the data cannot be used, or training met something not finite.
    """
    if (out / "last.safetensors").exists():
        raise UpstairsError(f"{out} holds a run already: go on with it by `resume`, or choose another `out`")
    trainer, splits = open_run(given, out, quiet=quiet, splits=splits)
    write_atomically(out / "settings.json", json.dumps(trainer.settings.to_json(), indent=1).encode())
    prepare(trainer, splits, quiet=quiet)
    return _train(trainer, quiet=quiet)


def open_run(
    given: dict[str, Any], out: Path, *, quiet: bool, splits: Splits | None = None
) -> tuple[Trainer, Splits]:  # fmt: skip
    """A run before its first step, and its data; nothing is written.

    Raises:
        UpstairsError: settings or data that cannot be used.
    """
    given = with_paths({"data": "glyphs", **given})
    draft(given, regression=splits.train.functions is not None if splits else given["data"] in FUNCTIONS)
    splits = splits or open_splits(data_options(given), quiet=quiet)
    return Trainer(resolve(given, splits.train), splits, out), splits


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
    return start_run(given, out, quiet=quiet, splits=splits and limited(splits, data_options(given)))


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
                f"`{name}` is {value} and the run in {out} has {getattr(settings, name)}: "
                "leave it out to go on with that run, or choose another `out`"
            )
    if budget:
        settings = replace(settings, steps=budget.get("steps"), minutes=budget.get("minutes"))
    splits = limited(splits, settings) if splits else open_splits(settings, quiet=quiet)
    trainer = Trainer(settings, splits, out)
    restore(trainer)
    return _train(trainer, quiet=quiet)


def _train(trainer: Trainer, *, quiet: bool) -> Run:
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
