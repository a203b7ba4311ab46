"""Leave-one-out on a support set: the choice of a head, calibrated probabilities, and prediction sets."""

from collections.abc import Callable, Mapping
from math import exp, log
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from upstairs.core import Examples, Learner, Task, evaluating
from upstairs.learners.metric.heads import HEADS

MOST = 200  # examples up to which each is left out alone; above, folds
FOLDS = 10
VALUES = 2**24  # numbers in memory at a time


def leave_one_out(learner: Learner, support: Examples, *, folds: int | None = None) -> Float[Tensor, "n way"]:
    """Returns the logits of each support example by the learner adapted to the others.

    Rows of padding, and of an example that is the only one of its class, are NaN: nothing can be told of them.

    Args:
        support: of one task; labels from 0 to `learner.way` - 1.
        folds: leave out this many parts, each with its share of every class, in the order of the examples; None: each
            example alone, for more than 200 examples 10 parts.
    """
    x, y, mask = support
    n = len(y)
    part = _parts(support, folds)
    count = F.one_hot(y[mask], int(y.max()) + 1).sum(0)
    alone = mask & (count[y] < 2)
    out = torch.full((n, learner.way), torch.nan, dtype=x.dtype, device=x.device)
    used = sorted(set(part[mask & ~alone].tolist()))
    if not used:
        return out
    if learner.rotation_invariant and x.ndim == 2 and n < x.shape[1]:
        x = x @ torch.linalg.qr(torch.where(mask[:, None], x, 0.0).T)[0]  # the same angles, in n dimensions
    longest = max(int((part[mask] == p).sum()) for p in used)
    size = max(1, VALUES // (n * (x[0].numel() + n + learner.way)))
    with evaluating(learner):
        for start in range(0, len(used), size):
            left = torch.stack([mask & (part == p) for p in used[start : start + size]])  # [task, n]
            place = left.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :longest]  # those left out
            tasks = Task(
                Examples(x.expand(len(left), *x.shape), y.expand(len(left), n), mask & ~left),
                Examples(x[place], y[place], left.gather(1, place)),
            )
            logits = learner.solve(tasks)
            out[place[tasks.query.mask]] = logits[tasks.query.mask].to(out.dtype)
    out[alone] = torch.nan
    return out


def _parts(support: Examples, folds: int | None) -> Int[Tensor, " n"]:
    """Returns the part in which each example is left out, from its content, so that the order has no part in it."""
    x, y, mask = support
    n = int(mask.sum())
    if folds is None and n <= MOST:
        return torch.arange(len(y), device=y.device)
    folds = folds or FOLDS
    flat = x.flatten(1).double()
    key = flat @ torch.arange(1, flat.shape[1] + 1, device=x.device, dtype=torch.float64).cos()
    order = key.argsort()
    order = order[y[order].argsort(stable=True)]
    order = order[mask[order]]
    label = y[order]
    first = torch.searchsorted(label, label)
    part = torch.zeros_like(y)
    part[order] = (torch.arange(n, device=y.device) - first + label) % folds
    return part


class Chosen(NamedTuple):
    """The head that was chosen, and what it answered for each support example when that was left out."""

    name: str
    learner: Learner
    logits: Float[Tensor, "n way"]  # NaN where nothing could be told (see `leave_one_out`)


DEFAULT = "cosine"


def choose_head(
    support: Examples,
    *,
    way: int | None = None,
    heads: Mapping[str, Callable[..., Learner]] | None = None,
    folds: int | None = None,
) -> Chosen:
    """Returns the head with the best left-out answers; the default one where none is better by more than chance.

    Each head's left-out logits are calibrated (`temperature`), and their log-losses are compared example by example
    with those of the default, the best head on average on other data. Another head is taken where the mean difference
    exceeds `MARGIN` standard errors. With one example per class nothing can be left out: the default is taken.

    Args:
        support: features [n, d] of one task; labels from 0.
        way: number of classes; None: those of the labels.
        heads: makers by name, called with `way`; None: `HEADS`. Without `DEFAULT` the first is the default.
        folds: see `leave_one_out`.
    """
    heads = HEADS if heads is None else heads
    way = int(support.y[support.mask].max()) + 1 if way is None else way
    made = {name: make(way=way) for name, make in heads.items()}
    default = DEFAULT if DEFAULT in made else next(iter(made))
    logits = {name: leave_one_out(learner, support, folds=folds) for name, learner in made.items()}
    known = logits[default].isfinite().all(1)
    if not known.any():
        return Chosen(default, made[default], logits[default])
    y = support.y[known]
    losses = {
        name: F.cross_entropy(own[known] / temperature(own, support.y), y, reduction="none")
        for name, own in logits.items()
    }
    best = default
    for name, loss in losses.items():
        gain = losses[default] - loss
        if gain.mean() > MARGIN * gain.std() / len(y) ** 0.5 and loss.mean() < losses[best].mean():
            best = name
    return Chosen(best, made[best], logits[best])


MARGIN = 2.0
PRIOR = 0.05  # weight of (log temperature)^2 against the sum of log-losses


def temperature(logits: Float[Tensor, "n way"], y: Tensor, *, prior: float = 1.0) -> float:
    """Returns the T that minimises the log-loss of softmax(logits / T) (Guo et al. 2017); rows with NaN are left out.

        T = argmin sum_i CE(logits_i / T, y_i) + prior/2 (log T)^2,   1/20 <= T <= 20

    The prior is worth about an example, so that few examples, all right or all wrong, give no extremes.
    """
    known = ~logits.isnan().any(-1)
    logits, y = logits[known].double(), y[known]
    if not len(y):
        return 1.0

    def loss(t: Tensor) -> Tensor:  # [k] logarithms of T
        each = F.cross_entropy(
            (logits[None] * (-t).exp()[:, None, None]).flatten(0, 1), y.repeat(len(t)), reduction="none"
        )
        return each.reshape(len(t), -1).sum(1) + prior / 2 * t.square()

    low, high = -log(20), log(20)
    for _ in range(12):  # a grid, which also finds the lower of two minima; then ever finer ones
        grid = torch.linspace(low, high, 25, dtype=torch.float64, device=logits.device)
        best = int(loss(grid).argmin())
        low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, 24)])
    return exp((low + high) / 2)


def conformal_bar(probabilities: Float[Tensor, "n way"], y: Tensor, *, coverage: float = 0.9) -> float:
    """Returns the bar of `prediction_sets` from left-out probabilities; rows with NaN are left out.

    A class is in a set if 1 - its probability is at most the quantile of the scores 1 - p(y_i) at rank
    coverage (n + 1), interpolated between neighbours: the expected coverage is exact where scores are alike and
    continuous (the rank rounded up gives 92.3% in place of 90% with 25 examples). Too few examples for the rank: 1,
    where every class is in every set.
    """
    known = ~probabilities.isnan().any(-1)
    scores = (1 - probabilities[known].gather(1, y[known, None])[:, 0]).double().sort()[0]
    rank = coverage * (len(scores) + 1)
    if rank > len(scores):
        return 1.0
    below = int(rank)
    low = scores[below - 1] if below else scores.new_zeros(())
    high = scores[min(below, len(scores) - 1)]
    return float(low + (rank - below) * (high - low))


def prediction_sets(probabilities: Float[Tensor, "n way"], bar: float) -> Bool[Tensor, "n way"]:
    """Returns which classes are in the conformal set of each input (see `conformal_bar`); the likeliest always is."""
    likeliest = F.one_hot(probabilities.argmax(-1), probabilities.shape[-1]).bool()
    return (1 - probabilities <= bar) | likeliest
