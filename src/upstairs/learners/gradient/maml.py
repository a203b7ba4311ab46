"""Learners whose inner loop descends a gradient: MAML, FOMAML, ANIL, BOIL, Meta-SGD, Meta-Curvature, iMAML.

    phi_0 = theta,  phi_{k+1} = phi_k - rate * grad L_support(phi_k),  meta-gradient = d L_query(phi_K) / d theta

One class; the published names are what they choose: which parameters adapt, by which rule, and how the meta-gradient
passes the inner loop.
"""

import copy
from collections.abc import Callable
from typing import Any, TypedDict, Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from upstairs.core import Examples, Learner, LossFn, cross_entropy, mean_loss, squared_error
from upstairs.errors import UpstairsError
from upstairs.functional.call import functional_call
from upstairs.functional.differentiate import EXACT, Differentiation, FirstOrder, Implicit, at_step, inner_step
from upstairs.functional.inner_loop import inner_loop
from upstairs.functional.rules import SGD, LearnedRates, MetaCurvature, Params, UpdateRule
from upstairs.nets.norm import is_transductive
from upstairs.nets.text import Tokens
from upstairs.tree import modules_of, named_parameters_of

Fast = Callable[[str], bool]  # does the parameter of this name adapt?


class GradientLearner(Learner[Params]):
    """Start from the meta-learned `net`, descend on the support set; the state is the adapted ("fast") weights.

    Args:
        net: any module; for classification its outputs are logits, as many as the largest way.
        rule: the inner optimiser.
        steps: inner steps.
        differentiate: `Exact()`, `FirstOrder()` or `Implicit()`: how the meta-gradient passes the inner loop.
        fast: which parameters, by name, adapt; the others are shared by all tasks. None: those that are not frozen
            (all, where all are).
        batch: support examples in an inner step, as `minibatch` takes them; None: all of them.
        way: classes that `predict` answers; None for regression.
        loss_fn: None is cross-entropy, and for regression the squared error.
    """

    def __init__(
        self, net: nn.Module, rule: UpdateRule, *, way: int | None = None, steps: int = 5,
        differentiate: Differentiation = EXACT, fast: Fast | None = None, batch: int | None = None,
        loss_fn: LossFn | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.net, self.rule = net, rule
        self.steps, self.differentiate, self.fast = steps, differentiate, fast
        self.loss_fn = loss_fn or (squared_error if way is None else cross_entropy)
        self.batch, self.way = batch, way
        self.outputs: int | None = way
        check_adapting(self)

    def adapting(self) -> Params:
        """The parameters that adapt, by name."""
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
        """Where the inner loop starts."""
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
        """The network's output with these parameters, at whichever inner step."""
        prediction = one_tensor(self.net, functional_call(self.net, params, x))
        return prediction if self.way is None else prediction[..., : self.way]

    def loss(self, params: Params, examples: Examples) -> Float[Tensor, ""]:
        """The mean over the real examples."""
        return mean_loss(self.loss_fn, self.answer(params, examples.x), examples)

    def inner_loss(self, params: Params, support: Examples) -> Float[Tensor, ""]:
        """What an inner step descends."""
        return self.loss(params, support if self.batch is None else minibatch(support, self.batch, inner_step()))


def check_adapting(learner: GradientLearner) -> None:
    """Raise UpstairsError where nothing would adapt, or where minibatches cannot be."""
    if not learner.adapting():
        names = ", ".join(name for name, _ in learner.net.named_parameters())
        raise UpstairsError(f"no parameter of the network would adapt: `fast` chose none of {names}")
    if learner.batch is not None and (learner.batch < 1 or isinstance(learner.differentiate, Implicit)):
        raise UpstairsError(
            f"batch is {learner.batch}: it takes 1 or more, and None for iMAML, whose loop has one minimum to find"
        )


def one_tensor(net: nn.Module, output: Any) -> Tensor:
    """The output, where it is one."""
    if isinstance(output, Tensor):
        return output
    raise UpstairsError(
        f"{type(net).__name__} returned a {type(output).__name__} and a learner needs one tensor: "
        "wrap it in a module whose forward returns the one to predict with"
    )


def adapting(net: nn.Module, fast: Fast | None = None) -> Params:
    """The parameters that `fast` chooses by name; without it those that are not frozen, and all where all are.

    The vectors of a text's tokens are shared by all tasks, since one task has few of them.
    """
    params = named_parameters_of(net)
    if fast is not None:
        return {name: p for name, p in params.items() if fast(name) and p.is_floating_point()}
    if tokens := {id(p) for module in modules_of(net) if isinstance(module, Tokens) for p in module.parameters()}:
        params = {name: p for name, p in params.items() if id(p) not in tokens} or params
    able = {name: p for name, p in params.items() if p.requires_grad}  # whole numbers never do
    return able or {name: p for name, p in params.items() if p.is_floating_point()}


def head_of(net: nn.Module) -> str:
    """How the names of the last layer's parameters start: with `head`, or else with the name of the last module."""
    names = [name for name, _ in net.named_parameters()]
    before, dot, _ = names[-1].rpartition(".")
    return "head" if any(name.startswith("head") for name in names) else before + dot


def minibatch(examples: Examples, size: int, step: int) -> Examples:
    """The `size` examples that step number `step` meets on a walk round the set, in an order that scatters neighbours.

    It is a pure function of the step: nothing to seed, and nothing to store for resuming. Example i of those that are
    real stands at the fractional part of i times the golden ratio (Knuth's multiplicative hashing), so classes that
    follow each other are mixed evenly; which example is where, a task's own seed has drawn. Every step has other
    examples until all were met; padding is met only where there are fewer than `size`, and stays masked.
    """
    n = len(examples.mask)
    if size >= n:
        return examples
    place = examples.mask.cumsum(0).double() * 0.6180339887498949 % 1
    order = torch.where(examples.mask, place, 2.0).argsort(-1).argsort(-1)
    wait = (order - step * size) % examples.mask.sum().clamp(min=1)
    chosen = torch.where(examples.mask, wait, n).argsort(-1)[:size]
    return Examples(examples.x[chosen], examples.y[chosen], examples.mask[chosen])


class Options(TypedDict, total=False):
    """What every learner below passes on to `GradientLearner`."""

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
    """Almost no inner loop: only the parameters whose names start with `head` adapt (Raghu et al. 2020).

    Args:
        head: None is the last layer: see `head_of`.
    """
    start = head or head_of(net)
    return GradientLearner(net, SGD(inner_lr), way=way, fast=lambda name: name.startswith(start), **options)


def boil(
    net: nn.Module, *, way: int | None = None, inner_lr: float = 0.4, head: str | None = None,
    **options: Unpack[Options],
) -> GradientLearner:  # fmt: skip
    """Body only in the inner loop: all adapt but the parameters whose names start with `head` (Oh et al. 2021).

    Args:
        head: None is the last layer: see `head_of`.
    """
    start = head or head_of(net)
    if not adapting(net, lambda name: name.startswith(start)):
        raise UpstairsError(
            f"BOIL keeps the head as it is and no parameter's name starts with '{start}': give its name"
        )
    return GradientLearner(net, SGD(inner_lr), way=way, fast=lambda name: not name.startswith(start), **options)


def meta_sgd(
    net: nn.Module, *, way: int | None = None, inner_lr: float = 0.4, **options: Unpack[Options]
) -> GradientLearner:
    """Meta-SGD: MAML with a learned rate for each weight (Li et al. 2017)."""
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

    Steps, rate and strength go together: the steps must come near the minimum (rate below 1 / curvature), and a weak
    pull lets them go far, without which a task is not learned from so few examples.
    """
    return GradientLearner(net, SGD(inner_lr), way=way, differentiate=Implicit(strength, iterations), **options)


def scratch(net: nn.Module, *, way: int | None = None, inner_lr: float = 0.2, steps: int = 8) -> GradientLearner:
    """A baseline without meta-learning: `net` as it is trained on each support set.

    A random net is training from scratch, a pretrained one fine-tuning. Its parameters are frozen for the outer loop.
    """
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    return GradientLearner(net, SGD(inner_lr), way=way, steps=steps, differentiate=FirstOrder())
