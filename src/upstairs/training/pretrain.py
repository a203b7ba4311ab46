"""Initial weights: those of another run, or of a network pretrained to classify all training classes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from upstairs.console import training
from upstairs.core import Learner
from upstairs.data.splits import Splits
from upstairs.errors import UpstairsError
from upstairs.learners.registry import defaults_for, entry
from upstairs.nets import begin_at_idf, begin_centred
from upstairs.ranks import shared
from upstairs.settings import Settings
from upstairs.storage import load_tensors
from upstairs.training.checkpoint import checkpoint_in
from upstairs.training.trainer import Trainer, restore, train_run


def prepare(run: Trainer, splits: Splits, *, quiet: bool) -> None:
    """Gives a new run its initial weights: those of `start_from`, or of pretraining.

    Raises:
        UpstairsError: the other run does not exist, or none of its weights fits.
    """
    s = run.settings
    begin(run)
    if s.pretrain:
        copy_weights(run.learner, shared(lambda: pretrain(run, splits, quiet=quiet)))
    elif s.start_from:
        copy_weights(run.learner, Path(s.start_from))


def begin(run: Trainer) -> None:
    """Initialises networks for texts from the training classes: token weights by IDF, frozen features centred."""
    parts = run.source.parts or (run.source,)
    for start in (begin_at_idf, begin_centred):
        start(run.learner, (part.inputs[np.concatenate(part.rows)] for part in parts if part.rows))


def pretrain(run: Trainer, splits: Splits, *, quiet: bool) -> Path:
    """Trains the run's network to classify all training classes, in the run's folder `pretrain`; resumes if stopped."""
    first = Trainer(pretraining(run.settings, run.source.most_way), splits, run.out / "pretrain")
    if (first.out / "last.safetensors").exists():
        restore(first)
    else:
        begin(first)
    with_bar(first, f"pretraining for {run.settings.learner}", "the same command goes on", quiet=quiet)
    return first.out


def with_bar(run: Trainer, what: str, go_on: str, *, quiet: bool) -> None:
    """Trains until the budget is spent, with a progress bar; an interruption reports what is saved."""
    try:
        with training(what, quiet=quiet) as tell:
            train_run(run, tell)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"step {run.saved} of {what} is saved; {go_on}") from None


def pretraining(settings: Settings, most_way: int) -> Settings:
    """Returns the settings of pretraining: the run's network, and its share of the budget."""
    own = defaults_for("simpleshot", "classification")
    return replace(
        settings,
        **{name: own[name] for name in ("shot", "query", "tasks", "lr")},
        learner="simpleshot",
        own=entry("simpleshot").options(),
        way=min(own["way"], most_way),
        estimator="autograd",
        hard=0.0,
        interpolate="none",
        patience=None,
        pretrain=0.0,
        shards=1,
        steps=settings.steps and max(1, round(settings.pretrain * settings.steps)),
        minutes=settings.minutes and settings.pretrain * settings.minutes,
    )


@torch.no_grad()
def copy_weights(learner: Learner, path: Path) -> int:
    """Copies from a run every tensor with the same name and shape, and returns the number of tensors copied.

    The learner's prefix of a name is ignored: `encoder.block0.0.weight` fits `net.block0.0.weight` and
    `net.encoder.block0.0.weight`.

    Raises:
        UpstairsError: there is no run at `path`, or none of its weights fits.
    """
    file = checkpoint_in(path)
    if file is None:
        raise UpstairsError(f"{path} holds no checkpoint to start from: give the directory that `upstairs train` wrote")
    tensors, meta = load_tensors(file, kind="run")
    theirs = {_bare(k.split(".", 1)[1]): v for k, v in tensors.items() if k.startswith("learner.") and k.count(".") > 1}
    own = {_bare(name): value for name, value in learner.state_dict().items()}
    fit = [name for name, value in own.items() if name in theirs and theirs[name].shape == value.shape]
    if not fit:
        raise UpstairsError(
            f"no weight of {path} ({meta['settings']['learner']}) fits this learner: take the same `net`, `width`, "
            "`norm` and data"
        )
    for name in fit:
        own[name].copy_(theirs[name])
    return len(fit)


def _bare(name: str) -> str:
    """Returns a weight's name within the network."""
    return name.split(".", 1)[-1].removeprefix("encoder.")
