"""The bilevel problem: an inner loop that trains parameters, and an outer loss that the meta-parameters minimise.

    phi_0 = start(lambda),  phi_{k+1} = step(phi_k, grad_phi inner(phi_k, lambda, batch_k)),
    J(lambda) = outer(phi_K, lambda)

All are plain functions. The hypergradient is dJ / dlambda.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from upstairs.errors import UpstairsError
from upstairs.functional.call import Params
from upstairs.functional.differentiate import gradient, vjp
from upstairs.functional.inner_loop import apply_rule
from upstairs.functional.rules import UpdateRule, check_rule

BilevelLoss = Callable[[Params, Params, Any], Tensor]  # (parameters, meta_parameters, batch) -> one number


def no_batch(step: int) -> None:
    """Returns None: for losses that hold their data themselves."""
    return


@dataclass(frozen=True, eq=False)
class Problem:
    """An inner loop of `steps`, and the outer loss after it.

    Args:
        inner: the loss that the inner loop minimises.
        outer: the loss that the meta-parameters minimise, on data that the inner loop does not see.
        start: the initial parameters, or a function from the meta-parameters to them.
        rule: the inner optimiser, or a function from the meta-parameters to it (learned learning rates, decays).
        steps: the number of inner steps before each hypergradient.
        inner_batch: a function from k to the batch of inner step k, so that a step can be recomputed.
        outer_batch: a function from k to the batch of the outer loss after k inner steps.
    """

    inner: BilevelLoss
    outer: BilevelLoss
    start: Params | Callable[[Params], Params]
    rule: UpdateRule | Callable[[Params], UpdateRule]
    steps: int
    inner_batch: Callable[[int], Any] = no_batch
    outer_batch: Callable[[int], Any] = no_batch

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UpstairsError(f"an inner loop has {self.steps} steps: give steps=1 or more")


class Carry(NamedTuple):
    """The state of an inner loop, from which the next `hypergradient` can continue."""

    parameters: Params
    state: Any  # of the rule
    step: int  # inner steps so far
    particles: Any = None  # of PersistentES


class Hypergradient(NamedTuple):
    """The result of a method."""

    gradients: Params  # by the names of the meta-parameters
    outer: Tensor  # the outer loss after the inner loop
    carry: Carry  # detached


@runtime_checkable
class Method(Protocol):
    """A method that computes the hypergradient."""

    def __call__(self, problem: Problem, meta: Params, carry: Carry | None) -> Hypergradient: ...


def first_carry(problem: Problem, meta: Params) -> Carry:
    """Returns the carry before the first step."""
    start = problem.start(meta) if callable(problem.start) else problem.start
    if not start:
        raise UpstairsError("the inner loop starts from no parameters at all: give `start` at least one tensor")
    params = {n: p if callable(problem.start) else p.detach() for n, p in start.items()}
    return Carry(params, rule_of(problem, meta).init(params), 0)


def rule_of(problem: Problem, meta: Params) -> UpdateRule:
    """Returns the inner rule for these meta-parameters."""
    rule = problem.rule
    if not isinstance(rule, UpdateRule) and callable(rule):
        rule = rule(meta)
    check_rule(rule)
    return rule


def inner_gradient(problem: Problem, params: Params, meta: Params, step: int, *, create_graph: bool) -> Params:
    """Computes the gradient of the inner loss on the batch of a step."""
    batch = problem.inner_batch(step)
    return gradient(lambda p: problem.inner(p, meta, batch), params, create_graph=create_graph)


def advance(problem: Problem, meta: Params, carry: Carry, *, create_graph: bool) -> Carry:
    """Takes one inner step."""
    batch = problem.inner_batch(carry.step)
    params, state = apply_rule(
        rule_of(problem, meta), lambda p: problem.inner(p, meta, batch), carry.parameters, carry.state,
        create_graph=create_graph,
    )  # fmt: skip
    return Carry(params, state, carry.step + 1)


@torch.no_grad()
def walk(problem: Problem, meta: Params, carry: Carry | None, steps: int) -> Carry:
    """Returns the carry after a number of inner steps, without a graph."""
    meta = {n: p.detach() for n, p in meta.items()}
    carry = first_carry(problem, meta) if carry is None else carry
    for _ in range(steps):
        carry = advance(problem, meta, carry, create_graph=False)
    return carry


def outer_loss(problem: Problem, params: Params, meta: Params, step: int) -> Tensor:
    """Computes the outer loss after `step` inner steps."""
    value = problem.outer(params, meta, problem.outer_batch(step))
    if not isinstance(value, Tensor) or value.ndim:
        raise UpstairsError(f"an outer loss must be one number, and this one is {value!r}")
    return value


def outer_gradients(problem: Problem, params: Params, meta: Params, step: int) -> tuple[Tensor, Params, Params]:
    """Returns the outer loss and its partial gradients in the parameters and in the meta-parameters."""
    with torch.enable_grad():
        phi = {n: p.detach().requires_grad_() for n, p in params.items()}
        value = outer_loss(problem, phi, meta, step)
        v, direct = vjp([value], [list(phi.values()), list(meta.values())], [torch.ones_like(value)])
    return value.detach(), dict(zip(phi, v, strict=True)), dict(zip(meta, direct, strict=True))
