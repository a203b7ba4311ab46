"""Short trainings that vary one setting of a run: the number of classes, of inner steps, or the kind of classes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from upstairs.data.class_augmentation import joined
from upstairs.data.open import open_splits
from upstairs.data.splits import Splits
from upstairs.errors import UpstairsError
from upstairs.learners import changed, defaults_for, read_settings
from upstairs.settings import Settings
from upstairs.storage import load_tensors
from upstairs.training.pretrain import prepare, with_bar
from upstairs.training.run import Run, load
from upstairs.training.trainer import Trainer, restore

CLASSES = (25, 100, 400)  # and all
LENGTHS = (1, 3, 5, 10)
KINDS = 4  # at most: those with the most classes
HELD_OUT = 1 / 3  # share of a kind's classes


def class_counts(run: Run, total: int) -> list[int]:
    """Returns the numbers of training classes to compare: a few below `total`, and `total`."""
    return [count for count in CLASSES if max(2, (run.settings.way or 0) // 20) < count < total] + [total]


def lengths(run: Run) -> list[int]:
    """Returns the inner-loop lengths to compare, the run's own among them; none without an inner loop."""
    return sorted({*LENGTHS, run.learner.inner_steps}) if run.learner.inner_steps else []


def class_groups(splits: Splits, *, least: int, seed: int = 0) -> dict[str, Splits]:
    """Returns the largest groups of classes (such as scripts) over all splits, each divided into training and test.

    Rotations of one class stay together. There are no validation classes, since nothing is selected.

    Args:
        least: the least number of test classes of a group.

    Returns:
        The splits by group; empty where there are fewer than two groups.
    """
    if any(part.inputs is not splits.train.inputs or part.parts or part.functions for part in splits):
        return {}
    whole = joined(splits)
    by_kind: dict[str, list[list[int]]] = {}
    for group in sorted(set(whole.groups)):
        alike: dict[bytes, list[int]] = {}
        for place, (own, rows) in enumerate(zip(whole.groups, whole.rows, strict=True)):
            if own == group:
                alike.setdefault(np.asarray(rows).tobytes(), []).append(place)
        by_kind[group] = list(alike.values())
    largest = sorted(by_kind, key=lambda group: -len(by_kind[group]))[:KINDS]
    found = {}
    for kind in largest:
        order = torch.randperm(len(by_kind[kind]), generator=torch.Generator().manual_seed(seed)).tolist()
        held = round(HELD_OUT * len(order))
        parts = [[c for i in some for c in by_kind[kind][i]] for some in (order[held:], [], order[:held])]
        if kind and held >= least:
            train, val, test = (whole.subset(sorted(part), name=kind) for part in parts)
            found[kind] = Splits(train, val, test)
    return found if len(found) > 1 else {}


def all_kinds(kinds: dict[str, Splits]) -> Splits:
    """Returns the training and the test classes of all kinds together."""
    return Splits(*(joined(parts) for parts in zip(*kinds.values(), strict=True)))


def variant(
    run: Run, changes: dict[str, Any], out: Path, *, minutes: float, what: str, quiet: bool,
    splits: Splits | None = None,
) -> Run:  # fmt: skip
    """Trains a run's settings with some changed, for `minutes`; a finished training in `out` is loaded instead.

    It starts from random weights even where the run started from another run's, which may have seen held-out classes.

    Args:
        out: its folder; an unfinished training there is resumed.
        splits: the classes to train on; None: those of the settings.

    Raises:
        UpstairsError: `out` holds another training.
    """
    # the usual number of validations would take most of a short budget
    changes = {"steps": None, "minutes": minutes, "patience": None, "validations": 2, **changes}
    if run.settings.start_from:
        own = defaults_for(run.settings.learner, run.settings.task_kind)
        changes |= {"start_from": None, "pretrain": own.get("pretrain", 0.0)}
    settings = changed(run.settings, changes)
    splits = splits or open_splits(settings, quiet=quiet)
    way = settings.way and min(settings.way, splits.train.most_way)
    settings = replace(settings, classes=len(splits.train), way=way)
    trainer = Trainer(settings, splits, out)
    if (out / "last.safetensors").exists():
        refuse_another(out, settings)
        restore(trainer)
    else:
        prepare(trainer, splits, quiet=quiet)
    if trainer.done < 1:
        with_bar(trainer, what, "the same command goes on", quiet=quiet)
    return load(out)


def refuse_another(out: Path, settings: Settings) -> None:
    """Raises UpstairsError where the training in a folder has other settings, except for the budget."""
    theirs = read_settings(load_tensors(out / "last.safetensors", kind="run")[1]["settings"]).to_json()
    for name, value in settings.to_json().items():
        if name != "minutes" and theirs.get(name) != value:
            raise UpstairsError(
                f"{out} holds a training with {name.replace('_', '-')} {theirs.get(name)} and this one has "
                f"{value}: remove that folder to train it anew"
            )
