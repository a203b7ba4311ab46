"""A learner adapted to one task, which classifies inputs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from upstairs.core import Examples, Learner, check_measured, evaluating
from upstairs.learners import max_logit, read_settings, seeded_learner
from upstairs.settings import Settings
from upstairs.storage import load_tensors, save_tensors, versions
from upstairs.training.checkpoint import load_weights
from upstairs.training.inputs import Inputs, Items

NONE = "none of these"


@dataclass(frozen=True)
class Model:
    """A learner adapted to one task, which classifies inputs. Its file contains everything that it needs.

    With a `threshold`, an input whose largest logit is below it receives the label `NONE`.
    """

    learner: Learner
    state: Any
    support: Examples
    labels: list[str]
    inputs: Inputs
    settings: Settings
    threshold: float | None = None

    def logits(self, items: Items) -> Float[Tensor, "n way"]:
        """Returns the logits of each input (columns as `labels`); inputs do not affect each other."""
        with evaluating(self.learner):
            check_measured(self.learner)
            parts = [
                self.learner.predict_inductive(self.state, self.support, self.inputs.read(items[i : i + 64]))
                for i in range(0, len(items), 64)
            ]
        return torch.cat(parts).double() if parts else torch.zeros(0, len(self.labels), dtype=torch.float64)

    def predict_proba(self, items: Items) -> Float[np.ndarray, "n way"]:
        """Returns the probability of each class (columns as `labels`) for each input, assuming it is of one of them."""
        return self.logits(items).softmax(-1).numpy()

    def predict(self, items: Items) -> list[str]:
        """Returns the likeliest label of each input, or `NONE`."""
        return self.name(self.logits(items))

    def name(self, logits: Float[Tensor, "n way"]) -> list[str]:
        """Returns the label of each row of logits, or `NONE`."""
        bar = -np.inf if self.threshold is None else self.threshold
        best = zip(logits.argmax(-1).tolist(), max_logit(logits).tolist(), strict=True)
        return [self.labels[k] if score >= bar else NONE for k, score in best]

    def save(self, path: str | Path) -> Path:
        """Writes one safetensors file that predicts without the run."""
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
    """Loads a model from the file that `Model.save` wrote.

    Raises:
        UpstairsError: the file is missing, damaged or of another version.
    """
    path = Path(path)
    tensors, meta = load_tensors(path, kind="adapted")
    settings, inputs = read_settings(meta["settings"]), Inputs.from_json(meta)
    learner = seeded_learner(settings, inputs.shape, settings.way)
    load_weights(learner, tensors, path)
    learner = learner.for_way(len(meta["labels"])).eval()
    support = Examples(tensors["support.x"], tensors["support.y"])
    with evaluating(learner):  # gives the structure of the state; its values come from the file
        structure = tree_flatten(learner.adapt(support))[1]
    leaves = [tensors[name] for name in sorted(tensors) if name.startswith("state.")]
    return Model(
        learner, tree_unflatten(leaves, structure), support, meta["labels"], inputs, settings, meta.get("threshold")
    )
