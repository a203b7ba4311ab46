"""Protocols of published experiments.

A row is one method on one data set; each of its tasks (way, shot) is an experiment, such as `omniglot-5w1s-maml`.
"""

from dataclasses import dataclass, field
from typing import Any

TEST_TASKS, SEEDS = 1000, 3
VALIDATION = {"validation_tasks": 300}
# settings that a shorter training takes from the learner's own defaults
LONG = ("optimizer", "schedule", "lr", "weight_decay", "clip", "scale", "tasks", "steps", "validations", "compile")
Task = tuple[Any, int]  # way, a number or None for regression, and shot


@dataclass(frozen=True)
class Row:
    """A method on a data set, as published.

    Attributes:
        data: the name of the data set in papers.toml.
        learner, net: by the library's names.
        settings: the training settings of the paper; `at` overrides them for a task.
        numbers: for each task the published score and its interval: per cent, or the squared error for regression.
        source: the paper and table of the numbers.
        differs: deviations from the paper, and what the paper leaves open.
        test_steps: inner steps in testing, where they differ from training; test_query: queries per class in testing.
        train_shot: None: the shots of the test.
    """

    data: str
    learner: str
    settings: dict[str, Any]
    numbers: dict[Task, tuple[float, float | None]]
    source: str
    differs: tuple[str, ...] = ()
    net: str = "conv4"
    at: dict[Task, dict[str, Any]] = field(default_factory=dict)
    test_steps: dict[Task, int] = field(default_factory=dict)
    test_query: int = 15
    train_way: int | None = None
    train_shot: str | None = None

    @property
    def method(self) -> str:
        return self.learner + ("-resnet12" if self.net == "resnet12" else "")


@dataclass(frozen=True)
class Dataset:
    """A data set: its title, the split of its classes, and the value of --data."""

    title: str
    about: str
    data: str
    split: str | None = None
    tasks: tuple[Task, ...] = ((5, 1), (5, 5))


@dataclass(frozen=True)
class Experiment:
    """One published number and the protocol behind it."""

    name: str
    row: Row
    dataset: Dataset
    way: int | None
    shot: int

    @property
    def published(self) -> tuple[float, float | None] | None:
        return self.row.numbers.get((self.way, self.shot))

    @property
    def summary(self) -> str:
        number = "no published number" if self.published is None else f"published {self.published[0]:.2f}"
        return f"{self.row.learner}, {self.dataset.title}: {number}, {self.steps:,} steps"

    @property
    def regression(self) -> bool:
        return self.way is None

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the full training, as published, without data and seed."""
        row = self.row
        shape = {"way": row.train_way or self.way, "shot": row.train_shot or str(self.shot)}
        own = VALIDATION | {"learner": row.learner, "net": row.net, **shape} | row.settings
        return (
            own | row.at.get((self.way, self.shot), {}) | ({"split": self.dataset.split} if self.dataset.split else {})
        )

    def shortened(self, minutes: float) -> dict[str, Any]:
        """Returns the settings of a training of `minutes`, with the published tasks and network.

        Published schedules, cut off, would end at their highest learning rates. Only an unpublished row with a cosine
        schedule, which fits any number of steps, keeps its optimiser.
        """
        own = not self.row.numbers and self.settings.get("schedule") == "cosine"
        left_out = {"steps", "validations"} if own else LONG
        kept = {name: value for name, value in self.settings.items() if name not in left_out}
        return kept | {"minutes": minutes}

    @property
    def steps(self) -> int:
        """Meta-steps of the full protocol."""
        return self.settings["steps"]

    @property
    def test_query(self) -> int:
        """Queries per class in a test task; 0 in the row stands for the number of shots."""
        return self.row.test_query or self.shot

    @property
    def test_steps(self) -> int | None:
        return self.row.test_steps.get((self.way, self.shot))

    @property
    def training(self) -> str:
        """The name of the training; experiments with the same training share a run."""
        s = self.settings
        way = "" if self.regression else f"{s['way']}w"
        return f"{self.row.data}-train-{way}{s['shot']}s-{self.row.method}"
