"""Tasks and learners, from which everything else is built."""

import copy
import inspect
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, NamedTuple, TypeVar, final
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from upstairs.errors import UpstairsError
from upstairs.functional.batching import known_true, vectorize
from upstairs.functional.exclusive import exclusive
from upstairs.functional.explained import explained
from upstairs.settings import TaskKind

State = TypeVar("State")  # the result of adaptation: any pytree of tensors
LossFn = Callable[[Tensor, Tensor], Float[Tensor, " n"]]  # (prediction, y) -> one loss per example


class _Fields(NamedTuple):
    x: Float[Tensor, "..."]  # [n, *feature]
    y: Tensor  # Int[n], a class in [0, way), or Float[n, d], a regression target
    mask: Bool[Tensor, "*batch n"]  # False marks padding


class Examples(_Fields):
    """Labelled examples of one task. In a batch of tasks every field has one more leading axis.

        Examples(x, y)          x [n, *feature],  y [n] of classes from 0, or y [n, d] of regression targets
        Examples(x, y, mask)    mask [n] is False on padding; by default all examples are real

    Raises:
        UpstairsError: regression targets of shape [n].
    """

    __slots__ = ()

    def __new__(cls, x: Any, y: Any, mask: Any = None) -> "Examples":
        if isinstance(x, np.ndarray) or isinstance(y, np.ndarray):
            x, y = torch.as_tensor(x), torch.as_tensor(y)
        if mask is None and isinstance(y, Tensor):  # torch builds trees of numbers and Nones in this shape too
            targets = y.is_floating_point()  # regression targets, or class probabilities
            if targets and y.ndim < 2:
                raise UpstairsError(
                    f"`y` has shape {tuple(y.shape)} and regression targets are [n, d]: write y[:, None], or give "
                    "class numbers as integers"
                )
            mask = torch.ones(y.shape[:-1] if targets else y.shape, dtype=torch.bool, device=y.device)
        return _Fields.__new__(cls, x, y, mask)

    def mean(self, values: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """Returns the mean over the real examples; zero without any."""
        if values.dtype.is_floating_point and values.shape == self.mask.shape and known_true(self.mask):
            return values.mean()  # one operation instead of five
        return torch.where(self.mask, values, 0.0).sum() / self.mask.sum().clamp(min=1)

    def pool(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
        """Returns the mean row over the real examples; zero without any."""
        return torch.where(self.mask[:, None], rows, 0.0).sum(0) / self.mask.sum().clamp(min=1)


class Task(NamedTuple):
    """A task: a learner adapts on `support` and is evaluated on `query`."""

    support: Examples
    query: Examples

    def together(self) -> Examples:
        """Returns all examples, those of the support set first."""
        return Examples(*(torch.cat(pair) for pair in zip(self.support, self.query, strict=True)))


def cross_entropy(logits: Float[Tensor, "n way"], y: Tensor) -> Float[Tensor, " n"]:
    """Computes the cross-entropy of each example, in nats."""
    return F.cross_entropy(logits, y, reduction="none")


def squared_error(mean: Float[Tensor, "n d"], y: Tensor) -> Float[Tensor, " n"]:
    """Computes the squared Euclidean distance of each example."""
    _outputs(mean, y)
    return F.mse_loss(mean, y, reduction="none").sum(-1)


def mean_loss(loss_fn: LossFn, prediction: Float[Tensor, "n *out"], examples: Examples) -> Float[Tensor, ""]:
    """Computes the mean of `loss_fn` over the real examples."""
    if (
        loss_fn is squared_error and prediction.ndim == 2 and known_true(examples.mask)
    ):  # one operation instead of three
        outputs = _outputs(prediction, examples.y)
        mean = F.mse_loss(prediction, examples.y)
        return mean if outputs == 1 else mean * outputs
    values = loss_fn(prediction, examples.y)
    if values.ndim > 1:  # one label a pixel, or a step of time: the mean of each example
        values = values.flatten(1).mean(1)
    return examples.mean(values)


def _outputs(prediction: Tensor, y: Tensor) -> int:
    """Returns the number of outputs of a regression.

    Raises:
        UpstairsError: predictions and targets differ in shape, which torch would broadcast to a wrong loss.
    """
    if prediction.shape != y.shape:
        if not y.is_floating_point():
            raise UpstairsError(f"`y` is {y.dtype}, as class numbers are, and the learner knows no classes: give `way`")
        raise UpstairsError(
            f"the predictions are {list(prediction.shape)} and the targets `y` {list(y.shape)}: give the network one "
            "output for each target, or give the learner a `loss_fn` of your own"
        )
    return prediction.shape[1]


def gaussian_nll(prediction: Float[Tensor, "n d2"], y: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Computes -log N(y; mean, scale^2) of each example, in nats; a prediction is [mean, log scale], d numbers each."""
    mean, log_scale = prediction.chunk(2, -1)
    error = (y - mean) * (-log_scale).exp()
    return (0.5 * error.square() + log_scale + 0.5 * math.log(2 * math.pi)).sum(-1)


class Side(NamedTuple):
    """The training schedule of one player of a game (such as a GAN)."""

    turns: int = 1  # meta-steps in a row
    lr: float = 1.0  # multiplies the run's learning rate
    betas: tuple[float, float] = (0.9, 0.999)  # of AdamW


class Player(NamedTuple):
    """One player, as the trainer updates it."""

    name: str  # empty for a learner with a single player
    learner: "Learner"
    parameters: list[nn.Parameter]
    side: Side


class Learner(nn.Module, ABC, Generic[State]):
    """A learner maps a support set to a state and a state to predictions.

    Its parameters are the meta-parameters. `adapt`, `predict` and `meta_loss` see ONE task,
    read the meta-parameters, and never write to `self`; `forward` vectorises them over a
    batch of tasks. `way` is the number of classes of `predict`, None for regression.
    """

    loss_fn: LossFn
    way: Any = None  # int, or None for regression; Any so that learners that classify can count with it
    global_labels: bool = False  # True: in training a class has the same label in every task
    averages_views: bool = False  # True: evaluation averages the embeddings of `views` of a picture
    views: int = 1  # number of views of each picture in evaluation: 1, 2 or 10
    needs_hard_labels: str = ""  # why queries' labels cannot be mixed or smoothed; empty if they can
    conditions_on_none: bool = False  # True: the support set may be empty
    rotation_invariant: bool = False  # True: inputs are vectors, and rotated ones give the same answers
    bounds_likelihood: bool = False  # True: a prediction is a lower bound on the log-likelihood of a query
    noise_size: int = 0  # standard normal numbers that `draw` needs for one example

    def __init_subclass__(cls, **options: Any) -> None:
        """Lets one thread at a time call the methods that a subclass writes (see `functional.exclusive`)."""
        super().__init_subclass__(**options)
        for name in ("adapt", "predict", "meta_loss", "draw"):
            if inspect.isfunction(method := vars(cls).get(name)):
                setattr(cls, name, exclusive(method))

    @exclusive
    def named_parameters(self, *args: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
        return iter(list(super().named_parameters(*args, **options)))

    @exclusive
    def state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:
        return super().state_dict(*args, **options)

    @abstractmethod
    def adapt(self, support: Examples, /) -> State:
        """Inner loop: returns the state that is learned from the support set."""

    @abstractmethod
    def predict(self, state: State, x: Float[Tensor, "n *feature"], /) -> Float[Tensor, "n *out"]:
        """Returns logits, or parameters of a distribution, as `loss_fn` expects them."""

    def meta_loss(self, task: Task) -> tuple[Float[Tensor, ""], Float[Tensor, "n *out"]]:
        """Returns the outer loss of one task, whose gradient is the meta-gradient, and the query predictions."""
        prediction = self.predict(self.adapt(task.support), task.query.x)
        return mean_loss(self.loss_fn, prediction, task.query), prediction

    def at(self, progress: float) -> None:
        """Receives the completed share of training, from 0 to 1, from the trainer before each meta-step.

        Override it if the objective changes during training. Its effect must depend on `progress` alone, so that a
        resumed run is bit-identical. Without any call, a learner behaves as at the end of training.
        """

    @final
    def forward(self, tasks: Task, /) -> tuple[Float[Tensor, " task"], Float[Tensor, "task n *out"]]:
        """Computes `meta_loss` of every task; returns losses and query predictions."""
        with explained(self, tasks):
            return vectorize(self.meta_loss, (tasks,), owner=self, name="meta_loss")

    @final
    def solve(self, tasks: Task, /) -> Float[Tensor, "task n *out"]:
        """Adapts to every support set and predicts its queries, without their labels.

        Raises:
            UpstairsError: population statistics were never measured, in evaluation mode (see `check_measured`).
        """
        check_measured(self)
        with explained(self, tasks):
            return vectorize(
                lambda support, x: self.predict(self.adapt(support), x),
                (tasks.support, tasks.query.x), owner=self, name="solve",
            )  # fmt: skip

    @final
    def solve_inductive(self, tasks: Task, /) -> Float[Tensor, "task n *out"]:
        """Adapts to every support set and predicts each query on its own."""
        check_measured(self)
        with explained(self, tasks):
            return vectorize(
                lambda support, x: self.predict_inductive(self.adapt(support), support, x),
                (tasks.support, tasks.query.x), owner=self, name="solve_inductive",
            )  # fmt: skip

    @final
    def predict_inductive(
        self, state: State, support: Examples, x: Float[Tensor, "n *feature"]
    ) -> Float[Tensor, "n *out"]:
        """Predicts each query on its own.

        A transductive learner receives each query together with the support set, for its batch statistics.
        """
        if not self.transductive:
            return self.predict(state, x)
        return torch.cat([self.predict(state, torch.cat([support.x, x[i : i + 1]]))[-1:] for i in range(len(x))])

    @property
    def task_kind(self) -> TaskKind:
        """The kind of tasks: classification, regression, or generation of examples of one class."""
        return "regression" if self.way is None else "classification"

    @property
    def transductive(self) -> bool:
        """True if the prediction for one query depends on the other queries."""
        return False

    @property
    def needs_support(self) -> bool:
        """True if a prediction needs the support examples themselves, besides the state that was adapted to them."""
        return self.transductive

    @property
    def embeds_alone(self) -> bool:
        """True if an encoder that does not adapt embeds each example alone, so that embeddings serve many tasks.

        `adapt` is then `fit(embed(support.x), support)`, and `predict` is `logits(state, embed(x))`.
        """
        return False

    @property
    def inner_steps(self) -> int | None:
        """The number of gradient steps of the inner loop; None without one."""
        return None

    def with_steps(self, steps: int) -> "Learner":
        """Returns this learner with another number of inner steps, sharing its meta-parameters.

        Raises:
            UpstairsError: it has no inner loop, or `steps` is negative.
        """
        raise UpstairsError(
            f"`inner_steps` is {steps} and {type(self).__name__} has no inner loop of steps: leave it out"
        )

    def players(self) -> list[Player]:
        """Returns the players that are trained, in the order of their turns; an ordinary learner is its only player."""
        return [Player("", self, [p for p in self.parameters() if p.requires_grad], Side())]

    def draw(self, state: State, noise: Float[Tensor, "count k"], /) -> Float[Tensor, "count *feature"]:
        """Generates examples of the class of `state`, one for each row of `noise_size` standard normal numbers.

        Raises:
            UpstairsError: this learner does not generate.
        """
        raise UpstairsError(f"{type(self).__name__} makes no examples: give a learner that does, such as redrawing")

    @final
    def sample(self, state: State, count: int, generator: torch.Generator) -> Float[Tensor, "count *feature"]:
        """Generates `count` new examples of the class of `state`."""
        return self.draw(state, torch.randn(count, self.noise_size, generator=generator))

    @property
    def gaussian(self) -> bool:
        """True if a prediction is [mean, log scale] of a Gaussian; its log-likelihood is then scored too."""
        return self.loss_fn is gaussian_nll

    @property
    def second_order(self) -> bool:
        """True if the meta-gradient takes second derivatives, which half precision ruins."""
        return False

    @property
    def max_way(self) -> int | None:
        """The largest number of classes for these meta-parameters; None for any number."""
        return None

    def for_way(self, way: int | None) -> "Learner":
        """Returns this learner for tasks of `way` classes, sharing its meta-parameters.

        Raises:
            UpstairsError: `way` exceeds `max_way`, or does not fit the kind of tasks.
        """
        if self.task_kind == "generation" and way != 1:
            raise UpstairsError(f"`way` is {way} and this learner makes more of one class: leave `way` out")
        if self.task_kind == "classification" and way is not None and way < 2:
            raise UpstairsError(f"`way` is {way}: it must be at least 2, for a learner that names classes")
        if self.max_way is not None and way is not None and way > self.max_way:
            raise UpstairsError(
                f"this learner was trained to tell {self.max_way} classes apart and was given {way}: "
                f"give it {self.max_way} or fewer, or train it with `way` {way}"
            )
        other = copy.copy(self)
        other.way = way
        return other


def check_measured(module: nn.Module) -> None:
    """Refuses a network in evaluation mode whose population statistics were never measured.

    A layer with such statistics has a buffer `measured`, which becomes True. `solve`, `evaluate`, `Run.adapt` and
    `Model` check it; `adapt`, `predict` and `forward` do not. Measure the statistics again after further training.

    Raises:
        UpstairsError: a layer without statistics.
    """
    for name, layer in module.named_modules():
        measured = layer._buffers.get("measured")
        if measured is not None and not layer.training and not measured.all():
            raise UpstairsError(
                f"the population statistics of '{name}' were never measured, and its answers would be wrong: call "
                "`upstairs.calibrate(learner, train_tasks)` after training, or give evaluate `training`; a run "
                "measures them when it validates, so resume one that was stopped before that"
            )


_EVALUATING: WeakKeyDictionary[nn.Module, tuple[int, bool]] = WeakKeyDictionary()  # -> contexts, the mode before
_MODES = threading.Lock()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switches to evaluation mode without gradients, and restores the mode of every submodule afterwards.

    Where several threads evaluate one module, the last one restores the modes.
    """
    modules = list(module.modules())
    with _MODES:
        for m in modules:
            count, mode = _EVALUATING.get(m, (0, m.training))
            _EVALUATING[m] = count + 1, mode
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        with _MODES:
            for m in modules:
                count, mode = _EVALUATING.pop(m)
                if count > 1:
                    _EVALUATING[m] = count - 1, mode
                else:
                    m.training = mode
