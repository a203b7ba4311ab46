"""A learner adapted to one task, which classifies inputs or predicts numbers."""

from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from upstairs.console import counting, one_line
from upstairs.core import Examples, Learner, check_measured, evaluating
from upstairs.data.audio.format import RATE, AudioFormat
from upstairs.data.audio.windows import SoundWindow, join_windows, read_windows
from upstairs.data.encoded.format import EncodedSoundFormat
from upstairs.engine.leave_one_out import conformal_bar, prediction_sets
from upstairs.engine.metrics import ModelScore, NumberScore, score_answers, score_numbers
from upstairs.errors import UpstairsError, check_type
from upstairs.functional.waiting import wait_considerately
from upstairs.learners import max_logit, read_settings, seeded_learner
from upstairs.learners.metric.heads import HEADS
from upstairs.settings import Settings
from upstairs.storage import kind_of, load_tensors, save_tensors, versions, whole
from upstairs.training.checkpoint import checkpoint_in, load_weights
from upstairs.training.inputs import (
    Inputs,
    Items,
    Support,
    example_name,
    label_text,
    plain_input,
    read_support,
    read_targets,
    refuse_bad,
)
from upstairs.training.knowledge import Fit, Knowledge

NONE = "none of these"


class LikelyMistake(NamedTuple):
    """A support example that the others take for another class."""

    name: str
    label: str
    looks_like: str
    probability: float  # of `looks_like`


class ModelCheck(ModelScore):
    """The result of `Model.check`: the score of the support examples, each predicted by a model that has not seen it.

    `mistakes` are the examples that look wrong, the surest first; `unchecked` are the classes with a single example.
    """

    def __str__(self) -> str:
        lines = ["each example predicted from all others:", super().__str__()]
        if self["unchecked"]:
            named = ", ".join(map(one_line, self["unchecked"][:8])) + (", ..." if len(self["unchecked"]) > 8 else "")
            lines.append(f"classes with one example, which cannot be checked: {named}")
        if self["mistakes"]:
            lines.append("examples that look wrong:")
            lines += [f"  {one_line(m.name)}: {one_line(m.label)}, looks like {one_line(m.looks_like)} "
                      f"({m.probability:.0%})" for m in map(LikelyMistake._make, self["mistakes"][:10])]  # fmt: skip
        return "\n".join(lines)


class Model:
    """A learner adapted to one task, which classifies inputs. Its file contains everything that it needs.

    A model of regression predicts numbers: `labels` are the names of its targets.

    With a `threshold`, an input whose largest logit is below it receives the label `NONE`.

    It goes on learning: `add`, `remove` and `correct` change its examples. Threads may share it.

    Inputs are a list, an array [n, *feature], a column of a table or a generator (read in batches) of: paths, bytes,
    open files, PIL pictures or arrays, texts, or sounds (samples, rate). A single one is taken for a list of one.

    Args:
        unknown: the share of known inputs that `threshold` refuses; None: the threshold stays when examples change.
        head: the head on the features of a frozen encoder (see `upstairs.adapt`); None: the learner of a run.
    """

    def __init__(
        self, fit: Fit, inputs: Inputs, settings: Settings, *, unknown: float | None = None, head: str | None = None
    ) -> None:
        self.inputs, self.settings, self.head, self.unknown = inputs, settings, head, unknown
        self.knowledge = Knowledge(fit, unknown=unknown, calibrated=head is not None)
        wait_considerately(self)

    @property
    def learner(self) -> Learner:
        return self.knowledge.fit.learner

    @property
    def state(self) -> Any:
        return self.knowledge.fit.state

    @property
    def support(self) -> Examples | None:
        """The examples it learned from; None: they were left out of its file."""
        return self.knowledge.fit.support

    @property
    def labels(self) -> list[str]:
        return self.knowledge.fit.labels

    @property
    def threshold(self) -> float | None:
        return self.knowledge.fit.threshold

    def add(self, items: Items, label: Any) -> "Model":
        """Teaches the model more examples of a class, known or new, and returns it.

        A learner that is adapted in closed form then answers as one that received all examples at once.

        Args:
            items: inputs as for `predict`.
            label: the class of all of them.

        Raises:
            UpstairsError: inputs that cannot be read, or a model whose file has no examples.
        """
        self._names_classes()
        named = label_text(label)
        rows, names = self._rows(items)
        self.knowledge.add(rows, [named] * len(rows), names)
        return self

    def remove(self, items: Items | None = None, *, label: Any = None) -> "Model":
        """Takes examples away, or with `label` a whole class, and returns the model.

        Raises:
            UpstairsError: inputs that are none of the examples, a label that it does not know, or less than two classes
                would be left. Nothing is removed then.
        """
        self._names_classes()
        if (items is None) == (label is None):
            raise UpstairsError("give `items`, the examples to remove, or `label`, a class to remove: one of the two")
        if label is not None:
            self.knowledge.remove_class(label_text(label))
        else:
            self.knowledge.remove(*self._rows(items))
        return self

    def correct(self, item: Any, label: Any) -> "Model":
        """Tells the model the right label of an input: it becomes an example, or changes the label of one."""
        self._names_classes()
        named = label_text(label)
        rows, names = self._rows(item)
        for row, name in zip(rows, names, strict=True):
            self.knowledge.correct(row, named, name)
        return self

    def _rows(self, items: Items) -> tuple[Float[Tensor, "n *feature"], list[str]]:
        items = list(self.inputs.each(items))
        rows = self.inputs.read(items)
        return self._kept(rows), [example_name(item, i) for i, item in enumerate(items)]

    def _kept(self, rows: Float[Tensor, "n *feature"]) -> Float[Tensor, "n *feature"]:
        """Returns rows in the precision of the examples: heads compute in float64."""
        return rows.double() if self.head else rows

    @torch.inference_mode(False)
    def check(self) -> ModelCheck:
        """Checks the examples: each is predicted by the learner adapted to all others (in folds, if there are many).

        Returns:
            The accuracy to expect with its 95% interval, what is confused, the calibration error, and the examples that
            look wrong. Print it.

        Raises:
            UpstairsError: no class has two examples, or the examples were left out of the file.
        """
        self._names_classes()
        fit = self.knowledge.fit
        left_out = self.knowledge.left_out(fit)
        assert fit.support is not None
        places = left_out.checked
        truth = [fit.labels[k] for k in fit.support.y[places].tolist()]
        p = (left_out.logits / self.knowledge.temperature(fit)).softmax(-1).numpy()
        answers = [fit.labels[k] for k in left_out.logits.argmax(-1).tolist()]
        names = [fit.names[place] if fit.names else f"example {place}" for place in places]
        mistakes = [
            LikelyMistake(name, own, answer, float(probable))
            for name, own, answer, probable in zip(names, truth, answers, p.max(-1), strict=True)
            if own != answer
        ]
        counts = fit.support.y.bincount(minlength=len(fit.labels)).tolist()
        score = score_answers(truth, answers, p, fit.labels)
        unchecked = [label for label, count in zip(fit.labels, counts, strict=True) if count == 1]
        mistakes.sort(key=lambda mistake: -mistake.probability)
        return ModelCheck(score, mistakes=mistakes, unchecked=unchecked)

    @torch.inference_mode(False)
    def predict_set(self, items: Items, *, coverage: float = 0.9) -> list[list[str]]:
        """Returns for each input the labels that may be right, the likeliest first: of new inputs of the classes, a
        share `coverage` has the true label in its set (conformal prediction: Vovk et al. 2005).

        A set is empty where no label is likely enough. A model that is right more often than `coverage` has such sets.

        Raises:
            UpstairsError: a coverage that is no share, or examples of which none can be left out (see `check`).
        """
        self._names_classes()
        fit = self.knowledge.fit
        return self._sets(fit, self._all_logits(fit, items), coverage)

    def sets_of(self, logits: Float[Tensor, "n way"], coverage: float) -> list[list[str]]:
        """Returns `predict_set` of inputs whose logits were computed."""
        return self._sets(self.knowledge.fit, logits, coverage)

    def _sets(self, fit: Fit, logits: Float[Tensor, "n way"], coverage: float) -> list[list[str]]:
        check_type("coverage", coverage, (int, float), "a share between 0 and 1, such as 0.9")
        if not 0 < coverage < 1:
            raise UpstairsError(f"`coverage` is {coverage}: give a share between 0 and 1, such as 0.9")
        left_out = self.knowledge.left_out(fit)
        assert fit.support is not None
        scores = (left_out.logits / left_out.temperature).softmax(-1)
        bar = conformal_bar(scores, fit.support.y[left_out.checked], coverage=coverage)
        p = (logits / left_out.temperature).softmax(-1)
        order, inside = p.argsort(dim=-1, descending=True).tolist(), prediction_sets(p, bar).tolist()
        return [[fit.labels[k] for k in own if there[k]] for own, there in zip(order, inside, strict=True)]

    @torch.inference_mode(False)  # whose tensors would not serve outside of it
    def logits(self, items: Items) -> Float[Tensor, "n way"]:
        """Returns the logits of each input (columns as `labels`); inputs do not affect each other."""
        return self._all_logits(self.knowledge.fit, items)

    def _all_logits(self, fit: Fit, items: Items) -> Float[Tensor, "n way"]:
        bad: dict[int, UpstairsError] = {}
        parts = [self._logits(fit, rows) for _, rows in self.inputs.batches(items, bad)]
        refuse_bad(bad)
        return torch.cat(parts) if parts else torch.zeros(0, len(fit.labels), dtype=torch.float64)

    @torch.inference_mode(False)
    def logits_of(self, rows: Float[Tensor, "n *feature"]) -> Float[Tensor, "n way"]:
        """Returns the logits of inputs that were read (see `Inputs.batches`)."""
        return self._logits(self.knowledge.fit, rows)

    def _logits(self, fit: Fit, rows: Float[Tensor, "n *feature"]) -> Float[Tensor, "n way"]:
        with evaluating(fit.learner):
            check_measured(fit.learner)
            rows = self._kept(rows)
            if fit.support is None:
                return fit.learner.predict(fit.state, rows).double()
            return fit.learner.predict_inductive(fit.state, fit.support, rows).double()

    def values(self, items: Items) -> Float[np.ndarray, "n targets"]:
        """Returns the predicted targets of each input (columns as `labels`), in the units of the run's table."""
        return self.values_of(self.logits(items))

    def values_of(self, raw: Float[Tensor, "n out"]) -> Float[np.ndarray, "n targets"]:
        means = raw[:, : self.settings.outputs]  # a scale of each may follow
        return self.inputs.rows.in_units(means) if self.inputs.rows else means.numpy()

    def predict_proba(self, items: Items) -> Float[np.ndarray, "n way"]:
        """Returns the probability of each class (columns as `labels`) for each input, assuming it is of one of them."""
        self._names_classes()
        return self.probabilities_of(self.logits(items))

    def probabilities_of(self, logits: Float[Tensor, "n way"]) -> Float[np.ndarray, "n way"]:
        """Returns the probabilities of logits; those of a head are calibrated on its examples (Guo et al. 2017)."""
        return (logits / self.knowledge.temperature(self.knowledge.fit)).softmax(-1).numpy()

    def predict(self, items: Items) -> Any:
        """Returns the likeliest label of each input, or `NONE`: a list, also for a single input.

        A model of regression returns its `values`, [n, targets].
        """
        if self.settings.way is None:
            return self.values(items)
        fit = self.knowledge.fit
        return _names(fit, self._all_logits(fit, items))

    def _names_classes(self) -> None:
        if self.settings.way is None:
            raise UpstairsError("the model predicts numbers and names no classes: use `predict`")

    def name(self, logits: Float[Tensor, "n way"]) -> list[str]:
        """Returns the label of each row of logits, or `NONE`."""
        return _names(self.knowledge.fit, logits)

    @torch.inference_mode(False)
    def evaluate(
        self, data: Support, *, columns: str | None = None, pattern: str | None = None, quiet: bool = True
    ) -> ModelScore | NumberScore:
        """Scores the model on labelled inputs, which are none of its support examples: print the result.

        A model of regression is scored on a table of one task, or on (inputs, targets).

        Args:
            data: a folder of class folders, a table, {label: inputs} or (inputs, labels), as for `Run.adapt`.
            columns, pattern: the columns of a table, and how the names of files hold their labels (see `Run.adapt`).
            quiet: show no progress.

        Raises:
            UpstairsError: inputs that cannot be read, or no label that the model knows.
        """
        if self.settings.way is None:
            if columns is not None or pattern is not None:
                raise UpstairsError(
                    "`columns` and `pattern` are about labels and the model predicts numbers: leave them out"
                )
            return self._score_numbers(read_targets(data, self.inputs, self.settings.outputs))
        labels, items, classes = read_support(
            data, self.inputs, least=1, columns=columns, pattern=pattern, what="the labelled data"
        )
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
                for place, row in zip(places, self._kept(rows), strict=True):
                    if row.numpy().tobytes() in known:
                        repeated.append(str(items[place]) if isinstance(items[place], str | Path) else f"input {place}")
                if progress:
                    progress(places[-1] + 1, len(items))
        refuse_bad(bad)
        logits = torch.cat(parts)
        return score_answers(
            truth, self.name(logits), self.probabilities_of(logits), self.labels,
            refusal=None if self.threshold is None else NONE, repeated=repeated if self.support else None,
        )  # fmt: skip

    def _score_numbers(self, given: Examples) -> NumberScore:
        if len(given.y) < 2:
            raise UpstairsError("the table has 1 example: give two or more to score the model on")
        known = {row.numpy().tobytes() for row in self.support.x} if self.support else set()
        repeated = sum(row.numpy().tobytes() in known for row in given.x) if self.support else None
        return score_numbers(self.values_of(given.y), self.values_of(self.logits_of(given.x)), self.labels, repeated)

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
        usual = self.inputs.format.seconds or 1.0
        sound, where = plain_input(recording, 0, self.inputs)
        samples, places = read_windows(sound, seconds=usual if seconds is None else seconds, hop=hop, name=where)
        logits = self.logits((samples[place], RATE) for place in places)
        answers = zip(places, self.name(logits), self.probabilities_of(logits).max(-1).tolist(), strict=True)
        return join_windows(SoundWindow(at.start / RATE, at.stop / RATE, label, p) for at, label, p in answers)

    def save(self, path: str | Path, *, support: bool = True) -> Path:
        """Writes one safetensors file that predicts without the run.

        Args:
            support: write the support examples too, which are the user's data. Without them the model predicts the
                same, and cannot tell which inputs of `evaluate` are among them.

        Raises:
            UpstairsError: the examples are to be left out, and the learner needs them to predict.
        """
        check_type("path", path, (str, Path), "the path of a file to write")
        path, fit = Path(path), self.knowledge.fit
        leaves = tree_flatten(fit.state)[0]
        if kind_of(path) == "run":
            raise UpstairsError(f"{path} is the checkpoint of a run, which would be lost: choose another path")
        if not support and fit.learner.needs_support:
            raise UpstairsError(
                f"`support` is False and {self.settings.learner} predicts each input beside its support examples (its "
                "layers use the statistics of a batch): save it with them, or train it with `norm` group"
            )
        tensors = {f"learner.{k}": v for k, v in fit.learner.state_dict().items()}
        tensors |= {f"state.{i:04d}": leaf for i, leaf in enumerate(leaves)}
        if support and fit.support is not None:
            tensors |= {"support.x": fit.support.x, "support.y": fit.support.y}
        meta = {
            "settings": self.settings.to_json(),
            "labels": fit.labels,
            "threshold": fit.threshold,
            "unknown": self.unknown,
            "head": self.head,
            "temperature": self.knowledge.temperature(fit),
            "names": fit.names if support else [],
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
        head, count = meta.get("head"), len(meta["labels"])
        learner = learner or (HEADS[head](way=count) if head else seeded_learner(settings, inputs.shape, settings.way))
        load_weights(learner, tensors, path)
        learner = learner.for_way(None if settings.way is None else count).eval()
        support = Examples(tensors["support.x"], tensors["support.y"]) if "support.x" in tensors else None
        with evaluating(learner):  # gives the structure of the state; its values come from the file
            y = torch.arange(count) if settings.way else torch.zeros(count, count)
            any_examples = support or Examples(
                torch.zeros(count, *inputs.shape).to(torch.float64 if head else torch.float32), y
            )
            structure = tree_flatten(learner.adapt(any_examples))[1]
        leaves = [tensors[name] for name in sorted(tensors) if name.startswith("state.")]
        state = tree_unflatten(leaves, structure)
    known = meta["labels"], meta.get("names", []), meta.get("threshold"), meta.get("temperature")
    return Model(Fit(learner, state, support, *known), inputs, settings, unknown=meta.get("unknown"), head=head)


def _names(fit: Fit, logits: Float[Tensor, "n way"]) -> list[str]:
    """Returns the label of each row of logits, or `NONE`."""
    bar = -np.inf if fit.threshold is None else fit.threshold
    best = zip(logits.argmax(-1).tolist(), max_logit(logits).tolist(), strict=True)
    return [fit.labels[k] if score >= bar else NONE for k, score in best]
