"""An entry of the registry: the builder of a learner, its options and their defaults. No torch is imported."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from upstairs.errors import UpstairsError
from upstairs.settings import LearnerOptions, Settings, TaskKind

Shape = tuple[int, ...]
Build = Callable[[Settings, Shape, int | None], Any]  # (settings, shape of one input, way) -> learner
Defaults = Mapping[str, Any]  # values of common options and of the learner's own


@dataclass(frozen=True)
class Entry:
    """A learner in the registry.

    Args:
        build: a function from (settings, shape of one input, way) to the learner, or its import path
            "package.module:function". Way is None for regression.
        summary: a description in one sentence.
        options: the learner's own options: a frozen dataclass whose fields are made by `upstairs.settings.option`.
        classification, regression, generation: default options for each kind of task; None where the learner does not
            support that kind.
    """

    build: str | Build
    summary: str
    options: type[LearnerOptions] = LearnerOptions
    classification: Defaults | None = None
    regression: Defaults | None = None
    generation: Defaults | None = None

    @property
    def builder(self) -> Build:
        """The function that `build` names; this imports the learner's module."""
        if not isinstance(self.build, str):
            return self.build
        module, _, name = self.build.partition(":")
        try:
            return getattr(import_module(module), name)
        except Exception as error:
            raise UpstairsError(
                f"the learner cannot be built by '{self.build}' ({type(error).__name__}: {error}): fix or remove its "
                "package"
            ) from error

    @property
    def kinds(self) -> list[TaskKind]:
        """The kinds of tasks that the learner supports."""
        kinds: tuple[TaskKind, ...] = ("classification", "generation", "regression")
        return [kind for kind in kinds if self.defaults(kind) is not None]

    def defaults(self, kind: TaskKind) -> Defaults | None:
        """Returns the default options for a kind of task, with its `way`; None where it is not supported."""
        if kind == "classification":
            return self.classification
        found = self.regression if kind == "regression" else self.generation
        return None if found is None else {**found, "way": None if kind == "regression" else 1}


INNER_LOOP = {
    "way": 5, "shot": "1", "query": 5, "tasks": 4, "width": 32, "norm": "batch", "inner_steps": 1, "inner_lr": 0.4,
    "lr": 3e-3,
}  # fmt: skip
SMALL_STEPS = INNER_LOOP | {"inner_steps": 5, "inner_lr": 0.1}  # first order needs smaller steps
METRIC = {"way": 60, "shot": "1", "query": 5, "tasks": 1, "width": 64, "norm": "population", "lr": 2e-3}
FUNCTIONS = {"shot": "5", "query": 10, "tasks": 25, "net": "mlp", "width": 40, "norm": "none", "lr": 1e-3}
FUNCTIONS_IN_STEPS = FUNCTIONS | {"inner_steps": 1, "inner_lr": 0.01}
