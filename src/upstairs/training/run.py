"""Loads trained runs, and adapts them to new classes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from upstairs.core import Examples, Learner, Task, check_measured, evaluating
from upstairs.data.mixture import episodes_of
from upstairs.data.source import Source
from upstairs.data.splits import Splits
from upstairs.engine.evaluate import frozen_seeds
from upstairs.errors import UnfamiliarWarning, UpstairsError, check_type
from upstairs.learners import ENOUGH, read_settings, seeded_learner, threshold
from upstairs.learners.familiar import is_unlike
from upstairs.settings import Settings
from upstairs.storage import kind_of, load_tensors, whole
from upstairs.training.checkpoint import checkpoint_in, load_weights
from upstairs.training.inputs import Inputs, Support, example_name, read_support, read_targets, warn_user
from upstairs.training.knowledge import Fit
from upstairs.training.model import Model
from upstairs.tree import index


@dataclass(frozen=True)
class Run:
    """A trained learner with its settings and learning curve."""

    path: Path
    learner: Learner
    settings: Settings
    inputs: Inputs
    meta: dict[str, Any]
    splits: Splits | None = None  # its data, where that was made in Python by this process

    @property
    def history(self) -> list[dict[str, float]]:
        """The learning curve: one point for each validation."""
        return self.meta["progress"]["history"]

    @torch.inference_mode(False)  # whose tensors would not serve outside of it
    def adapt(
        self,
        support: Support,
        *,
        unknown: float | None = None,
        others: Source | None = None,
        columns: str | None = None,
        pattern: str | None = None,
    ) -> Model:
        """Adapts to a folder of class folders (or a table of texts), to {label: inputs}, or to (inputs, labels).

        A run on regression adapts to (inputs, targets), or to a table of one task.

        Args:
            support: its inputs are all that `Model.predict` takes; a single one is taken for a list of one.
            unknown: lets the model answer `NONE`, which refuses about this share of the inputs of known classes (see
                `upstairs.learners.threshold`). None: every input gets a label.
            others: other classes (such as the run's validation classes) on which that share is measured if a class has
                fewer than 5 examples. Without them fewer inputs are refused; with one example per class, `unknown` is
                then the share of inputs of unknown classes that pass.
            columns: the columns of a table for text and label, such as utterance,intent; None: found by name.
            pattern: how the names of files hold their labels, as '{label}_{n}'; None: folders or a table hold them.

        Raises:
            UpstairsError: inputs that cannot be read, fewer than 2 classes (3 with `unknown`), or a run of a generator.
        """
        if self.settings.task_kind == "regression":
            if unknown is not None or columns is not None or pattern is not None:
                raise UpstairsError(
                    f"`unknown`, `columns` and `pattern` are about labels, which {self.path} has not: leave them out"
                )
            examples = read_targets(support, self.inputs, self.settings.outputs)
            with evaluating(self.learner):
                state = self.learner.adapt(examples)
            names = [f"y{k + 1}" for k in range(self.settings.outputs)]
            names = list(self.inputs.rows.targets) if self.inputs.rows else names
            return Model(Fit(self.learner, state, examples, names, []), self.inputs, self.settings)
        if self.settings.task_kind == "generation":
            raise UpstairsError(f"{self.path} models one class and names none: adapt a run of a classifier")
        if unknown is not None:
            check_type("unknown", unknown, (int, float), "a share between 0 and 1, such as 0.1")
        check_type("others", others, (Source, NoneType), "a Source of other classes, or None")
        labels, items, y = read_support(support, self.inputs, columns=columns, pattern=pattern)
        learner = self.learner.for_way(len(labels))
        examples = Examples(self.inputs.read(items), torch.tensor(y))
        self._warn_unlike(items, examples.x)
        with evaluating(learner):
            check_measured(learner)
            state = learner.adapt(examples)
        fewest = min(y.count(k) for k in range(len(labels)))
        tasks = tasks_like(others, len(labels), fewest) if others and fewest < ENOUGH else ()
        bar = None if unknown is None else threshold(learner, examples, share=unknown, tasks=tasks)
        names = [example_name(item, i) for i, item in enumerate(items)]
        fit = Fit(learner, state, examples, labels, names, bar)
        return Model(fit, self.inputs, self.settings, unknown=unknown)

    def _warn_unlike(self, items: list[Any], rows: Float[Tensor, "n *feature"]) -> None:
        """Warns if the inputs are unlike the training data."""
        texts = [str(item) for item in items] if self.inputs.are_texts else None
        if is_unlike(self.meta.get("familiar"), rows if texts is None else texts):
            data = Path(self.settings.data).name or "its data"
            warn_user(
                f"the inputs are unlike those that {self.path} was trained on ({data}), so expect little of its "
                "answers: train on such inputs, or take a pretrained encoder (`encoder` of `adapt`) that knows them",
                UnfamiliarWarning,
            )

    @torch.inference_mode(False)
    def generate(self, support: Support, *, count: int = 20, seed: int = 0) -> dict[str, Float[np.ndarray, "n *f"]]:
        """Generates `count` new examples of each class of a support set, in the range of the run's inputs (0 to 1).

        Args:
            support: as for `adapt`; one class with one example is enough.

        Raises:
            UpstairsError: inputs that cannot be read, a count below 1, or a learner that does not generate.
        """
        generator = self.generator(count)
        check_type("seed", seed, int, "a whole number")
        labels, items, y = read_support(support, self.inputs, least=1)
        made = {}
        with evaluating(generator):
            check_measured(generator)
            for place, label in enumerate(labels):
                x = self.inputs.read([item for item, own in zip(items, y, strict=True) if own == place])
                shown = Examples(x, torch.zeros(len(x), dtype=torch.long))
                numbers = torch.Generator().manual_seed(seed)  # the same noise for every class
                made[label] = generator.sample(generator.adapt(shown), count, numbers).numpy()
        return made

    def generator(self, count: int = 1) -> Learner:
        """Returns the learner; raises UpstairsError if it does not generate, or if `count` is below 1."""
        if not self.learner.noise_size:
            raise UpstairsError(
                f"{self.path} is a run of '{self.settings.learner}', which makes no examples: give a run of one that "
                "does, such as dagan or redrawing"
            )
        check_type("count", count, int, "the number of new examples of each class")
        if count < 1:
            raise UpstairsError(f"`count` is {count}: it must be at least 1")
        return self.learner


def tasks_like(source: Source, way: int, shot: int) -> Iterator[Task]:
    """Yields tasks of `way` classes, or of all classes if there are fewer; none if these are too few or too small."""
    way, smallest = min(way, source.most_way), min((len(rows) for rows in source.rows), default=0)
    if way >= 3 and smallest > shot:
        episodes = episodes_of(source, way=way, shot=shot, query=min(5, smallest - shot))
        yield from (index(episodes.batch([seed]), 0) for seed in frozen_seeds(2**18, max(10, 300 // way)))


@torch.inference_mode(False)
def load(path: "str | Path | Run", *, learner: Learner | None = None) -> Run:
    """Loads a run from its directory, with the weights that were best on the validation tasks.

    Args:
        path: the directory; a run that is loaded already is returned as it is.
        learner: receives the weights; needed for a run whose learner was an object, which no file can rebuild.

    Raises:
        UpstairsError: the directory or its checkpoint is missing, damaged or of another version, or the learner has
            other weights.
    """
    if isinstance(path, Run):
        return path
    check_type("path", path, (str, Path), "the path of a directory that `upstairs train` wrote")
    check_type("learner", learner, (Learner, NoneType), "a learner, made as for the training")
    path = Path(path)
    if path.is_file() and kind_of(path) == "adapted":
        raise UpstairsError(
            f"{path} is a model that was adapted, no run: read it with upstairs.load_adapted({str(path)!r}), or write "
            f"`upstairs predict {path} INPUT...` or `upstairs evaluate {path} --data FOLDER`"
        )
    if path.is_file() and kind_of(path) == "run":
        raise UpstairsError(f"{path} is the checkpoint of a run: give its directory, {path.parent}")
    if not path.is_dir():
        raise UpstairsError(f"there is no run at {path}: give the directory that `upstairs train` wrote")
    file = checkpoint_in(path)
    if file is None:
        raise UpstairsError(f"{path} holds no checkpoint: give the directory that `upstairs train` wrote")
    tensors, meta = load_tensors(file, kind="run")
    newest = path / "last.safetensors"
    if newest.is_file():  # the newest history, with the best weights
        with whole(newest):
            meta = {**meta, "progress": load_tensors(newest, kind="run")[1]["progress"]}
    with whole(file):
        settings, inputs = read_settings(meta["settings"]), Inputs.from_json(meta)
        learner = learner or seeded_learner(settings, inputs.shape, settings.way)
        load_weights(learner, tensors, file)
    return Run(path, learner.eval(), settings, inputs, meta)


def check_task_kind(runs: Sequence[Run], source: Source) -> None:
    """Raises UpstairsError if a run on classes would meet regression tasks, or the reverse."""
    for run in runs:
        regression = run.settings.task_kind == "regression"
        if regression != (source.functions is not None):
            own, other = ("regression", "classes") if regression else ("classes", "regression")
            raise UpstairsError(f"{run.path} learned {own} and {source.name} is {other}: give `data` of its kind")


def check_comparable(runs: Sequence[Run], *, foreign: bool = False) -> None:
    """Checks that runs can be evaluated on the same tasks, with test classes that none was trained on.

    Args:
        foreign: the tasks come from other data than the runs' own.

    Raises:
        UpstairsError: two runs that are not comparable, and what differs.
    """
    first = runs[0]
    for place, run in enumerate(runs[1:], 1):
        if run.path.resolve() in {other.path.resolve() for other in runs[:place]}:
            raise UpstairsError(f"{run.path} was given twice: name each run once")
        for what in () if foreign else ("data", "split", "split_seed"):
            own, other = (getattr(one.settings, what) for one in (first, run))
            if own != other:
                raise UpstairsError(
                    f"{first.path} was trained with `{what}` {own} and {run.path} with {other}: "
                    "the test classes of one may be training classes of the other, so take runs on the same data"
                )
        if run.inputs != first.inputs:
            raise UpstairsError(
                f"{first.path} takes inputs of shape {first.inputs.shape} and {run.path} of {run.inputs.shape}, "
                "or they read pictures in different ways: take runs that were trained on the same data"
            )
