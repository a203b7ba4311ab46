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

FOLDS, FEWEST = 10, 3  # parts at most, and with many examples
EXAMPLES = 10_000  # that all fits together learn from, about: more parts would take minutes and say little more
VALUES = 2**24  # numbers in memory at a time
DEFAULT, ONE_SHOT = "proker", "logistic_regression"  # best on average, from two examples per class on and with one
MARGIN = 3.0  # standard errors
MOST_WAY = 100  # classes up to which heads are compared, which takes seconds


def leave_one_out(learner: Learner, support: Examples, *, folds: int | None = None) -> Float[Tensor, "*task n way"]:
    """Returns the logits of each support example by a learner that was adapted without it.

    One example of each class is left out at a time: five examples per class are five fits. Leaving out a single example
    would leave its own class alone with one fewer than the others, and calibrate worse: on MobileNetV2's features of
    CIFAR-FS (5-way, 5-shot) sets for 90% then cover 93 to 94% of new inputs, so 90.5%. Rows of padding, and of an
    example that is the only one of its class, are NaN: nothing can be told of them.

    Args:
        support: of one task, or of a batch of tasks; labels from 0 to `learner.way` - 1.
        folds: leave out this many parts; None: as many as the largest class has examples, and at most 10 (above 1,000
            examples fewer, at least 3). What is left out with what depends on the content of the examples, not on their
            order.
    """
    if support.y.ndim == 1:
        return leave_one_out(learner, Examples(*(leaf[None] for leaf in support)), folds=folds)[0]
    x, y, mask = support
    tasks, n = y.shape
    count = (F.one_hot(y, learner.way) * mask[..., None]).sum(1)
    known = mask & (count.gather(1, y) > 1)
    out = torch.full((tasks, n, learner.way), torch.nan, dtype=x.dtype, device=x.device)
    part = torch.stack([parts_of(Examples(*(leaf[i] for leaf in support)), folds) for i in range(tasks)])
    parts = int(part.max()) + 1
    left = known[:, None] & (part[:, None] == torch.arange(parts, device=y.device)[:, None])  # [task, part, n]
    owner, own = left.any(-1).nonzero().unbind(1)  # the task and the part of each fit
    if not len(owner):
        return out
    if learner.rotation_invariant and x.ndim == 3 and n < x.shape[2]:
        x = x @ torch.linalg.qr(torch.where(mask[..., None], x, 0.0).mT)[0]  # the same angles, in n dimensions
    longest = int(left.sum(-1).max())
    size = max(1, VALUES // (n * (x[0, 0].numel() + n + learner.way)))
    with evaluating(learner):
        for fits, own_parts in zip(owner.split(size), own.split(size), strict=True):
            gone = left[fits, own_parts]
            place = gone.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :longest]  # those left out
            asked = gone.gather(1, place)
            rows = fits[:, None]
            logits = learner.solve(
                Task(Examples(x[fits], y[fits], mask[fits] & ~gone), Examples(x[rows, place], y[rows, place], asked))
            )
            out[rows.expand_as(place)[asked], place[asked]] = logits[asked].to(out.dtype)
    return out


def parts_of(support: Examples, folds: int | None) -> Int[Tensor, " n"]:
    """Returns the part in which each example is left out."""
    x, y, mask = support
    flat = x.flatten(1).double()
    key = flat @ torch.arange(1, flat.shape[1] + 1, device=x.device, dtype=torch.float64).cos()
    order = key.argsort()
    order = order[y[order].argsort(stable=True)]
    order = order[mask[order]]
    label = y[order]
    rank = torch.arange(len(label), device=y.device) - torch.searchsorted(label, label)  # within the class
    part = torch.zeros_like(y)
    most = max(FEWEST, min(FOLDS, EXAMPLES // max(len(label), 1)))
    part[order] = (rank + label) % (folds or min(most, int(rank.max()) + 1))
    return part


class Chosen(NamedTuple):
    """The head that was chosen, and what it says of each support example when that is left out."""

    name: str
    learner: Learner
    logits: Float[Tensor, "n way"]  # NaN where nothing can be told (see `leave_one_out`)
    temperature: float  # of its probabilities, softmax(logits / temperature)


def choose_head(
    support: Examples,
    *,
    way: int | None = None,
    heads: Mapping[str, Callable[..., Learner]] | None = None,
    folds: int | None = None,
) -> Chosen:
    """Returns the head with the best left-out answers, calibrated (see `choose_by`).

    With one example of each class nothing can be left out, and `ONE_SHOT` is taken; with more than `MOST_WAY` classes
    `DEFAULT`, since seven heads in ten parts would take minutes. Both were the best on training and validation classes
    (benchmarks/heads.py).

    Args:
        support: features [n, d] of one task; labels from 0.
        way: number of classes; None: those of the labels.
        heads: makers by name, called with `way`; None: `HEADS`. The first takes the place of a default that is missing.
        folds: see `leave_one_out`.
    """
    heads = HEADS if heads is None else heads
    _, y, mask = support
    way = int(y[mask].max()) + 1 if way is None else way
    count = F.one_hot(y[mask], way).sum(0)
    single = int(count.max()) < 2
    default = ONE_SHOT if single else DEFAULT
    default = default if default in heads else next(iter(heads))
    made = {name: make(way=way) for name, make in heads.items()}
    asked = [default] if single or way > MOST_WAY else made
    logits = {name: leave_one_out(made[name], support, folds=folds) for name in asked}
    name, sharpness = choose_by(logits, y)
    return Chosen(name, made[name], logits[name], sharpness)


def choose_by(left_out: Mapping[str, Float[Tensor, "n way"]], y: Int[Tensor, " n"]) -> tuple[str, float]:
    """Returns the name and the temperature of the head whose left-out logits are best.

    The log-losses of calibrated logits are compared with those of `DEFAULT`, example by example. Another head is taken
    where the mean difference exceeds `MARGIN` standard errors: a high bar, for many heads that hardly differ.
    """
    default = DEFAULT if DEFAULT in left_out else next(iter(left_out))
    known = left_out[default].isfinite().all(1)
    scales = {name: temperature(logits, y) for name, logits in left_out.items()}
    losses = {
        name: F.cross_entropy(logits[known].double() / scales[name], y[known], reduction="none")
        for name, logits in left_out.items()
    }
    best = default
    for name, loss in losses.items():
        gain = losses[default] - loss
        clear = len(gain) > 1 and gain.mean() > MARGIN * gain.std() / len(gain) ** 0.5
        if clear and loss.mean() < losses[best].mean():
            best = name
    return best, scales[best]


def temperature(logits: Float[Tensor, "n way"], y: Tensor, *, prior: float = 1.0) -> float:
    """Returns the T that minimises the log-loss of softmax(logits / T) (Guo et al. 2017); rows with NaN are left out.

        T = argmin sum_i CE(logits_i / T, y_i) + prior/2 (log T)^2,   1/20 <= T <= 20

    The prior is worth about an example, so that few examples, all right or all wrong, give no extremes.
    """
    known = ~logits.isnan().any(-1)
    logits, y = logits[known].double(), y[known]
    logits = (logits - logits.amax(-1, keepdim=True)).clamp(min=-1e30)
    right = logits.gather(1, y[:, None])[:, 0]
    if not len(y):
        return 1.0

    grid = [log(20) * step / 8 for step in range(-8, 9)]
    best = min(range(17), key=lambda i: _objective(grid[i], logits, right, prior)[0])  # there may be two minima
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, 16)]
    for _ in range(48):  # bisection of the slope, to 14 digits
        middle = (low + high) / 2
        low, high = (middle, high) if _objective(middle, logits, right, prior)[1] < 0 else (low, middle)
    return exp((low + high) / 2)


def _objective(
    u: float, logits: Float[Tensor, "n way"], right: Float[Tensor, " n"], prior: float
) -> tuple[float, float]:
    """Returns what `temperature` minimises, at u = log T, and its derivative."""
    sharp, own = exp(-u) * logits, exp(-u) * right
    value = (sharp.logsumexp(-1) - own).sum()
    slope = (own - (sharp.softmax(-1) * sharp).sum(-1)).sum()
    return float(value) + prior / 2 * u**2, float(slope) + prior * u


def conformal_bar(probabilities: Float[Tensor, "n way"], y: Tensor, *, coverage: float = 0.9) -> float:
    """Returns the bar of `prediction_sets` from left-out probabilities; rows with NaN are left out.

    A class is in a set if 1 - its probability is at most the quantile of the scores 1 - p(y_i) at rank
    coverage (n + 1), interpolated geometrically between neighbours, since the scores of a good model span orders of
    magnitude. The expected coverage is then exact for new inputs whose scores are like those left out (the rank rounded
    up gives 92.3% in place of 90% with 25 examples); with few examples per class it is up to 4 points higher, since
    what is left out was answered with one example fewer. Too few examples for the rank: 1, where every class is in
    every set.
    """
    known = ~probabilities.isnan().any(-1)
    scores = (1 - probabilities[known].gather(1, y[known, None])[:, 0]).double().sort()[0]
    rank = coverage * (len(scores) + 1)
    if rank > len(scores):
        return 1.0
    below = int(rank)
    low = scores[below - 1] if below else scores.new_zeros(())
    high = scores[min(below, len(scores) - 1)]
    return float(low ** (1 - (rank - below)) * high ** (rank - below))


def prediction_sets(
    probabilities: Float[Tensor, "n way"], bar: float, *, never_empty: bool = False
) -> Bool[Tensor, "n way"]:
    """Returns which classes are in the conformal set of each input (see `conformal_bar`).

    Args:
        never_empty: add the likeliest class. Without it a set may be empty, where no class is likely enough: the
            accuracy of a good model exceeds the coverage, which then leaves out some inputs altogether.
    """
    sets = 1 - probabilities <= bar
    likeliest = F.one_hot(probabilities.argmax(-1), probabilities.shape[-1]).bool()
    return sets | likeliest if never_empty else sets
