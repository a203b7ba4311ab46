"""Learners whose inner loop is gradient descent: MAML, FOMAML, ANIL, BOIL, Meta-SGD, Meta-Curvature, iMAML.

    phi_0 = theta,  phi_{k+1} = phi_k - lr * grad L_support(phi_k),  meta-gradient = d L_query(phi_K) / d theta

All are one class with different choices: which parameters adapt, by which update rule, and how the meta-gradient is
computed through the inner loop.
"""

import copy
from collections.abc import Callable
from types import NoneType
from typing import TypedDict, Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.core import Examples, Learner, LossFn, cross_entropy, mean_loss, squared_error
from upstairs.errors import UpstairsError, check_type
from upstairs.functional.call import functional_call
from upstairs.functional.differentiate import EXACT, Differentiation, FirstOrder, Implicit, at_step, inner_step
from upstairs.functional.inner_loop import inner_loop
from upstairs.functional.rules import SGD, LearnedRates, MetaCurvature, Params, UpdateRule, check_rule
from upstairs.nets.norm import is_transductive
from upstairs.nets.text import Tokens
from upstairs.tree import modules_of, named_parameters_of, widest

Fast = Callable[[str], bool]  # name of a parameter -> whether it adapts


class GradientLearner(Learner[Params]):
    """A learner that adapts `net` by gradient descent on the support set; the state is the adapted ("fast") weights.

    Args:
        net: any module; for classification its outputs are logits for the largest number of classes.
        rule: the update rule of the inner loop.
        steps: number of inner steps.
        differentiate: `Exact()`, `FirstOrder()` or `Implicit()`: the meta-gradient through the inner loop.
        fast: selects by name the parameters that adapt; the others are shared by all tasks. None: those that are not
            frozen, or all where all are frozen.
        batch: support examples in an inner step, chosen by `minibatch`; None: all of them.
        way: number of classes that `predict` answers; None for regression.
        loss_fn: None is cross-entropy, for regression the squared error.

    Raises:
        UpstairsError: no parameter would adapt, or `batch` does not fit.
    """

    def __init__(
        self, net: nn.Module, rule: UpdateRule, *, way: int | None = None, steps: int = 5,
        differentiate: Differentiation = EXACT, fast: Fast | None = None, batch: int | None = None,
        loss_fn: LossFn | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        check_type("net", net, nn.Module, "a module of torch")
        check_type("differentiate", differentiate, Differentiation, "Exact(), FirstOrder() or Implicit()")
        check_type("steps", steps, int, "the number of inner steps")
        check_type("way", way, (int, NoneType), "the number of classes, or None for regression")
        self.net, self.rule = net, rule
        self.steps, self.differentiate, self.fast = steps, differentiate, fast
        self.loss_fn = loss_fn or (squared_error if way is None else cross_entropy)
        self.batch, self.way = batch, way
        self.outputs: int | None = way
        check_rule(rule)
        if way is not None and way < 1:
            raise UpstairsError(f"`way` is {way}: give the number of classes, or None where the outputs are no classes")
        if not self.adapting():
            names = ", ".join(name for name, _ in net.named_parameters())
            raise UpstairsError(f"no parameter of the network would adapt: `fast` chose none of {names}")
        if steps < 0:
            raise UpstairsError(f"`steps` is {steps}: it takes 0 or more")
        if batch is not None and (batch < 1 or isinstance(differentiate, Implicit)):
            raise UpstairsError(
                f"batch is {batch}: it takes 1 or more, and None for iMAML, whose loop has one minimum to find"
            )

    def adapting(self) -> Params:
        """Returns the parameters that adapt, by name."""
        return adapting(self.net, self.fast)

    @property
    def transductive(self) -> bool:
        return is_transductive(self.net)

    @property
    def second_order(self) -> bool:
        return self.steps > 0 and not isinstance(self.differentiate, FirstOrder)

    @property
    def max_way(self) -> int | None:
        return self.outputs

    @property
    def inner_steps(self) -> int:
        return self.steps

    def with_steps(self, steps: int) -> "GradientLearner":
        if steps < 0:
            raise UpstairsError(f"`inner_steps` is {steps}: it takes 0 or more")
        other = copy.copy(self)
        other.steps = steps
        return other

    def start(self, support: Examples) -> Params:
        """Returns the parameters from which the inner loop starts."""
        return self.adapting()

    def adapt(self, support: Examples, /) -> Params:
        return inner_loop(
            self.inner_loss, self.start(support), support,
            rule=self.rule, steps=self.steps, differentiate=self.differentiate,
        )  # fmt: skip

    def predict(self, params: Params, x: Tensor, /) -> Tensor:
        with at_step(self.steps):
            return self.answer(params, x)

    def answer(self, params: Params, x: Tensor) -> Tensor:
        """Returns the network's output with these parameters, at the current inner step."""
        prediction = functional_call(self.net, params, x)
        if not isinstance(prediction, Tensor):
            raise UpstairsError(
                f"{type(self.net).__name__} returned a {type(prediction).__name__} and a learner needs one tensor: "
                "wrap it in a module whose forward returns the one to predict with"
            )
        return prediction if self.way is None else prediction[:, : self.way]  # classes follow the examples, as in torch

    def loss(self, params: Params, examples: Examples) -> Float[Tensor, ""]:
        """Returns the mean loss over the real examples."""
        return mean_loss(self.loss_fn, self.answer(params, examples.x), examples)

    def inner_loss(self, params: Params, support: Examples) -> Float[Tensor, ""]:
        """Returns the loss of the current inner step."""
        return self.loss(params, support if self.batch is None else minibatch(support, self.batch, inner_step()))


def adapting(net: nn.Module, fast: Fast | None = None) -> Params:
    """Returns the parameters that `fast` selects by name; without it those that are not frozen, or all where all are.

    The token embeddings of texts do not adapt, since one task contains few of the tokens.
    """
    check_type("net", net, nn.Module, "a module of torch")
    if any(isinstance(module, torch.jit.ScriptModule) for module in net.modules()):
        raise UpstairsError("`net` is a TorchScript module, whose weights cannot be replaced: give the Python module")
    params = named_parameters_of(net)
    if fast is not None:
        return {name: p for name, p in params.items() if fast(name) and p.is_floating_point()}
    if tokens := {id(p) for module in modules_of(net) if isinstance(module, Tokens) for p in module.parameters()}:
        params = {name: p for name, p in params.items() if id(p) not in tokens} or params
    able = {name: p for name, p in params.items() if p.requires_grad}  # integer tensors never do
    return able or {name: p for name, p in params.items() if p.is_floating_point()}


def trained_names(net: nn.Module) -> set[str]:
    """Returns the names of the parameters that are not frozen, or of all where all are."""
    params = named_parameters_of(net)
    return {name for name, p in params.items() if p.requires_grad} or {*params}


def head_of(net: nn.Module) -> str:
    """Returns the name prefix of the last layer's parameters: `head`, or else the name of the last module."""
    names = [name for name, _ in net.named_parameters()]
    before, dot, _ = names[-1].rpartition(".")
    return "head" if any(name.startswith("head") for name in names) else before + dot


def minibatch(examples: Examples, size: int, step: int) -> Examples:
    """Returns the `size` examples of inner step `step`, in a cyclic order that mixes the classes.

    It is a pure function of the step: there is nothing to seed or to store. Real example i has the sort key frac(i *
    golden ratio) (Knuth's multiplicative hashing), which spreads neighbours, so that consecutive classes mix evenly.
    Successive steps use different examples until all were used. Padding is included only where there are fewer than
    `size` real examples, and stays masked.
    """
    n = len(examples.mask)
    if size >= n:
        return examples
    place = examples.mask.cumsum(0).to(widest(examples.mask)) * 0.6180339887498949 % 1
    order = torch.where(examples.mask, place, 2.0).argsort(-1).argsort(-1)
    wait = (order - step * size) % examples.mask.sum().clamp(min=1)
    chosen = torch.where(examples.mask, wait, n).argsort(-1)[:size]
    return Examples(examples.x[chosen], examples.y[chosen], examples.mask[chosen])


class Options(TypedDict, total=False):
    """The options that every learner below passes on to `GradientLearner`."""

    steps: int
    batch: int | None
    loss_fn: LossFn | None


def maml(
    net: nn.Module, *, way: int | None = None, inner_lr: float = 0.4, **options: Unpack[Options]
) -> GradientLearner:
    """MAML with exact second-order meta-gradients (Finn, Abbeel and Levine 2017, algorithm 1)."""
    return GradientLearner(net, SGD(inner_lr), way=way, **options)


def fomaml(
    net: nn.Module, *, way: int | None = None, inner_lr: float = 0.4, **options: Unpack[Options]
) -> GradientLearner:
    """First-order MAML (Finn, Abbeel and Levine 2017, section 5.2)."""
    return GradientLearner(net, SGD(inner_lr), way=way, differentiate=FirstOrder(), **options)


def anil(
    net: nn.Module, *, way: int | None = None, inner_lr: float = 0.4, head: str | None = None,
    **options: Unpack[Options],
) -> GradientLearner:  # fmt: skip
    """ANIL, almost no inner loop: only the parameters whose names start with `head` adapt (Raghu et al. 2020).

    Args:
        head: None is the last layer: see `head_of`.
    """
    start = head or head_of(net)
    return GradientLearner(net, SGD(inner_lr), way=way, fast=lambda name: name.startswith(start), **options)


def boil(
    net: nn.Module, *, way: int | None = None, inner_lr: float = 0.4, head: str | None = None,
    **options: Unpack[Options],
) -> GradientLearner:  # fmt: skip
    """BOIL, body only in the inner loop: all parameters that are not frozen adapt but those of `head` (Oh et al. 2021).

    Args:
        head: None is the last layer: see `head_of`.
    """
    start, able = head or head_of(net), trained_names(net)
    if not adapting(net, lambda name: name.startswith(start)):
        raise UpstairsError(
            f"BOIL keeps the head as it is and no parameter's name starts with '{start}': give its name"
        )
    body = {name for name in able if not name.startswith(start)}
    return GradientLearner(net, SGD(inner_lr), way=way, fast=body.__contains__, **options)


def meta_sgd(
    net: nn.Module, *, way: int | None = None, inner_lr: float = 0.4, **options: Unpack[Options]
) -> GradientLearner:
    """Meta-SGD: MAML with a learned learning rate for each weight (Li et al. 2017)."""
    return GradientLearner(net, LearnedRates(adapting(net), inner_lr), way=way, **options)


def meta_curvature(
    net: nn.Module, *, way: int | None = None, inner_lr: float = 0.4, **options: Unpack[Options]
) -> GradientLearner:
    """MAML with a learned, Kronecker-factored curvature of the inner gradient (Park and Oliva 2019)."""
    return GradientLearner(net, MetaCurvature(adapting(net), inner_lr), way=way, **options)


def imaml(
    net: nn.Module, *, way: int | None = None, inner_lr: float = 0.1, strength: float = 0.5, iterations: int = 3,
    **options: Unpack[Options],
) -> GradientLearner:  # fmt: skip
    """iMAML: the meta-gradient at the minimum of support loss + strength / 2 |phi - theta|^2 (Rajeswaran et al. 2019).

    The steps must come near the minimum (learning rate below 1 / curvature), and `strength` must be small enough that
    the minimum is far from theta, or else a task is not learned from few examples.
    """
    return GradientLearner(net, SGD(inner_lr), way=way, differentiate=Implicit(strength, iterations), **options)


def scratch(net: nn.Module, *, way: int | None = None, inner_lr: float = 0.2, steps: int = 8) -> GradientLearner:
    """A baseline without meta-learning: `net` is trained on each support set.

    With a random net this is training from scratch, with a pretrained one fine-tuning. The outer loop trains nothing.
    """
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    return GradientLearner(net, SGD(inner_lr), way=way, steps=steps, differentiate=FirstOrder())
