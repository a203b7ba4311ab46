"""Checks that options against overfitting fit the learner and the data, and that a resumed run has its own data."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from upstairs.core import Learner
from upstairs.data.images.format import ImageFormat
from upstairs.data.regression.rows import TaskTable
from upstairs.data.source import Source
from upstairs.errors import UpstairsError
from upstairs.learners.options import ViewOptions
from upstairs.settings import Settings

SAMPLED = 32  # about the number of classes (or tasks) of which one example is remembered
CLOSE = 0.02  # what an example's number may differ by, since decoders and processors do not agree to the last bit


def data_fingerprint(source: Source) -> dict[str, Any]:
    """Returns what tells training data from other data of the same shape, whatever their size.

    `classes` is a digest of the names and sizes of the classes, or of the sizes of a table's tasks. `rows` has a number
    for an example of some of them: its projection on a fixed direction, relative to its norm. It is empty for functions
    and where the inputs are drawn at random each time that they are read.
    """
    sizes: list[Any] = [[label, len(rows)] for label, rows in zip(source.labels, source.rows, strict=True)]
    some: list[Tensor] = []
    if isinstance(table := source.functions, TaskTable):
        sizes = [len(x) for x in table.x]
        some = [torch.cat([table.x[k][0], table.y[k][0]]) for k in range(0, len(sizes), max(1, len(sizes) // SAMPLED))]
    for part in source.parts or (source,):
        own = part.rows[:: max(1, len(part) // SAMPLED)] if not source.random else ()
        some += [*part.gather(torch.tensor([int(rows[0]) for rows in own if len(rows)], dtype=torch.long)).flatten(1)]
    numbers = [
        float(row.double() @ torch.arange(len(row)).double().cos() / (row.double().norm() + 1e-9)) for row in some
    ]
    return {"classes": hashlib.sha256(repr(sizes).encode()).hexdigest(), "rows": numbers}


def check_same_data(own: Mapping[str, Any], stored: Mapping[str, Any] | None, out: Path) -> None:
    """Raises UpstairsError if the training data are others than those of a run's checkpoint.

    Args:
        own, stored: their fingerprints; None: the checkpoint is of a version that wrote none.
    """
    if stored is None:
        return
    classes = stored["classes"] != own["classes"]
    pairs = zip(stored["rows"], own["rows"], strict=False)  # none where either was drawn at random
    if classes or any(abs(a - b) > CLOSE for a, b in pairs):
        raise UpstairsError(
            f"the training data have other {'classes or numbers of examples' if classes else 'examples'} than the run "
            f"in {out} started with: give the data as they were, or train in another `out`"
        )


def check_compatible(settings: Settings, learner: Learner, source: Source, *, validated: bool) -> None:
    """Raises UpstairsError for an option that would have no effect on the run, or ruin it.

    Args:
        validated: the run has validation tasks.
    """
    if settings.patience and not validated:
        raise UpstairsError(
            "`patience` waits for the validation tasks, and there are none: leave it out, or `train_on_validation`"
        )
    name = settings.learner
    ink = isinstance(source.format, ImageFormat) and source.format.ink
    photos = len(source.feature_shape) == 3 and not ink
    if isinstance(settings.own, ViewOptions) and settings.own.views > 1 and not photos:
        raise UpstairsError(
            "`views` is for photos, which mean the same when they are mirrored, and the data is "
            f"{'line drawings' if ink else source.name}: leave it out"
        )
    texts, draws = source.format is not None and source.format.is_tokens, learner.task_kind == "generation"
    if settings.interpolate != "none" and (learner.global_labels or texts or draws):
        does = "learns to draw what it is shown" if draws else "classifies all training classes"
        what = f"{source.name} is texts" if texts else f"'{name}' {does}"
        raise UpstairsError(f"`interpolate` mixes the inputs of few-shot tasks and {what}: leave it out")
    why = learner.needs_hard_labels
    if why and (settings.interpolate == "metamix" or settings.label_smoothing):
        raise UpstairsError(f"metamix and `label_smoothing` change queries' labels and '{name}' {why}: leave it out")
