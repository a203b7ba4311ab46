"""Open-set recognition: rejects inputs of no support class, for every learner whose predictions are logits.

An input whose score is below a threshold is rejected. No unknown inputs are available when a task is learned, so the
threshold is computed by cross-validation on the support set. With few examples per class it is computed on tasks of
other classes, or with one example per class by leaving out classes (see `threshold`).
"""

from collections.abc import Callable, Iterable
from math import ceil, floor, inf
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from upstairs.core import Examples, Learner, Task, evaluating
from upstairs.errors import UpstairsError
from upstairs.tree import index

FOLDS = 10
ENOUGH = 5  # examples per class from which on leaving one out hardly changes the scores
Score = Callable[[Float[Tensor, "n way"]], Float[Tensor, " n"]]


def max_logit(logits: Float[Tensor, "n way"]) -> Float[Tensor, " n"]:
    """Returns the largest logit (Vaze et al. 2022); for a ProtoNet, the negative distance to a prototype."""
    return logits.amax(-1)


def max_probability(logits: Float[Tensor, "n way"]) -> Float[Tensor, " n"]:
    """Returns the largest class probability (Hendrycks and Gimpel 2017)."""
    return logits.softmax(-1).amax(-1)


def threshold(
    learner: Learner, support: Examples, *, share: float = 0.1, score: Score = max_logit, tasks: Iterable[Task] = ()
) -> float:
    """Returns the score below which an input is rejected; about a `share` of known inputs score below it.

    Where every class has `ENOUGH` examples it is computed on the support set (`threshold_by_examples`), else on `tasks`
    (`threshold_by_tasks`). Without tasks, two examples per class suffice, but fewer known inputs than `share` score
    below it. With one example per class, about a `share` of unknown inputs score above it (`threshold_by_classes`).

    Args:
        tasks: tasks of similar way and shot, with classes that the learner was not trained on.

    Raises:
        UpstairsError: fewer than 3 classes in the support set, or a share that is not between 0 and 1.
    """
    counts = support.y[support.mask].bincount()
    fewest = int(counts[counts > 0].min())
    if fewest < ENOUGH and (found := list(tasks)):
        _refuse_share(share, support)
        return threshold_by_tasks(learner, found, share, score=score)
    way = threshold_by_examples if fewest > 1 else threshold_by_classes
    return way(learner, support, share, score=score)


def threshold_by_examples(learner: Learner, support: Examples, refused: float, *, score: Score = max_logit) -> float:
    """Returns the score below which a share `refused` of the support examples are when they are left out.

    New inputs of these classes have the same share (the rank is that of conformal prediction), up to the resolution of
    the number of examples. Examples are left out in up to 10 stratified folds. Scores of a learner with fewer examples
    are lower, so that with few examples less than `refused` of new inputs are below.
    """
    _refuse_share(refused, support)
    place = torch.zeros_like(support.y)  # index of an example within its class
    for k in support.y[support.mask].unique().tolist():
        of_it = support.mask & (support.y == k)
        place[of_it] = torch.arange(int(of_it.sum()), device=place.device)
    parts = min(FOLDS, int(place.max()) + 1)
    scores = []
    with evaluating(learner):
        for part in range(parts):
            out = support.mask & (place % parts == part)
            rest = Examples(*(leaf[support.mask & ~out] for leaf in support))
            scores.append(score(learner.predict_inductive(learner.adapt(rest), rest, support.x[out])))
    return _above_lowest(torch.cat(scores), refused)


def threshold_by_tasks(learner: Learner, tasks: Iterable[Task], refused: float, *, score: Score = max_logit) -> float:
    """Returns the score below which a share `refused` of the queries of these tasks are.

    New tasks have this share on average; a single task may differ, since its classes are easier or harder.
    """
    scores = []
    with evaluating(learner):
        for task in tasks:
            own = learner.for_way(int(task.support.y.max()) + 1)
            queries = task.query.x[task.query.mask]
            scores.append(score(own.predict_inductive(own.adapt(task.support), task.support, queries)))
    return _above_lowest(torch.cat(scores), refused)


def _above_lowest(scores: Float[Tensor, " n"], share: float) -> float:
    """Returns a number just above the lowest scores (at least one); a new score is below with probability `share`."""
    ordered = scores.double().sort()[0]
    rank = max(1, floor(share * (len(ordered) + 1)))
    return float(ordered[rank - 1].nextafter(torch.tensor(inf, dtype=torch.float64)))


def threshold_by_classes(learner: Learner, support: Examples, accepted: float, *, score: Score = max_logit) -> float:
    """Returns the score above which a share `accepted` of the support examples are when their class is left out.

    Unknown inputs have the same share if they are as far from the classes as these are from each other. A share below
    1 / (examples + 1) puts the threshold just above all scores.
    """
    _refuse_share(accepted, support)
    classes = support.y[support.mask].unique().tolist()
    fewer = learner.for_way(len(classes) - 1)
    scores = []
    with evaluating(learner):
        for out in classes:
            rest = [k for k in classes if k != out]
            known = support.mask & (support.y != out)
            numbers = torch.tensor([rest.index(k) for k in support.y[known].tolist()], device=support.y.device)
            rest_of_it = Examples(support.x[known], numbers, torch.ones_like(numbers, dtype=torch.bool))
            state = fewer.adapt(rest_of_it)
            left_out = support.x[support.mask & (support.y == out)]
            scores.append(score(fewer.predict_inductive(state, rest_of_it, left_out)))
    ordered = torch.cat(scores).double().sort()[0]
    rank = min(len(ordered), ceil((1 - accepted) * (len(ordered) + 1)))
    return float(ordered[rank - 1].nextafter(torch.tensor(inf, dtype=torch.float64)))


def _refuse_share(share: float, support: Examples) -> None:
    if not 0 < share < 1:
        raise UpstairsError(f"`unknown` is {share}: give a share between 0 and 1, such as 0.1")
    if (count := len(support.y[support.mask].unique())) < 3:
        raise UpstairsError(
            f"the support set has {count} classes: 3 or more are needed to tell what belongs to none of them"
        )


def auroc(known: Float[np.ndarray, " n"], unknown: Float[np.ndarray, " m"]) -> float:
    """Returns the probability that a known input scores above an unknown one; ties count half (Mann, Whitney 1947)."""
    if len(known) == 0 or len(unknown) == 0:
        raise UpstairsError(f"there are {len(known)} known and {len(unknown)} unknown scores: give some of each")
    from scipy.stats import rankdata  # late: half a second

    ranks = rankdata(np.concatenate([known, unknown]))[: len(known)]
    return float((ranks.sum() - len(known) * (len(known) + 1) / 2) / (len(known) * len(unknown)))


class OpenScores(NamedTuple):
    """The open-set measures, one number for each task."""

    auroc: Float[np.ndarray, " task"]  # known against unknown queries, by score
    accuracy: Float[np.ndarray, " task"]  # on known queries, without rejection
    known_accepted: Float[np.ndarray, " task"]  # shares above the threshold of the support set
    unknown_accepted: Float[np.ndarray, " task"]


def score_open_tasks(
    learner: Learner, tasks: Task, known: int, *, score: Score = max_logit, share: float = 0.1
) -> OpenScores:
    """Measures the detection of unknown inputs: only the first `known` classes of each task are in the support set.

    Args:
        tasks: a batch of tasks of more than `known` classes; the queries of the others are the unknown inputs.

    Raises:
        UpstairsError: fewer than 3 known classes, or none unknown.
    """
    rows = []
    learner = learner.for_way(known)
    for i in range(len(tasks.query.mask)):
        support, query = (index(part, part.mask & (part.y < known)) for part in index(tasks, i))
        others = index(tasks.query, i)
        bar = threshold(learner, support, share=share, score=score)
        with evaluating(learner):
            state = learner.adapt(support)
            logits = learner.predict(state, query.x)
            strange = score(learner.predict(state, others.x[others.mask & (others.y >= known)]))
        right, own = (logits.argmax(-1) == query.y).double().mean().item(), score(logits)
        shares = [float((s.double() >= bar).double().mean()) for s in (own, strange)]
        rows.append((auroc(own.double().numpy(), strange.double().numpy()), right, *shares))
    return OpenScores(*(np.array(column) for column in zip(*rows, strict=True)))
