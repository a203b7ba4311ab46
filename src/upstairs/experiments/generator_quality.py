"""The quality of generated examples: a classifier trained without the generator measures their class and variety."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from upstairs.core import Examples, Learner, Task, evaluating
from upstairs.data.episodes import Episodes
from upstairs.data.images.augment import SMALL_WARP
from upstairs.data.images.warp import Warp
from upstairs.data.source import Source
from upstairs.engine.evaluate import Progress, enough_seeds
from upstairs.engine.metrics import BOUND
from upstairs.functional.batching import vectorize
from upstairs.learners import Unconditioned
from upstairs.learners.metric.protonet import MetricLearner
from upstairs.statistics import interval
from upstairs.tree import index

Draw = Callable[[Examples, int, torch.Generator], Float[Tensor, "count *feature"]]  # examples of one class -> new ones
REAL = "real drawings"


def copies(support: Examples, count: int, numbers: torch.Generator) -> Tensor:
    """Returns support examples drawn with replacement."""
    return support.x[torch.randint(len(support.x), (count,), generator=numbers)]


def noise(support: Examples, count: int, numbers: torch.Generator) -> Tensor:
    """Returns support examples with their pixels shuffled."""
    x = copies(support, count, numbers)
    order = torch.rand(count, x[0].numel(), generator=numbers).argsort(1)
    return x.flatten(1).gather(1, order).reshape(x.shape)


def warping(warp: Warp) -> Draw:
    """Returns a `Draw` that warps support examples (square pictures) at random."""
    return lambda support, count, numbers: warp.apply(copies(support, count, numbers), warp.draw(count, numbers))


CONTROLS: dict[str, Draw] = {
    "copies of the example": copies,
    "its pixels shuffled": noise,
    "small warps of it": warping(SMALL_WARP),
    "large warps of it": warping(Warp()),
}


def judge_generators(
    classifier: MetricLearner[Any],
    source: Source,
    draws: Mapping[str, Draw | Learner],
    *,
    way: int = 20,
    count: int = 5,
    tasks: int = 600,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, dict[str, float]]:
    """Scores generators with a classifier, which also scores real examples of the same classes.

    A task has `way` classes of the source. Each generator receives one example of a class and draws `count` more. The
    classifier is adapted to one other example of each class, and predicts the class of each drawing.

    Returns:
        for each generator, and for real examples: `recognised`, the share of drawings classified as the class asked
        for; `variety`, the mean distance in the classifier's features between two drawings from one example, divided
        by that between two real examples of the class; and half their 95% intervals over tasks, `recognised_ci95` and
        `variety_ci95`.

    Raises:
        UpstairsError: too few classes, too few examples of a class, or fewer than 2 tasks.
    """
    seeds = enough_seeds(seed, tasks)
    episodes, judge = Episodes(source, way=way, shot=2, query=count), classifier.for_way(way)
    assert isinstance(judge, MetricLearner)
    y = torch.arange(way)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in (*draws, REAL)}
    for done, number in enumerate(seeds):
        support, query = index(episodes.batch([number]), 0)
        first, second = support.x[0::2], support.x[1::2]
        made = {name: _made(draw, first, count, number) for name, draw in draws.items()} | {REAL: query.x}
        with evaluating(judge):
            state = judge.adapt(Examples(second, y, torch.ones(way, dtype=torch.bool)))
            for name, x in made.items():
                z = judge.encoder(x)
                right = judge.logits(state, z).argmax(-1) == query.y
                found[name].append((float(right.float().mean()), _spread(z.unflatten(0, (way, count)))))
        if progress:
            progress(done + 1, tasks)
    real = np.array(found[REAL])[:, 1]
    return {name: _describe(np.array(rows), real) for name, rows in found.items()}


def bounds_by_shots(
    generator: Learner,
    source: Source,
    *,
    shots: Sequence[int] = (1, 2, 5, 10),
    query: int = 3,
    tasks: int = 600,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[int, Float[np.ndarray, " task"]]:
    """Returns a generator's bound on the log-likelihood of each task's queries (nats per example), for several shots.

    The queries are the same for all shots and support sets are nested, so that differences can be paired. At 0 shots
    the generator is `Unconditioned`.

    Raises:
        UpstairsError: classes with too few examples.
    """
    episodes, seeds = Episodes(source, way=1, shot=max(shots), query=query), enough_seeds(seed, tasks)
    found: dict[int, list[Tensor]] = {shot: [] for shot in shots}
    with evaluating(generator):
        for start in range(0, tasks, 20):
            batch = episodes.batch(seeds[start : start + 20])
            for shot in shots:
                given = Task(Examples(*(leaf[:, : max(1, shot)] for leaf in batch.support)), batch.query)
                found[shot].append(BOUND.of((generator if shot else Unconditioned(generator)).solve(given), batch))
            if progress:
                progress(min(start + 20, tasks), tasks)
    return {shot: torch.cat(values).double().numpy() for shot, values in found.items()}


def _made(draw: Draw | Learner, examples: Float[Tensor, "way *feature"], count: int, seed: int) -> Tensor:
    """Returns `count` drawings from each example, class after class."""
    numbers, each = torch.Generator().manual_seed(seed), examples[:, None]
    support = Examples(
        each, torch.zeros(each.shape[:2], dtype=torch.long), torch.ones(each.shape[:2], dtype=torch.bool)
    )
    if not isinstance(draw, Learner):
        return torch.cat([draw(index(support, k), count, numbers) for k in range(len(each))])
    noise = torch.randn(len(each), count, draw.noise_size, generator=numbers)
    with evaluating(draw):  # all classes at once
        return vectorize(
            lambda one, z: draw.draw(draw.adapt(one), z), (support, noise), owner=draw, name="made"
        ).flatten(0, 1)


def _spread(z: Float[Tensor, "way count d"]) -> float:
    """Returns the mean distance between two embeddings of one class."""
    count = z.shape[1]
    apart = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")  # exactly 0 for copies
    return float(apart.sum((1, 2)).mean() / (count * (count - 1)))


def _describe(rows: Float[np.ndarray, "task 2"], real: Float[np.ndarray, " task"]) -> dict[str, float]:
    """Returns means and intervals; the variety is a ratio of two means over the same tasks (the delta method)."""
    recognised, own = interval(rows[:, 0])
    ratio = rows[:, 1].mean() / real.mean()
    half = interval(rows[:, 1] - ratio * real).ci95 / real.mean()
    return {"recognised": recognised, "recognised_ci95": own, "variety": float(ratio), "variety_ci95": float(half)}
