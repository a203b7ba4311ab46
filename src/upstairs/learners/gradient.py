"""Learners whose inner loop descends a gradient: MAML, FOMAML, ANIL.

    phi_0 = theta,  phi_{k+1} = phi_k - rate * grad L_support(phi_k),  meta-gradient = d L_query(phi_K) / d theta

The exact meta-gradient differentiates through every step (second order); the first-order one takes each inner gradient
for a constant.
"""

import copy
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from upstairs.core import Examples, Learner, LossFn, cross_entropy
from upstairs.errors import UpstairsError
from upstairs.inner import EXACT, Differentiation, FirstOrder, call_with
from upstairs.learners.rules import SGD, Params, UpdateRule
from upstairs.minimise import minimise
from upstairs.nets.norm import is_transductive


class GradientLearner(Learner[Params]):
    """Start from the meta-learned `net`, descend on the support set; the state is the adapted ("fast") weights.

    Args:
        net: any module; for classification its outputs are logits, as many as the largest way.
        rule: the inner optimiser.
        steps: inner steps.
        differentiate: `Exact()`, `FirstOrder()` or `Implicit()`: how the meta-gradient passes the inner loop.
        fast: which parameters, by name, adapt; the others are shared by all tasks. None: those that are not frozen
            (all, where all are).
        way: classes that `predict` answers; 0 for regression.
    """

    def __init__(
        self,
        net: nn.Module,
        rule: UpdateRule,
        *,
        way: int,
        steps: int = 5,
        differentiate: Differentiation = EXACT,
        fast: Callable[[str], bool] | None = None,
        loss_fn: LossFn = cross_entropy,
    ) -> None:
        super().__init__()
        self.net, self.rule = net, rule
        self.steps, self.differentiate, self.fast, self.loss_fn = steps, differentiate, fast, loss_fn
        self.way, self.outputs = way, way
        if not self.adapting():
            names = ", ".join(name for name, _ in net.named_parameters())
            raise UpstairsError(f"no parameter of the network would adapt: `fast` chose none of {names}")

    def adapting(self) -> Params:
        """The parameters that adapt, by name."""
        params: Params = {name: p for name, p in self.net.named_parameters() if p.is_floating_point()}
        if self.fast is not None:
            return {name: p for name, p in params.items() if self.fast(name)}
        trained: Params = {name: p for name, p in params.items() if p.requires_grad}
        return trained or params

    @property
    def transductive(self) -> bool:
        return is_transductive(self.net)

    @property
    def second_order(self) -> bool:
        return self.steps > 0 and not isinstance(self.differentiate, FirstOrder)

    @property
    def max_way(self) -> int | None:
        return self.outputs or None

    def start(self, support: Examples) -> Params:
        """Where the inner loop starts."""
        return self.adapting()

    def adapt(self, support: Examples, /) -> Params:
        start = self.start(support)
        return minimise(self.loss, start, support, rule=self.rule, steps=self.steps, differentiate=self.differentiate)

    def predict(self, params: Params, x: Tensor, /) -> Tensor:
        prediction = call_with(self.net, params, x)
        if not isinstance(prediction, Tensor):
            raise UpstairsError(
                f"{type(self.net).__name__} returned a {type(prediction).__name__} and a learner needs one tensor: "
                "wrap it in a module whose forward returns the one to predict with"
            )
        return prediction[..., : self.way] if self.way else prediction

    def loss(self, params: Params, examples: Examples) -> Float[Tensor, ""]:
        """The inner loss: the mean over the real examples."""
        return examples.mean(self.loss_fn(self.predict(params, examples.x), examples.y))


def maml(net: nn.Module, *, way: int, rate: float = 0.4, steps: int = 5) -> GradientLearner:
    """MAML with exact second-order meta-gradients (Finn, Abbeel and Levine 2017, algorithm 1)."""
    return GradientLearner(net, SGD(rate), way=way, steps=steps)


def fomaml(net: nn.Module, *, way: int, rate: float = 0.4, steps: int = 5) -> GradientLearner:
    """First-order MAML (Finn, Abbeel and Levine 2017, section 5.2)."""
    return GradientLearner(net, SGD(rate), way=way, steps=steps, differentiate=FirstOrder())


def anil(net: nn.Module, *, way: int, rate: float = 0.4, steps: int = 5, head: str = "head") -> GradientLearner:
    """Almost no inner loop: only the parameters whose names start with `head` adapt (Raghu et al. 2020)."""
    return GradientLearner(net, SGD(rate), way=way, steps=steps, fast=lambda name: name.startswith(head))


def with_steps(learner: GradientLearner, steps: int) -> GradientLearner:
    """The same meta-parameters with another number of inner steps."""
    other = copy.copy(learner)
    other.steps = steps
    return other


def scratch(net: nn.Module, *, way: int, rate: float = 0.2, steps: int = 8) -> GradientLearner:
    """The opponent: `net` as it is trained on each support set; never meta-trained.

    A random net is training from scratch, a pretrained one fine-tuning. Its parameters are frozen for the outer loop.
    """
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    return GradientLearner(net, SGD(rate), way=way, steps=steps, differentiate=FirstOrder())
