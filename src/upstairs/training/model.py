"""A learner adapted to one task, which classifies inputs or predicts numbers."""

from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from upstairs.console import counting
from upstairs.core import Examples, Learner, check_measured, evaluating
from upstairs.data.audio.format import FAINTEST, RATE, AudioFormat, read_sound
from upstairs.data.encoded.format import EncodedSoundFormat
from upstairs.engine.metrics import ModelScore, score_answers
from upstairs.errors import UpstairsError, check_type
from upstairs.learners import max_logit, read_settings, seeded_learner
from upstairs.settings import Settings
from upstairs.storage import kind_of, load_tensors, save_tensors, versions, whole
from upstairs.training.checkpoint import checkpoint_in, load_weights
from upstairs.training.inputs import Inputs, Items, Support, plain_input, read_support, refuse_bad

NONE = "none of these"
LONGEST_STREAM = 4 * 3600.0  # seconds of a recording that is read in windows


class SoundWindow(NamedTuple):
    """The answer for a part of a recording; times in seconds."""

    start: float
    end: float
    label: str
    probability: float


@dataclass(frozen=True)
class Model:
    """A learner adapted to one task, which classifies inputs. Its file contains everything that it needs.

    A model of regression predicts numbers: `labels` are the names of its targets.

    With a `threshold`, an input whose largest logit is below it receives the label `NONE`.

    Inputs are a list, an array [n, *feature], a column of a table or a generator (read in batches) of: paths, bytes,
    open files, PIL pictures or arrays, texts, or sounds (samples, rate). A single one is taken for a list of one.
    """

    learner: Learner
    state: Any
    support: Examples | None  # None: they were left out of the file
    labels: list[str]
    inputs: Inputs
    settings: Settings
    threshold: float | None = None

    @torch.inference_mode(False)  # whose tensors would not serve outside of it
    def logits(self, items: Items) -> Float[Tensor, "n way"]:
        """Returns the logits of each input (columns as `labels`); inputs do not affect each other."""
        bad: dict[int, UpstairsError] = {}
        parts = [self.logits_of(rows) for _, rows in self.inputs.batches(items, bad)]
        refuse_bad(bad)
        return torch.cat(parts) if parts else torch.zeros(0, len(self.labels), dtype=torch.float64)

    @torch.inference_mode(False)
    def logits_of(self, rows: Float[Tensor, "n *feature"]) -> Float[Tensor, "n way"]:
        """Returns the logits of inputs that were read (see `Inputs.batches`)."""
        with evaluating(self.learner):
            check_measured(self.learner)
            if self.support is None:
                return self.learner.predict(self.state, rows).double()
            return self.learner.predict_inductive(self.state, self.support, rows).double()

    def values(self, items: Items) -> Float[np.ndarray, "n targets"]:
        """Returns the predicted targets of each input (columns as `labels`), in the units of the run's table."""
        return self.values_of(self.logits(items))

    def values_of(self, raw: Float[Tensor, "n out"]) -> Float[np.ndarray, "n targets"]:
        means = raw[:, : self.settings.outputs]  # a scale of each may follow
        return self.inputs.rows.in_units(means) if self.inputs.rows else means.numpy()

    def predict_proba(self, items: Items) -> Float[np.ndarray, "n way"]:
        """Returns the probability of each class (columns as `labels`) for each input, assuming it is of one of them."""
        self._names_classes()
        return self.logits(items).softmax(-1).numpy()

    def predict(self, items: Items) -> Any:
        """Returns the likeliest label of each input, or `NONE`: a list, also for a single input.

        A model of regression returns its `values`, [n, targets].
        """
        return self.values(items) if self.settings.way is None else self.name(self.logits(items))

    def _names_classes(self) -> None:
        if self.settings.way is None:
            raise UpstairsError("the model predicts numbers and names no classes: use `predict`")

    def name(self, logits: Float[Tensor, "n way"]) -> list[str]:
        """Returns the label of each row of logits, or `NONE`."""
        bar = -np.inf if self.threshold is None else self.threshold
        best = zip(logits.argmax(-1).tolist(), max_logit(logits).tolist(), strict=True)
        return [self.labels[k] if score >= bar else NONE for k, score in best]

    @torch.inference_mode(False)
    def evaluate(self, data: Support, *, columns: str | None = None, quiet: bool = True) -> ModelScore:
        """Scores the model on labelled inputs, which are none of its support examples: print the result.

        Args:
            data: a folder of class folders, a table, {label: inputs} or (inputs, labels), as for `Run.adapt`.
            columns: the columns of a table.
            quiet: show no progress.

        Raises:
            UpstairsError: inputs that cannot be read, or no label that the model knows.
        """
        self._names_classes()
        labels, items, classes = read_support(data, self.inputs, least=1, columns=columns, what="the labelled data")
        if not {*labels} & {*self.labels}:
            raise UpstairsError(
                f"the labels are {', '.join(labels[:8])} and the model knows {', '.join(self.labels[:8])}: name the "
                "classes as they were in the support set"
            )
        bad: dict[int, UpstairsError] = {}
        known = {row.numpy().tobytes() for row in self.support.x} if self.support else set()
        truth, parts, repeated = [], [], []
        with counting("evaluating", quiet=quiet) as progress:
            for places, rows in self.inputs.batches(items, bad):
                parts.append(self.logits_of(rows))
                truth += [labels[classes[place]] for place in places]
                for place, row in zip(places, rows, strict=True):
                    if row.numpy().tobytes() in known:
                        repeated.append(str(items[place]) if isinstance(items[place], str | Path) else f"input {place}")
                if progress:
                    progress(places[-1] + 1, len(items))
        refuse_bad(bad)
        logits = torch.cat(parts)
        return score_answers(
            truth, self.name(logits), logits.softmax(-1).numpy(), self.labels,
            refusal=None if self.threshold is None else NONE, repeated=repeated if self.support else None,
        )  # fmt: skip

    def predict_windows(
        self, recording: Any, *, seconds: float | None = None, hop: float | None = None
    ) -> list[SoundWindow]:
        """Classifies windows of a long recording; neighbours with the same label are joined, silence is left out.

        The probability of a joined window is the largest of its parts. Each window is read as a recording of its own,
        so that faint noise is as loud as speech: adapt with `unknown`, for windows that are none of the classes.

        Args:
            recording: a path, bytes, an open file, or (samples, rate).
            seconds: the length of a window; None: that of the recordings in training, else one second.
            hop: seconds from one window to the next; None: half a window.

        Raises:
            UpstairsError: a model of other inputs, a recording that cannot be read, or a length that is no length.
        """
        if not isinstance(self.inputs.format, AudioFormat | EncodedSoundFormat):
            raise UpstairsError(
                f"windows are parts of recordings and this model reads inputs of kind {self.inputs.kind}"
            )
        for name, value in (("seconds", seconds), ("hop", hop)):
            check_type(name, value, (int, float, NoneType), "a number of seconds, such as 1.0")
            if value is not None and not 0.01 <= value <= 600:
                raise UpstairsError(f"`{name}` is {value}: give a number of seconds from 0.01 to 600")
        seconds = (self.inputs.format.seconds or 1.0) if seconds is None else seconds
        hop = seconds / 2 if hop is None else hop
        sound, where = plain_input(recording, 0, self.inputs)
        samples = read_sound(sound, name=where, longest=LONGEST_STREAM)
        size, step = round(seconds * RATE), round(hop * RATE)
        starts = [start for start in range(0, max(len(samples) - size, 0) + step, step) if start < len(samples)]
        heard = [start for start in starts if np.abs(samples[start : start + size]).max() >= FAINTEST]
        logits = self.logits((samples[start : start + size], RATE) for start in heard)
        found: list[SoundWindow] = []
        for start, label, p in zip(heard, self.name(logits), logits.softmax(-1).amax(-1).tolist(), strict=True):
            own = SoundWindow(start / RATE, min(start + size, len(samples)) / RATE, label, p)
            last = found[-1] if found else None
            if last and last.label == label and own.start <= last.end + 1e-9:
                found[-1] = SoundWindow(last.start, own.end, label, max(last.probability, p))
            else:
                found.append(own)
        return found

    def save(self, path: str | Path, *, support: bool = True) -> Path:
        """Writes one safetensors file that predicts without the run.

        Args:
            support: write the support examples too, which are the user's data. Without them the model predicts the
                same, and cannot tell which inputs of `evaluate` are among them.

        Raises:
            UpstairsError: the examples are to be left out, and the learner needs them to predict.
        """
        check_type("path", path, (str, Path), "the path of a file to write")
        path, leaves = Path(path), tree_flatten(self.state)[0]
        if kind_of(path) == "run":
            raise UpstairsError(f"{path} is the checkpoint of a run, which would be lost: choose another path")
        if not support and self.learner.needs_support:
            raise UpstairsError(
                f"`support` is False and {self.settings.learner} predicts each input beside its support examples (its "
                "layers use the statistics of a batch): save it with them, or train it with `norm` group"
            )
        tensors = {f"learner.{k}": v for k, v in self.learner.state_dict().items()}
        tensors |= {f"state.{i:04d}": leaf for i, leaf in enumerate(leaves)}
        if support and self.support is not None:
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


@torch.inference_mode(False)
def load_adapted(path: str | Path, *, learner: Learner | None = None) -> Model:
    """Loads a model from the file that `Model.save` wrote.

    Args:
        learner: receives the weights; needed where the run's learner was an object, which no file can rebuild.

    Raises:
        UpstairsError: the file is missing, damaged or of another version, or is a run.
    """
    check_type("path", path, (str, Path), "the path of a file that `Model.save` or `upstairs adapt` wrote")
    check_type("learner", learner, (Learner, NoneType), "a learner, made as for the training")
    path = Path(path)
    if path.is_dir() and checkpoint_in(path):
        raise UpstairsError(
            f"{path} is a run, which has not learned your classes: adapt it first, with `upstairs adapt {path} "
            f"--support FOLDER --out MODEL`, or upstairs.load({str(path)!r}).adapt(...)"
        )
    if path.is_dir():
        raise UpstairsError(f"{path} is a folder: give the file that `upstairs adapt` or Model.save wrote")
    tensors, meta = load_tensors(path, kind="adapted")
    with whole(path):
        settings, inputs = read_settings(meta["settings"]), Inputs.from_json(meta)
        learner, count = learner or seeded_learner(settings, inputs.shape, settings.way), len(meta["labels"])
        load_weights(learner, tensors, path)
        learner = learner.for_way(None if settings.way is None else count).eval()
        support = Examples(tensors["support.x"], tensors["support.y"]) if "support.x" in tensors else None
        with evaluating(learner):  # gives the structure of the state; its values come from the file
            y = torch.arange(count) if settings.way else torch.zeros(count, count)
            any_examples = support or Examples(torch.zeros(count, *inputs.shape), y)
            structure = tree_flatten(learner.adapt(any_examples))[1]
        leaves = [tensors[name] for name in sorted(tensors) if name.startswith("state.")]
        state = tree_unflatten(leaves, structure)
    return Model(learner, state, support, meta["labels"], inputs, settings, meta.get("threshold"))
