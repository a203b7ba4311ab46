"""Tasks and learners: the two nouns everything else is built from."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, NamedTuple, TypeVar, cast, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from upstairs.errors import UpstairsError
from upstairs.functional.batching import known_true, vectorize
from upstairs.settings import TaskKind

State = TypeVar("State")  # what adaptation produces: any pytree of tensors
LossFn = Callable[[Tensor, Tensor], Float[Tensor, " n"]]  # (prediction, y) -> one loss per example


class _Fields(NamedTuple):
    x: Float[Tensor, "..."]  # [n, *feature]
    y: Tensor  # Int[n], a class in [0, way), or Float[n, d], a regression target
    mask: Bool[Tensor, "*batch n"]  # False marks padding


class Examples(_Fields):
    """Labelled examples of one task. In a batch of tasks every field has one more axis, in front.

        Examples(x, y)          x [n, *feature],  y [n] of classes from 0, or y [n, d] of regression targets
        Examples(x, y, mask)    mask [n] is False on padding; left out, all examples are real

    Raises:
        UpstairsError: regression targets without a last axis, whose mask cannot be known.
    """

    __slots__ = ()

    def __new__(cls, x: Tensor, y: Tensor, mask: Tensor | None = None) -> "Examples":
        if mask is None and isinstance(y, Tensor):  # trees of Nones have its shape too
            targets = y.is_floating_point()  # shares of classes have a last axis too
            if targets and y.ndim < 2:
                raise UpstairsError(
                    f"`y` has shape {tuple(y.shape)} and regression targets are [n, d]: write y[:, None], or give "
                    "class numbers as integers"
                )
            mask = torch.ones(y.shape[:-1] if targets else y.shape, dtype=torch.bool, device=y.device)
        return _Fields.__new__(cls, x, y, cast(Tensor, mask))

    def mean(self, values: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """Mean over the real examples; zero where there are none."""
        if values.dtype.is_floating_point and values.shape == self.mask.shape and known_true(self.mask):
            return values.mean()  # one operation, where there were five
        return torch.where(self.mask, values, 0.0).sum() / self.mask.sum().clamp(min=1)

    def pool(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
        """The mean row over the real examples; zero where there are none."""
        return torch.where(self.mask[:, None], rows, 0.0).sum(0) / self.mask.sum().clamp(min=1)


class Task(NamedTuple):
    """Adapt on `support`, be judged on `query`."""

    support: Examples
    query: Examples

    def together(self) -> Examples:
        """All examples, those of the support set first."""
        return Examples(*(torch.cat(pair) for pair in zip(self.support, self.query, strict=True)))


def cross_entropy(logits: Float[Tensor, "n way"], y: Tensor) -> Float[Tensor, " n"]:
    """Nats per example."""
    return F.cross_entropy(logits, y, reduction="none")


def squared_error(mean: Float[Tensor, "n d"], y: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Squared Euclidean distance per example."""
    return F.mse_loss(mean, y, reduction="none").sum(-1)


def mean_loss(loss_fn: LossFn, prediction: Float[Tensor, "n out"], examples: Examples) -> Float[Tensor, ""]:
    """The mean of `loss_fn` over the real examples."""
    if loss_fn is squared_error and prediction.ndim == 2 and known_true(examples.mask):  # one operation, not three
        mean, outputs = F.mse_loss(prediction, examples.y), prediction.shape[1]
        return mean if outputs == 1 else mean * outputs
    return examples.mean(loss_fn(prediction, examples.y))


def gaussian_nll(prediction: Float[Tensor, "n d2"], y: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """-log N(y; mean, scale^2) in nats per example; a prediction is [mean, log scale], d numbers each."""
    mean, log_scale = prediction.chunk(2, -1)
    error = (y - mean) * (-log_scale).exp()
    return (0.5 * error.square() + log_scale + 0.5 * math.log(2 * math.pi)).sum(-1)


class Side(NamedTuple):
    """How one player of a game learns."""

    turns: int = 1  # meta-steps in a row
    lr: float = 1.0  # times the run's learning rate
    betas: tuple[float, float] = (0.9, 0.999)  # of its AdamW


class Player(NamedTuple):
    """One player as the trainer steps it."""

    name: str  # empty for an ordinary learner, which is its only player
    learner: "Learner"
    parameters: list[nn.Parameter]
    side: Side


class Learner(nn.Module, ABC, Generic[State]):
    """A learner maps a support set to a state and a state to predictions.

    Its parameters are the meta-parameters. `adapt`, `predict` and `meta_loss` see ONE task,
    read the meta-parameters, and never write to `self`; `forward` vectorises them over a
    batch of tasks. `way` is the number of classes that `predict` answers, None for regression.
    """

    loss_fn: LossFn
    way: Any = None  # int, or None for regression; Any so that learners that classify can count with it
    global_labels: bool = False  # True: in training a class has the same number in every task, its place in the source
    averages_views: bool = False  # True: `views` of a picture are averaged in evaluation, after the encoder
    views: int = 1  # of each picture, in evaluation: 1, 2 or 10
    needs_hard_labels: str = ""  # why queries' labels cannot be mixed or smoothed; empty where they can
    conditions_on_none: bool = False  # True: the state of an empty support set means something
    bounds_likelihood: bool = False  # True: a prediction is a lower bound on the log-likelihood of a query
    noise_size: int = 0  # standard normal numbers that `draw` needs for one example

    @abstractmethod
    def adapt(self, support: Examples, /) -> State:
        """Inner loop: everything learned from this task's support set."""

    @abstractmethod
    def predict(self, state: State, x: Float[Tensor, "n *feature"], /) -> Float[Tensor, "n out"]:
        """Logits, or parameters of a distribution, as `loss_fn` reads them."""

    def meta_loss(self, task: Task) -> tuple[Float[Tensor, ""], Float[Tensor, "n out"]]:
        """Outer loss of one task, and the query predictions. Its gradient is the meta-gradient."""
        prediction = self.predict(self.adapt(task.support), task.query.x)
        return mean_loss(self.loss_fn, prediction, task.query), prediction

    def at(self, progress: float) -> None:
        """The trainer calls this before each meta-step with the share of training that is over, from 0 to 1.

        Override it where the objective changes while training goes on. What it sets must depend on `progress` alone, so
        that a resumed run is bit-identical. A learner on which it was never called is as at the end of training.
        """

    @final
    def forward(self, tasks: Task, /) -> tuple[Float[Tensor, " task"], Float[Tensor, "task n out"]]:
        """`meta_loss` of every task: losses and query predictions."""
        return vectorize(self.meta_loss, (tasks,), owner=self, name="meta_loss")

    @final
    def solve(self, tasks: Task, /) -> Float[Tensor, "task n out"]:
        """Adapt to every support set and predict its queries: no loss, no labels of the queries used.

        Raises:
            UpstairsError: in evaluation mode, population statistics that were never measured (see `check_measured`).
        """
        check_measured(self)
        return vectorize(
            lambda support, x: self.predict(self.adapt(support), x),
            (tasks.support, tasks.query.x), owner=self, name="solve",
        )  # fmt: skip

    @final
    def solve_inductive(self, tasks: Task, /) -> Float[Tensor, "task n out"]:
        """`solve` with each query predicted without the others."""
        check_measured(self)
        return vectorize(
            lambda support, x: self.predict_inductive(self.adapt(support), support, x),
            (tasks.support, tasks.query.x), owner=self, name="solve_inductive",
        )  # fmt: skip

    @final
    def predict_inductive(
        self, state: State, support: Examples, x: Float[Tensor, "n *feature"]
    ) -> Float[Tensor, "n out"]:
        """Predict each query on its own, so that no query sees another.

        A transductive learner sees the query together with the support set, whose statistics it is normalised with.
        """
        if not self.transductive:
            return self.predict(state, x)
        return torch.cat([self.predict(state, torch.cat([support.x, x[i : i + 1]]))[-1:] for i in range(len(x))])

    @property
    def task_kind(self) -> TaskKind:
        """What the tasks are: classes to tell apart, functions to fit, or sets of one class to make more of."""
        return "regression" if self.way is None else "classification"

    @property
    def transductive(self) -> bool:
        """True where the prediction for one query depends on the other queries."""
        return False

    @property
    def embeds_alone(self) -> bool:
        """True where examples may be embedded once for many tasks: an encoder that does not adapt sees each alone.

        `adapt` is then `fit(embed(support.x), support)`, and `predict` is `logits(state, embed(x))`.
        """
        return False

    @property
    def inner_steps(self) -> int | None:
        """Number of gradient steps of the inner loop; None where there is none."""
        return None

    def with_steps(self, steps: int) -> "Learner":
        """This learner, sharing its meta-parameters, with another number of inner steps.

        Raises:
            UpstairsError: it has no inner loop, or the number is negative.
        """
        raise UpstairsError(
            f"`inner_steps` is {steps} and {type(self).__name__} has no inner loop of steps: leave it out"
        )

    def players(self) -> list[Player]:
        """Those who learn, in the order of their turns: of a game its players, of any other learner itself."""
        return [Player("", self, [p for p in self.parameters() if p.requires_grad], Side())]

    def draw(self, state: State, noise: Float[Tensor, "count k"], /) -> Float[Tensor, "count *feature"]:
        """New examples of the class that `state` is of, one for each row of `noise_size` standard normal numbers.

        Raises:
            UpstairsError: this learner does not generate (its `task_kind` is another).
        """
        raise UpstairsError(f"{type(self).__name__} makes no examples: give a learner that does, such as redrawing")

    @final
    def sample(self, state: State, count: int, generator: torch.Generator) -> Float[Tensor, "count *feature"]:
        """`count` new examples of the class that `state` is of."""
        return self.draw(state, torch.randn(count, self.noise_size, generator=generator))

    @property
    def gaussian(self) -> bool:
        """True where a prediction is [mean, log scale] of a Gaussian, whose log-likelihood is then scored too."""
        return self.loss_fn is gaussian_nll

    @property
    def second_order(self) -> bool:
        """True where the meta-gradient takes second derivatives, which half precision ruins."""
        return False

    @property
    def max_way(self) -> int | None:
        """The most classes these meta-parameters can tell apart; None where any number will do."""
        return None

    def for_way(self, way: int | None) -> "Learner":
        """This learner, sharing its meta-parameters, for tasks of `way` classes.

        Raises:
            UpstairsError: the meta-parameters fix a smaller number of classes, or one class is nothing to tell apart.
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
    """Refuse a network in evaluation mode whose population statistics were never measured: its answers would be wrong.

    A layer that measures statistics has a buffer `measured`, all True once they are. `solve`, `evaluate`, `Run.adapt`
    and `Model` check it; `adapt`, `predict` and a bare forward pass, by which networks are built, do not. Whether
    weights have changed since statistics were measured cannot be known: measure them again after training on.

    Raises:
        UpstairsError: naming the layer and what to do.
    """
    for name, layer in module.named_modules():
        measured = layer._buffers.get("measured")
        if measured is not None and not layer.training and not measured.all():
            raise UpstairsError(
                f"the population statistics of '{name}' were never measured, and its answers would be wrong: call "
                "`upstairs.calibrate(learner, train_tasks)` after training, or give evaluate `training`; a run "
                "measures them when it validates, so resume one that was stopped before that"
            )


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode and no graph; every submodule gets its own mode back afterwards."""
    modes = {m: m.training for m in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for m, mode in modes.items():
            m.training = mode
