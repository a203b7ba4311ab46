"""Adaptation of a run to new classes, and prediction of inputs from files."""

import io
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from upstairs.console import tell_user
from upstairs.data.open import open_splits
from upstairs.data.text.hashed import as_text
from upstairs.data.text.tables import texts_of
from upstairs.errors import UpstairsError
from upstairs.experiments.evaluate import UNHEARD
from upstairs.learners import ENOUGH
from upstairs.training.inputs import Support, read_support
from upstairs.training.model import Model, load_adapted
from upstairs.training.run import load


def adapt_run(path: Path, support: Support, *, unknown: float | None = None, quiet: bool = False) -> Model:
    """Adapts a run as `Run.adapt` does; where a class has few examples, validation classes calibrate `unknown`."""
    run, others = load(path), None
    counts = Counter(
        read_support(support, run.inputs)[2] if unknown is not None and run.settings.task_kind != "regression" else ()
    )
    if min(counts.values(), default=ENOUGH) < ENOUGH:
        try:
            others = open_splits(replace(run.settings, **UNHEARD), quiet=quiet, format=run.inputs.format).val
        except UpstairsError as error:
            tell_user(f"--unknown is rough, from so few examples alone: the run's own data cannot be read ({error})")
    return run.adapt(support, unknown=unknown, others=others)


def lines_of(path: Path) -> list[str]:
    """Returns the texts of a file, or of standard input for `-`."""
    if str(path) != "-":
        return texts_of(path)
    own = sys.stdin  # read as bytes where possible: in some locales Python accepts text that is not UTF-8
    read = as_text(own.buffer.read() if isinstance(own, io.TextIOWrapper) else own.read(), "standard input")
    return [line for line in read.splitlines() if line.strip()]


def predict_file(model: Path, inputs: Sequence[Path], texts: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Returns the label and the class probabilities of each input, by the adapted model in a file.

    Args:
        inputs: files; for a model of texts each line is an input.
        texts: further inputs of a model of texts.

    Raises:
        UpstairsError: no inputs, a file that cannot be read, or texts for a model of other inputs.
    """
    if not inputs and not texts:
        raise UpstairsError("no inputs were given: write `upstairs predict MODEL INPUT...`")
    adapted = load_adapted(model)
    if texts and not adapted.inputs.are_texts:
        raise UpstairsError(f"`text` was given and {model} names no texts: give files to name instead")
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
