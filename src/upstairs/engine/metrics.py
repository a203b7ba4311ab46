"""Scores of tasks: accuracy, squared error, likelihood, a bound; and of an adapted model on labelled inputs."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from upstairs.console import one_line
from upstairs.core import Task, gaussian_nll
from upstairs.data.episodes import Episodes
from upstairs.statistics import wilson_interval


def task_accuracy(predictions: Float[Tensor, "task n way"], tasks: Task) -> Float[Tensor, " task"]:
    """Computes each task's accuracy on its queries, padding left out."""
    right = (predictions.argmax(-1) == tasks.query.y) & tasks.query.mask
    return right.sum(-1) / tasks.query.mask.sum(-1).clamp(min=1)


def hardest_classes(predictions: Float[Tensor, "task n way"], tasks: Task) -> list[int]:
    """Returns for each task the label of the class with the lowest accuracy."""
    member = F.one_hot(tasks.query.y, predictions.shape[-1]) * tasks.query.mask[..., None]
    right = (predictions.argmax(-1) == tasks.query.y)[..., None] * member
    share = right.sum(1) / member.sum(1)  # NaN for a class without queries
    return share.nan_to_num(nan=2.0).argmin(-1).tolist()


def task_squared_error(
    predictions: Float[Tensor, "task n d"], tasks: Task, *, units: tuple[float, ...] = ()
) -> Float[Tensor, " task"]:
    """Computes each task's mean squared error on its queries; a Gaussian [mean, log scale] predicts its mean.

    Args:
        units: factors of the errors of each target; empty: 1.
    """
    error = predictions[..., : tasks.query.y.shape[-1]] - tasks.query.y
    error = error * torch.tensor(units).to(error) if units else error
    errors = torch.where(tasks.query.mask, error.square().sum(-1), 0.0)
    return errors.sum(-1) / tasks.query.mask.sum(-1).clamp(min=1)


def task_likelihood(predictions: Float[Tensor, "task n d2"], tasks: Task) -> Float[Tensor, " task"]:
    """Computes the mean log-likelihood of each task's queries under Gaussian predictions, in nats per query."""
    each = -gaussian_nll(predictions.flatten(0, 1), tasks.query.y.flatten(0, 1)).reshape(tasks.query.mask.shape)
    return torch.where(tasks.query.mask, each, 0.0).sum(-1) / tasks.query.mask.sum(-1).clamp(min=1)


def task_bound(predictions: Float[Tensor, "task n 1"], tasks: Task) -> Float[Tensor, " task"]:
    """Computes the mean over each task's queries of the predicted value, such as a bound on their likelihood."""
    return torch.where(tasks.query.mask, predictions[..., 0], 0.0).sum(-1) / tasks.query.mask.sum(-1).clamp(min=1)


class ScoreKind(NamedTuple):
    """A way to score tasks."""

    name: str  # its key in results
    of: Callable[[Tensor, Task], Tensor]  # (predictions, tasks) -> one score per task
    less_is_better: bool

    def better(self, score: float, other: float) -> bool:
        return score < other if self.less_is_better else score > other


ACCURACY = ScoreKind("accuracy", task_accuracy, False)
SQUARED_ERROR = ScoreKind("mse", task_squared_error, True)
BOUND = ScoreKind("bound", task_bound, False)
LIKELIHOOD = ScoreKind("likelihood", task_likelihood, False)  # in addition to the squared error, for Gaussians


def score_kind(episodes: Episodes) -> ScoreKind:
    """Returns accuracy (0 to 1) for classification, mean squared error for regression, a bound for generation.

    The squared error is in the units of the targets.
    """
    if episodes.source.functions:
        units = episodes.source.format.units if episodes.source.format else ()
        return SQUARED_ERROR._replace(of=partial(task_squared_error, units=units)) if units else SQUARED_ERROR
    return BOUND if episodes.task_kind == "generation" else ACCURACY


def expected_calibration_error(probabilities: ArrayLike, y: ArrayLike, *, bins: int = 15) -> float:
    """Returns the mean gap between confidence and accuracy over bins of equal width (Guo et al. 2017).

    Over few examples it is far above zero even for perfect probabilities: with 25 of them about 0.15.

    Args:
        probabilities: [n, way].
        y: [n], the right class of each.
    """
    probabilities, y = np.asarray(probabilities), np.asarray(y)
    confidence, right = probabilities.max(-1), probabilities.argmax(-1) == y
    own = np.minimum((bins * confidence).astype(int), bins - 1)
    return sum(abs(float((right[own == k] - confidence[own == k]).sum())) for k in range(bins)) / len(y)


class ModelScore(dict[str, Any]):
    """The result of `Model.evaluate`: a dict, ready for json; printed, it is plain text.

    Accuracy, its interval (Wilson's, over examples), F1, calibration and `refused` are those of the inputs whose label
    the model knows. `unknown` counts the other labels, and `unknown_refused` is the share of their inputs that were
    refused. A row of `confusion` is a true label of `rows`, a column an answer of `columns`.
    """

    def __str__(self) -> str:
        low, high = self["interval"]
        lines = [
            f"accuracy {self['accuracy']:.1%} (95% interval {low:.1%} to {high:.1%}, over {self['examples']} examples "
            f"of {len(self['classes'])} classes), macro F1 {self['macro_f1']:.1%}",
            f"mean calibration error {self['calibration_error']:.1%}",
        ]
        if self["refused"] is not None:
            lines.append(f"refused as none of these: {self['refused']:.1%} of the examples of known classes")
        if self["unknown"]:
            named = ", ".join(f"{one_line(label)} {count}" for label, count in self["unknown"].items())
            share = self["unknown_refused"]
            said = "not scored: adapt with `unknown`" if share is None else f"{share:.1%} of them refused"
            lines.append(f"labels that the model does not know: {named} ({said})")
        if self["repeated"]:
            first = ", ".join(map(one_line, self["repeated"][:5])) + (", ..." if len(self["repeated"]) > 5 else "")
            lines.append(f"{len(self['repeated'])} inputs are support examples, so the accuracy is too high: {first}")
        width = max(map(len, map(one_line, [*self["classes"], "class"])))
        lines.append(f"{'class':<{width}}  examples  precision  recall     F1")
        for label, (examples, *shares) in ((label, own.values()) for label, own in self["classes"].items()):
            lines.append(f"{one_line(label):<{width}}  {examples:>8}" + "{:>11.1%}{:>8.1%}{:>7.1%}".format(*shares))
        pairs = {
            f"{one_line(row)} as {one_line(column)} {count}": count
            for row, counts in zip(self["rows"], self["confusion"], strict=True)
            for column, count in zip(self["columns"], counts, strict=True)
            if count and row != column and row in self["classes"]
        }
        if pairs:
            lines.append("most confused: " + ", ".join(sorted(pairs, key=lambda pair: -pairs[pair])[:5]))
        return "\n".join(lines)


class NumberScore(dict[str, Any]):
    """The result of `Model.evaluate` for regression: a dict, ready for json; printed, it is plain text.

    `targets` has for each target its root mean squared error, in the target's units, and R², the share of the targets'
    variance that is explained, with 95% intervals over examples (percentiles of 1000 resamplings; Efron 1979).
    `repeated` counts inputs that the model was adapted on; None: not known.
    """

    def __str__(self) -> str:
        lines = [
            f"{one_line(name)}: root mean squared error {{rmse:.4g}} (95% interval {{rmse_interval[0]:.4g}} to "
            "{rmse_interval[1]:.4g}), R² {r2:.3f} ({r2_interval[0]:.3f} to {r2_interval[1]:.3f})".format(**found)
            for name, found in self["targets"].items()
        ]
        lines.append(f"over {self['examples']} examples")
        if self["repeated"]:
            lines.append(f"{self['repeated']} of them are support examples, so the error is too low")
        return "\n".join(lines)


def score_numbers(
    truth: Float[np.ndarray, "n k"], answers: Float[np.ndarray, "n k"], names: Sequence[str],
    repeated: int | None = None,
) -> NumberScore:  # fmt: skip
    """Scores predicted numbers against the true ones; `names` are those of the targets."""

    def scores(rows: Any) -> Float[np.ndarray, "2 k"]:
        error = np.square(answers[rows] - truth[rows]).mean(0)
        with np.errstate(all="ignore"):  # targets that are all the same have no variance
            return np.stack([np.sqrt(error), 1 - error / truth[rows].var(0).clip(min=1e-300)])

    numbers, count = np.random.default_rng(0), len(truth)
    low, high = np.percentile([scores(numbers.integers(count, size=count)) for _ in range(1000)], [2.5, 97.5], axis=0)
    targets = {}
    for k, name in enumerate(names):
        found = zip(
            ("rmse", "r2"), scores(slice(None))[:, k].tolist(), low[:, k].tolist(), high[:, k].tolist(), strict=True
        )
        targets[name] = {
            key: value for what, own, a, b in found for key, value in ((what, own), (f"{what}_interval", (a, b)))
        }
    return NumberScore(targets=targets, examples=count, repeated=repeated)


def score_answers(
    truth: Sequence[str],
    answers: Sequence[str],
    probabilities: Float[np.ndarray, "n way"],
    labels: Sequence[str],
    *,
    refusal: str | None = None,
    repeated: Sequence[str] | None = (),
) -> ModelScore:
    """Scores answers against the true labels.

    Args:
        labels: what the model knows: the columns of `probabilities`.
        refusal: the answer that refuses an input; None: there is none.
        repeated: the names of inputs that the model was adapted on; None: not known.
    """
    columns = [*labels] if refusal is None else [*labels, refusal]
    counts = Counter(zip(truth, answers, strict=True))
    there, known = Counter(truth), [label for label in labels if label in truth]
    rows = [*known, *sorted(there.keys() - {*labels})]
    own = np.array([label in labels for label in truth])
    right = np.array(truth)[own] == np.array(answers)[own]
    answered = Counter(answer for answer, counted in zip(answers, own, strict=True) if counted)
    classes = {}
    for label in known:
        hits = counts[label, label]
        precision, recall = hits / max(answered[label], 1), hits / there[label]
        f1 = 2 * hits / (answered[label] + there[label])
        classes[label] = {"examples": there[label], "precision": precision, "recall": recall, "f1": f1}
    place = {label: k for k, label in enumerate(labels)}
    right_class = np.array([place[label] for label in np.array(truth)[own].tolist()])
    unknown, total = {label: there[label] for label in rows if label not in classes}, int(own.sum())
    refused = None if refusal is None or not unknown else sum(counts[label, refusal] for label in unknown)
    return ModelScore(
        examples=total,
        accuracy=float(right.mean()),
        interval=wilson_interval(int(right.sum()), total),
        macro_f1=float(np.mean([one["f1"] for one in classes.values()])),
        calibration_error=expected_calibration_error(probabilities[own], right_class, bins=10),
        refused=None if refusal is None else answered[refusal] / total,
        unknown=unknown,
        unknown_refused=None if refused is None else refused / sum(unknown.values()),
        repeated=repeated,
        classes=classes,
        rows=rows,
        columns=columns,
        confusion=[[counts[row, column] for column in columns] for row in rows],
    )
