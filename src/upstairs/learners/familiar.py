"""Are inputs like those that a run was trained on? Measured from statistics of a sample of its training data."""

import math
from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from upstairs.data.encoded.prepared import PreparedFormat
from upstairs.data.source import Source

SAMPLED, MOST = 1200, 2**26  # training examples, and numbers in all of them
LETTERS, BINS = 4, 8192  # texts are described by their runs of four letters, hashed
GROUP = 5  # examples: fewer are not judged
GROUPS = 300  # of training examples of each half, of which none is farther than the limit
MARGIN, MARGIN_OF_TEXTS = 1.25, 1.03  # times the farthest of these groups


def familiar_inputs(source: Source) -> dict[str, Any] | None:
    """Returns what `is_unlike` compares inputs with; None for functions and for inputs without such statistics.

    Texts are described by their runs of letters, other inputs by means, contrast and edges. How far a support set of
    other classes may be from the training data is measured on groups from half of the training classes, by the
    statistics of the other half: see `_distances`.
    """
    parts = source.parts or (source,)
    if source.functions or source.random or len({part.feature_shape for part in parts}) > 1:
        return None
    texts = all(part.texts for part in parts)
    form = source.format
    if (
        not texts
        and form is not None
        and (form.is_tokens or (isinstance(form, PreparedFormat) and form.modality != "image"))
    ):
        return None  # token ids, and samples, whose places mean nothing
    halves = [[_gathered(part, half, texts=texts) for part in parts] for half in (0, 1)]
    one, two = ([example for own in half for example in own] for half in halves)
    if min(len(one), len(two)) < GROUP:
        return None
    rng = np.random.default_rng(0)
    groups = []
    for known, others in ((one, two), (two, one)):
        every = _deviations(_statistics(known), others if texts else torch.stack(others))
        groups += [_distances(every[rng.choice(len(every), GROUP, replace=False)]) for _ in range(GROUPS)]
    margin = MARGIN_OF_TEXTS if texts else MARGIN
    return _statistics(one + two) | {"limits": (margin * np.max(groups, axis=0)).tolist()}


def _gathered(source: Source, half: int, *, texts: bool) -> list[Any]:
    """Returns examples of every other class of a source."""
    rows = [own for own in source.rows[half::2] if len(own)]
    if not rows:
        return []
    every = np.concatenate(rows)
    most = SAMPLED if texts else min(SAMPLED, MOST // max(1, math.prod(source.feature_shape)))
    chosen = every[:: max(1, -(-2 * len(every) // most) if most < SAMPLED else 2 * len(every) // most)].tolist()
    return [source.texts[row] for row in chosen] if texts else [*source.gather(torch.tensor(chosen))]


def _statistics(examples: Sequence[Any]) -> dict[str, Any]:
    if isinstance(examples[0], str):
        counts = np.ones(BINS)
        for text in examples:
            np.add.at(counts, _runs(text), 1)
        return {"surprise": (-100 * np.log(counts / counts.sum())).round().astype(int).tolist()}
    described = _describe(torch.stack([*examples]))
    deviation = described.std(0).clamp(min=1e-3 * float(described.std()) + 1e-12)
    return {"mean": described.mean(0).tolist(), "deviation": deviation.tolist()}


def is_unlike(known: Mapping[str, Any] | None, inputs: Float[Tensor, "n *feature"] | Sequence[str]) -> bool:
    """Returns whether the inputs, as rows or as texts, are farther from the training data than groups of these are.

    Args:
        known: from `familiar_inputs`; None: nothing is known, and nothing is unlike.
    """
    if not known or len(inputs) < GROUP or isinstance(inputs, Tensor) == ("surprise" in known):
        return False
    return bool((_distances(_deviations(known, inputs)) > np.array(known["limits"])).any())


def _deviations(known: Mapping[str, Any], inputs: Any) -> np.ndarray:
    """Returns the deviations of each input [n, k]: of a text the mean surprise of its runs of letters, in nats."""
    if "surprise" in known:
        surprise = np.array(known["surprise"]) / 100
        return np.array([[surprise[_runs(text)].mean()] for text in inputs])
    mean, deviation = torch.tensor(known["mean"]), torch.tensor(known["deviation"])
    return ((_describe(inputs) - mean) / deviation).numpy()


def _distances(deviations: np.ndarray) -> np.ndarray:
    """Returns two distances of a group: that of its examples, and that of their mean, which is where they agree."""
    if deviations.shape[1] == 1:
        return deviations.mean(0)
    return np.array([np.square(deviations).mean(), np.square(deviations.mean(0)).mean()])


def _runs(text: str) -> np.ndarray:
    letters = f" {text.lower()} ".ljust(LETTERS)
    starts = range(len(letters) - LETTERS + 1)
    return np.array([crc32(letters[i : i + LETTERS].encode("utf-8", "surrogatepass")) % BINS for i in starts])


def _describe(rows: Float[Tensor, "n *feature"]) -> Float[Tensor, "n k"]:
    """Returns statistics of rows: of pictures and spectrograms the mean of each ninth, contrast and edges."""
    rows = rows.float()
    if rows.ndim != 4:
        flat = rows.flatten(1)
        return torch.cat([flat, flat.norm(dim=1, keepdim=True) * math.sqrt(1 / flat.shape[1])], 1)
    edges = [rows.diff(dim=axis).abs().mean((2, 3)) for axis in (2, 3) if rows.shape[axis] > 1]
    colours = [rows.std(1).mean((1, 2))[:, None]] if rows.shape[1] > 1 else []
    return torch.cat([F.adaptive_avg_pool2d(rows, 3).flatten(1), rows.std((2, 3)), *edges, *colours], 1)
