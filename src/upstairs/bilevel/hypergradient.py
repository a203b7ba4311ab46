"""`hypergradient`: the hypergradient of a problem, by any method."""

import re
from collections.abc import Mapping
from weakref import WeakSet

import torch
from torch import Tensor

from upstairs.bilevel.evolution import EvolutionStrategies, PersistentES
from upstairs.bilevel.first_order import FiniteDifference, FirstOrderHypergradient
from upstairs.bilevel.implicit import ConjugateGradients, ImplicitHypergradient, Neumann, Nystrom
from upstairs.bilevel.problem import Carry, Hypergradient, Method, Problem, first_carry, inner_gradient
from upstairs.bilevel.through import Forward, OneStep, Recomputed, Truncated, Unrolled
from upstairs.errors import NonFiniteError, UpstairsError
from upstairs.functional.call import Params
from upstairs.functional.derivatives import check_differentiable, twice

# Every method with default settings.
METHODS: dict[str, Method] = {
    "unrolled": Unrolled(),
    "recomputed": Recomputed(),
    "forward": Forward(),
    "truncated": Truncated(5),
    "implicit_cg": ImplicitHypergradient(ConjugateGradients()),
    "implicit_neumann": ImplicitHypergradient(Neumann()),
    "implicit_nystrom": ImplicitHypergradient(Nystrom()),
    "one_step": OneStep(),
    "finite_difference": FiniteDifference(),
    "first_order": FirstOrderHypergradient(),
    "es": EvolutionStrategies(),
    "pes": PersistentES(),
}
# the methods that take no second derivative
ONE_GRADIENT = (FiniteDifference, FirstOrderHypergradient, EvolutionStrategies, PersistentES)
_CHECKED: WeakSet[Problem] = WeakSet()


def hypergradient(
    problem: Problem, meta_parameters: Mapping[str, Tensor], *, method: Method, carry: Carry | None = None
) -> Hypergradient:
    """Computes the gradient of the outer loss after the inner loop, in the meta-parameters.

    Args:
        meta_parameters: floating tensors by name, such as `dict(module.named_parameters())`; they are only read.
        method: `Unrolled()`, `ImplicitHypergradient()`, ...: see `METHODS`; docstrings state the cost.
        carry: the carry of an earlier call, from which the inner loop continues. None: it starts anew.

    Raises:
        UpstairsError: an invalid meta-parameter or loss, or an operation without a second derivative.
        NonFiniteError: the outer loss or the hypergradient is NaN or infinite.
    """
    for name, p in meta_parameters.items():
        if not isinstance(p, Tensor) or not p.is_floating_point():
            kind = f"a tensor of {p.dtype}" if isinstance(p, Tensor) else f"a {type(p).__name__}"
            raise UpstairsError(f"meta-parameter '{name}' is {kind}: a hypergradient needs floating tensors")
    if not meta_parameters:
        raise UpstairsError("there are no meta-parameters: give a dict of tensors by name")
    meta = {n: p.detach().requires_grad_() for n, p in meta_parameters.items()}
    try:
        if not isinstance(method, ONE_GRADIENT) and problem not in _CHECKED:
            _check_differentiable(problem, meta)
            _CHECKED.add(problem)
        found = method(problem, meta, carry)
    except RuntimeError as error:
        advice = twice(str(error))
        if advice is None:
            _refuse_backward_only(error, method)
            raise
        way = advice.replace("this learner", "this method")
        way = way.replace("differentiate=FirstOrder()", "method=FirstOrderHypergradient()")
        raise UpstairsError(way) from error
    _refuse_non_finite(found, type(method).__name__)
    return found


def _check_differentiable(problem: Problem, meta: Params) -> None:
    """Refuses an inner step whose graph has a node without a second derivative, which would be silently wrong."""
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        params = {n: p.detach().requires_grad_() for n, p in first_carry(problem, meta).parameters.items()}
        grads = inner_gradient(problem, params, meta, 0, create_graph=True)
        live = [g.sum() for g in grads.values() if g.requires_grad]
        if live:
            check_differentiable(torch.stack(live).sum())


def _refuse_backward_only(error: RuntimeError, method: Method) -> None:
    """Raises UpstairsError for an operation without forward mode."""
    text = str(error)
    found = re.search(r"forward AD with (\w+) that does not support it|we do not yet support (?:aten::)?(\w+)", text)
    if isinstance(method, Forward) and found is not None:
        raise UpstairsError(
            f"'{found[1] or found[2]}' has no forward mode over several directions at once in torch: take "
            "method=Recomputed(), which is exact too, or another operation"
        ) from error


def _refuse_non_finite(found: Hypergradient, method: str) -> None:
    after = f"after {found.carry.step} inner steps"
    if not bool(found.outer.isfinite()):
        bad = next((n for n, p in found.carry.parameters.items() if not bool(p.isfinite().all())), None)
        where = f" and so is the parameter '{bad}'" if bad else ", though the parameters are finite"
        raise NonFiniteError(
            f"the outer loss is {found.outer.item()} {after}{where}: lower the inner learning rate, or look at the "
            "losses' logs, roots and divisions",
            index=0,
        )
    for name, g in found.gradients.items():
        if not bool(g.isfinite().all()):
            raise NonFiniteError(
                f"the hypergradient of '{name}' by {method} is not finite {after}, the outer loss being "
                f"{found.outer.item():.4g}: a long loop may explode on the way back: take Truncated(...), fewer steps "
                "or a lower inner learning rate, and look for roots and norms of zero in the losses",
                index=0,
            )
