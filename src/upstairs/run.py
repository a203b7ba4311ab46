"""A run from disk: evaluate it, adapt it to classes of your own, predict."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from upstairs.checkpoint import checkpoint_in, load_tensors, load_weights, save_tensors, versions
from upstairs.core import Examples, Learner, Task, evaluating
from upstairs.errors import UpstairsError
from upstairs.evaluate import frozen_seeds
from upstairs.inputs import Inputs, Support, read_support
from upstairs.learners import ENOUGH, GenerativeLearner, learners, max_logit, seeded_learner, threshold
from upstairs.settings import Settings
from upstairs.tasks.mixture import episodes_of
from upstairs.tasks.sources import Source
from upstairs.tree import take

NONE = "none of these"


@dataclass(frozen=True)
class Model:
    """A learner adapted to one task: it names inputs. Everything it needs is in its file.

    With a `threshold`, an input whose largest logit is below it is `NONE`: it belongs to no class.
    """

    learner: Learner
    state: Any
    support: Examples
    labels: list[str]
    inputs: Inputs
    settings: Settings
    threshold: float | None = None

    def logits(self, items: Sequence[Any]) -> Float[Tensor, "n way"]:
        """What the learner predicts (columns as `labels`) for each input; inputs do not affect each other."""
        with evaluating(self.learner):
            parts = [
                self.learner.predict_alone(self.state, self.support, self.inputs.read(items[i : i + 64]))
                for i in range(0, len(items), 64)
            ]
        return torch.cat(parts).double() if parts else torch.zeros(0, len(self.labels), dtype=torch.float64)

    def predict_proba(self, items: Sequence[Any]) -> Float[np.ndarray, "n way"]:
        """Probability of each class (columns as `labels`) for each input, were it of one of them."""
        return self.logits(items).softmax(-1).numpy()

    def predict(self, items: Sequence[Any]) -> list[str]:
        """The likeliest label of each input, or `NONE`."""
        return self.name(self.logits(items))

    def name(self, logits: Float[Tensor, "n way"]) -> list[str]:
        """The label that goes with each row, or `NONE`."""
        bar = -np.inf if self.threshold is None else self.threshold
        best = zip(logits.argmax(-1).tolist(), max_logit(logits).tolist(), strict=True)
        return [self.labels[k] if score >= bar else NONE for k, score in best]

    def save(self, path: str | Path) -> Path:
        """One safetensors file that predicts anywhere, without the run."""
        path = Path(path)
        tensors = {f"learner.{k}": v for k, v in self.learner.state_dict().items()}
        tensors |= {f"state.{i:04d}": leaf for i, leaf in enumerate(tree_flatten(self.state)[0])}
        tensors |= {"support.x": self.support.x, "support.y": self.support.y}
        meta = {
            "settings": self.settings.to_json(),
            "labels": self.labels,
            "threshold": self.threshold,
            "versions": versions(),
            **self.inputs.to_json(),
        }
        save_tensors(path, tensors, meta, kind="adapted")
        return path


def load_adapted(path: str | Path) -> Model:
    """A model from the file that `Model.save` wrote.

    Raises:
        UpstairsError: no such file, a damaged one, or one of another version.
    """
    path = Path(path)
    tensors, meta = load_tensors(path, kind="adapted")
    settings, inputs = Settings.from_json(meta["settings"]), Inputs.from_json(meta)
    learner = seeded_learner(settings, inputs.shape, settings.way)
    load_weights(learner, tensors, path)
    learner = learner.for_way(len(meta["labels"])).eval()
    y = tensors["support.y"]
    support = Examples(tensors["support.x"], y, torch.ones(len(y), dtype=torch.bool))
    with evaluating(learner):  # adapting again gives the state's structure; its values come from the file
        structure = tree_flatten(learner.adapt(support))[1]
    leaves = [tensors[name] for name in sorted(tensors) if name.startswith("state.")]
    return Model(
        learner, tree_unflatten(leaves, structure), support, meta["labels"], inputs, settings, meta.get("threshold")
    )


@dataclass(frozen=True)
class Run:
    """A trained learner with its settings and history."""

    path: Path
    learner: Learner
    settings: Settings
    inputs: Inputs
    meta: dict[str, Any]

    @property
    def history(self) -> list[dict[str, float]]:
        """The learning curve: one point for each validation."""
        return self.meta["progress"]["history"]

    def adapt(self, support: Support, *, unknown: float | None = None, others: Source | None = None) -> Model:
        """Adapt to a folder of class folders (or a table of texts), to {label: inputs}, or to (inputs, labels).

        Args:
            unknown: the model may answer `NONE`, at the cost of refusing about this share of the inputs that do belong
                to a class (see `upstairs.learners.threshold`). None: every input gets a label.
            others: classes to measure that share on where a class has fewer than 5 examples, such as the run's
                validation classes. Without them fewer inputs are refused; and where a class has a single example it is
                the share of the inputs of no class that pass.

        Raises:
            UpstairsError: inputs that cannot be read, fewer than 2 classes (3 with `unknown`), or a run that learned
                regression.
        """
        if self.settings.way == 0:
            raise UpstairsError(
                f"{self.path} learned regression, which has no labels: write "
                "run.learner.predict(run.learner.adapt(Examples(x, y, mask)), x)"
            )
        if self.learner.max_way == 1:
            raise UpstairsError(f"{self.path} makes examples and names none: write `upstairs generate {self.path}`")
        labels, items, y = read_support(support, self.inputs)
        learner = self.learner.for_way(len(labels))
        examples = Examples(self.inputs.read(items), torch.tensor(y), torch.ones(len(y), dtype=torch.bool))
        with evaluating(learner):
            state = learner.adapt(examples)
        fewest = min(y.count(k) for k in range(len(labels)))
        tasks = tasks_like(others, len(labels), fewest) if others and fewest < ENOUGH else ()
        bar = None if unknown is None else threshold(learner, examples, share=unknown, tasks=tasks)
        return Model(learner, state, examples, labels, self.inputs, self.settings, bar)

    def generate(self, support: Support, *, count: int = 20, seed: int = 0) -> dict[str, Float[np.ndarray, "n *f"]]:
        """New examples of each class of a support set, `count` of each, in the range of the run's inputs (0 to 1).

        Args:
            support: as for `adapt`; one class, and one example of it, will do.

        Raises:
            UpstairsError: inputs that cannot be read, a count below 1, or a run that makes nothing.
        """
        generator = self.generator(count)
        labels, items, y = read_support(support, self.inputs, least=1)
        made = {}
        with evaluating(generator):
            for place, label in enumerate(labels):
                x = self.inputs.read([item for item, own in zip(items, y, strict=True) if own == place])
                shown = Examples(x, torch.zeros(len(x), dtype=torch.long), torch.ones(len(x), dtype=torch.bool))
                numbers = torch.Generator().manual_seed(seed)  # one hand for all classes, whichever there are
                made[label] = generator.sample(generator.adapt(shown), count, numbers).numpy()
        return made

    def generator(self, count: int = 1) -> GenerativeLearner[Any]:
        """The learner, if it is one that makes examples and is asked for any."""
        if not isinstance(self.learner, GenerativeLearner):
            able = sorted(n for n, e in learners().items() if (e.defaults or {}).get("way") == 1)
            raise UpstairsError(
                f"{self.path} is a run of '{self.settings.learner}', which makes no examples: give a run of one that "
                f"does, such as {', '.join(able)}"
            )
        if count < 1:
            raise UpstairsError(f"--count is {count}: it must be at least 1")
        return self.learner


def tasks_like(source: Source, way: int, shot: int) -> Iterator[Task]:
    """Some tasks of so many classes, or of as many as there are; none where these are too few or too small."""
    way, smallest = min(way, source.most_way), min((len(rows) for rows in source.rows), default=0)
    if way >= 3 and smallest > shot:
        episodes = episodes_of(source, way=way, shot=shot, query=min(5, smallest - shot))
        yield from (take(episodes.batch([seed]), 0) for seed in frozen_seeds(2**18, max(10, 300 // way)))


def load(path: str | Path) -> Run:
    """A run from its directory: the weights that were best on the validation tasks.

    Raises:
        UpstairsError: no such directory, no checkpoint in it, or one that is damaged or of another version.
    """
    path = Path(path)
    if not path.is_dir():
        raise UpstairsError(f"there is no run at {path}: give the directory that `upstairs train --out` wrote")
    file = checkpoint_in(path)
    if file is None:
        raise UpstairsError(f"{path} holds no checkpoint: give the directory that `upstairs train --out` wrote")
    tensors, meta = load_tensors(file, kind="run")
    if (path / "last.safetensors").is_file():  # the newest history; the weights are the best ones
        meta = {**meta, "progress": load_tensors(path / "last.safetensors", kind="run")[1]["progress"]}
    settings, inputs = Settings.from_json(meta["settings"]), Inputs.from_json(meta)
    learner = seeded_learner(settings, inputs.shape, settings.way)
    load_weights(learner, tensors, file)
    return Run(path, learner.eval(), settings, inputs, meta)


def refuse_other_kind(runs: Sequence[Run], source: Source) -> None:
    """A run that learned classes has no answer to regression tasks, nor the other way round."""
    for run in runs:
        if (run.settings.way == 0) != (source.functions is not None):
            own, other = ("classes", "regression") if run.settings.way else ("regression", "classes")
            raise UpstairsError(f"{run.path} learned {own} and {source.name} is {other}: give --data of its kind")


def refuse_unlike(runs: Sequence[Run], *, foreign: bool = False) -> None:
    """Runs that cannot meet the same tasks, or would meet classes that one of them was trained on.

    Args:
        foreign: they are to meet data that none of them was trained on.

    Raises:
        UpstairsError: naming the two runs and what differs.
    """
    first = runs[0]
    for place, run in enumerate(runs[1:], 1):
        if run.path.resolve() in {other.path.resolve() for other in runs[:place]}:
            raise UpstairsError(f"{run.path} was given twice: name each run once")
        for what in () if foreign else ("data", "split", "split_seed"):
            own, other = (getattr(one.settings, what) for one in (first, run))
            if own != other:
                raise UpstairsError(
                    f"{first.path} was trained with --{what.replace('_', '-')} {own} and {run.path} with {other}: "
                    "the test classes of one may be training classes of the other, so take runs on the same data"
                )
        if run.inputs != first.inputs:
            raise UpstairsError(
                f"{first.path} takes inputs of shape {first.inputs.shape} and {run.path} of {run.inputs.shape}, "
                "or they read pictures in different ways: take runs that were trained on the same data"
            )
