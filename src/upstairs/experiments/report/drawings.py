"""The report on generative learners: drawings from one example, interpolations of two classes, and bounds by shots."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from upstairs.core import Learner, evaluating
from upstairs.data.episodes import Episodes
from upstairs.data.source import Source
from upstairs.data.splits import Splits
from upstairs.engine.evaluate import frozen_seeds
from upstairs.errors import UpstairsError
from upstairs.experiments.generator_quality import bounds_by_shots
from upstairs.experiments.report.measure import describe_runs, name_runs, page_head
from upstairs.statistics import interval, paired_interval
from upstairs.training.run import Run
from upstairs.tree import index

CLASSES, COUNT = 8, 9  # rows and pictures in a row
SHOTS, QUERY = (1, 2, 5, 10), 3  # of the bounds


def measure_drawings(
    runs: Sequence[Run], splits: Splits, *, tasks: int = 600, seed: int = 0, command: str = ""
) -> dict[str, Any]:  # fmt: skip
    """Returns the report's dict for runs of generative learners, on the same unseen classes.

    Raises:
        UpstairsError: a run is not of a generative learner.
    """
    named = dict(zip(name_runs(runs), runs, strict=True))
    for name, run in named.items():
        if run.learner.task_kind != "generation":
            raise UpstairsError(f"{run.path} is a run of '{name}', which makes nothing: report on it alone")
    learners: dict[str, Any] = {name: run.learner for name, run in named.items()}
    drawing = {name: learner for name, learner in learners.items() if learner.noise_size}
    return {
        **page_head(runs, "Learning to make more", command),
        "runs": describe_runs(runs),
        "drawings": [drawings_of(learner, name, splits, seed) for name, learner in drawing.items()],
        "bounds": measure_bounds(learners, splits.test, tasks=tasks, seed=seed),
    }


def drawings_of(learner: Learner, name: str, splits: Splits, seed: int) -> dict[str, Any]:
    """Returns a learner's drawings from one example of each of some classes, and interpolations of pairs of classes."""
    episodes = Episodes(splits.test, way=1, shot=1, query=1)
    rows, states, between = [], [], []
    with evaluating(learner):
        for number in frozen_seeds(seed, min(CLASSES, len(splits.test))):
            support = index(episodes.batch([number]), 0).support
            states.append(learner.adapt(support))
            made = learner.sample(states[-1], COUNT, torch.Generator().manual_seed(seed))
            rows.append({"label": episodes.labels(number)[0], "support": support.x[0].numpy(), "made": made.numpy()})
        noise = torch.randn(1, learner.noise_size, generator=torch.Generator().manual_seed(seed))
        for place in range(0, len(states) - 1, 2):
            shares = [k / (COUNT - 1) for k in range(COUNT)]
            mixed = [learner.draw(mix(states[place], states[place + 1], share), noise)[0].numpy() for share in shares]
            between.append({"labels": [rows[place]["label"], rows[place + 1]["label"]], "made": mixed})
    return {"learner": name, "rows": rows, "between": between}


def mix(first: Any, second: Any, share: float) -> Any:
    """Interpolates two states."""

    def between(a: Tensor, b: Tensor) -> Tensor:
        return torch.lerp(a, b, share) if a.is_floating_point() else a

    return tree_map(between, first, second)


def measure_bounds(learners: Mapping[str, Learner], source: Source, *, tasks: int, seed: int) -> list[dict[str, Any]]:
    """Returns each variational autoencoder's bound by the number of shots, as far as classes have examples.

    A Neural Statistician's starts at 0 shots, the same network unconditioned.
    """
    shots = [shot for shot in SHOTS if shot + QUERY <= min(len(rows) for rows in source.rows)]
    found = []
    for name, learner in learners.items():
        if not shots or not learner.bounds_likelihood:
            continue
        of = [0, *shots] if learner.conditions_on_none else shots
        own = bounds_by_shots(learner, source, shots=of, query=QUERY, tasks=tasks, seed=seed)
        points = [
            {"shot": shot, "bound": interval(values), "more": paired_interval(values, own[of[0]])}
            for shot, values in own.items()
        ]
        found.append({"learner": name, "tasks": tasks, "points": points})
    return found
