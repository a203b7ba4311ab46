"""The report on learners that generate: what each makes of one example, and between two classes."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from upstairs.core import evaluating
from upstairs.data.episodes import Episodes
from upstairs.data.splits import Splits
from upstairs.engine.evaluate import frozen_seeds
from upstairs.errors import UpstairsError
from upstairs.experiments.report.bounds import measure_bounds
from upstairs.experiments.report.figures import encode_picture, is_picture
from upstairs.experiments.report.measure import describe, name_runs, short_name
from upstairs.experiments.report.values import Record
from upstairs.training.run import Run
from upstairs.tree import index

CLASSES, COUNT = 8, 9  # rows and pictures in a row


def measure_drawings(
    runs: Sequence[Run], splits: Splits, *, tasks: int = 600, seed: int = 0, command: str = ""
) -> dict[str, Any]:  # fmt: skip
    """The report's dict for runs of learners that generate, on the same unseen classes.

    Raises:
        UpstairsError: a run makes nothing.
    """
    named = dict(zip(name_runs(list(runs)), runs, strict=True))
    return {
        "title": f"Learning to make more: {short_name(runs[0].settings.data)}",
        "command": command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": runs[0].meta["versions"],
        "data": runs[0].settings.data,
        "split": "test",
        "runs": [describe(run, name) for name, run in named.items()],
        "drawings": [drawings_of(run, name, splits, seed) for name, run in named.items()],
        "bounds": measure_bounds(named, splits.test, tasks=tasks, seed=seed),
    }


def drawings_of(run: Run, name: str, splits: Splits, seed: int) -> dict[str, Any]:
    """What one learner makes of one example of each of some classes, and between each two that follow each other."""
    learner = run.learner
    if learner.task_kind != "generation":
        raise UpstairsError(f"{run.path} is a run of '{name}', which makes nothing: report on it alone")
    episodes = Episodes(splits.test, way=1, shot=1, query=1)
    numbers, rows, states = frozen_seeds(seed, min(CLASSES, len(splits.test))), [], []
    with evaluating(learner):
        for number in numbers:
            support = index(episodes.batch([number]), 0).support
            states.append(learner.adapt(support))
            made = learner.sample(states[-1], COUNT, torch.Generator().manual_seed(seed))
            rows.append({"label": episodes.labels(number)[0], "support": support.x[0].numpy(), "made": made.numpy()})
        noise = torch.randn(1, learner.noise_size, generator=torch.Generator().manual_seed(seed))
        between = []
        for place in range(0, len(states) - 1, 2):
            shares = [k / (COUNT - 1) for k in range(COUNT)]
            mixed = [learner.draw(mix(states[place], states[place + 1], share), noise)[0].numpy() for share in shares]
            between.append({"labels": [rows[place]["label"], rows[place + 1]["label"]], "made": mixed})
    return {"learner": name, "rows": rows, "between": between}


def mix(first: Any, second: Any, share: float) -> Any:
    """A state on the way from one to another."""

    def between(a: Tensor, b: Tensor) -> Tensor:
        return torch.lerp(a, b, share) if a.is_floating_point() else a

    return tree_map(between, first, second)


class Drawn(NamedTuple):
    """One row: what it is, the example that was shown, and what was made."""

    label: str
    shown: str
    made: list[str]


class Drawings(NamedTuple):
    """Of one learner: a row for each class, and for each way between two."""

    learner: str
    rows: list[Drawn]
    between: list[Drawn]


def make_drawings(entries: Sequence[Record]) -> list[Drawings]:
    """The pictures as addresses; learners that make no pictures are left out."""
    return [
        Drawings(
            str(entry["learner"]),
            [Drawn(str(row["label"]), encode_picture(row["support"]), encode(row)) for row in entry["rows"]],
            [Drawn(" to ".join(map(str, row["labels"])), "", encode(row)) for row in entry.get("between") or ()],
        )
        for entry in entries
        if all(is_picture(row["support"]) for row in entry["rows"])
    ]


def encode(row: Mapping[str, Any]) -> list[str]:
    return [encode_picture(x.clip(0, 1) if hasattr(x, "clip") else x) for x in row["made"]]
