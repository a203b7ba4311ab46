"""A learner adapted to one task: it names inputs."""

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

    def logits(self, items: Items) -> Float[Tensor, "n way"]:
        """What the learner predicts (columns as `labels`) for each input; inputs do not affect each other."""
        with evaluating(self.learner):
            check_measured(self.learner)
            parts = [
                self.learner.predict_inductive(self.state, self.support, self.inputs.read(items[i : i + 64]))
                for i in range(0, len(items), 64)
            ]
        return torch.cat(parts).double() if parts else torch.zeros(0, len(self.labels), dtype=torch.float64)

    def predict_proba(self, items: Items) -> Float[np.ndarray, "n way"]:
        """Probability of each class (columns as `labels`) for each input, were it of one of them."""
        return self.logits(items).softmax(-1).numpy()

    def predict(self, items: Items) -> list[str]:
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
    settings, inputs = read_settings(meta["settings"]), Inputs.from_json(meta)
    learner = seeded_learner(settings, inputs.shape, settings.way)
    load_weights(learner, tensors, path)
    learner = learner.for_way(len(meta["labels"])).eval()
    support = Examples(tensors["support.x"], tensors["support.y"])
    with evaluating(learner):  # adapting again gives the state's structure; its values come from the file
        structure = tree_flatten(learner.adapt(support))[1]
    leaves = [tensors[name] for name in sorted(tensors) if name.startswith("state.")]
    return Model(
        learner, tree_unflatten(leaves, structure), support, meta["labels"], inputs, settings, meta.get("threshold")
    )
