"""The problem of two levels: an inner loop that learns parameters, and a loss of them that meta-parameters make small.

    phi_0 = start(lambda),  phi_{k+1} = step(phi_k, grad_phi inner(phi_k, lambda, batch_k)),
    J(lambda) = outer(phi_K, lambda)

All are plain functions. What an estimator finds is the hypergradient dJ / dlambda.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from upstairs.errors import UpstairsError
from upstairs.functional.call import Params
from upstairs.functional.differentiate import gradient, vjp
from upstairs.functional.inner_loop import take_step
from upstairs.functional.rules import UpdateRule

BilevelLoss = Callable[[Params, Params, Any], Tensor]  # (parameters, meta_parameters, batch) -> one number


def no_batch(step: int) -> None:
    """For losses that hold their data themselves."""
    return


@dataclass(frozen=True, eq=False)
class Problem:
    """An inner loop of `steps`, and the loss that judges where it ends.

    Args:
        inner: what a step descends.
        outer: what the meta-parameters make small: a loss on data that the inner loop does not see.
        start: the parameters that the loop starts from, or a function of the meta-parameters that gives them.
        rule: the inner optimiser, or a function of the meta-parameters that gives it (learned rates, decays).
        steps: inner steps before each hypergradient.
        inner_batch: the batch of inner step k, a function of k, so that a step can be computed again.
        outer_batch: the batch for the outer loss after k inner steps.
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
    """Where an inner loop stands: hand it to the next `hypergradient` and the loop goes on."""

    parameters: Params
    state: Any  # of the rule
    step: int  # inner steps so far
    particles: Any = None  # of PersistentES


class Hypergradient(NamedTuple):
    """What a method found."""

    gradients: Params  # by the names of the meta-parameters
    outer: Tensor  # the outer loss after the inner loop
    carry: Carry  # without history


@runtime_checkable
class Method(Protocol):
    """How the hypergradient is computed."""

    def __call__(self, problem: Problem, meta: Params, carry: Carry | None) -> Hypergradient: ...


def first_carry(problem: Problem, meta: Params) -> Carry:
    """The carry before the first step."""
    start = problem.start(meta) if callable(problem.start) else problem.start
    if not start:
        raise UpstairsError("the inner loop starts from no parameters at all: give `start` at least one tensor")
    params = {n: p if callable(problem.start) else p.detach() for n, p in start.items()}
    return Carry(params, rule_of(problem, meta).init(params), 0)


def rule_of(problem: Problem, meta: Params) -> UpdateRule:
    """The inner rule under these meta-parameters."""
    rule = problem.rule
    return rule if isinstance(rule, UpdateRule) else rule(meta)


def inner_gradient(problem: Problem, params: Params, meta: Params, step: int, *, create_graph: bool) -> Params:
    """The gradient of the inner loss on the batch of that step."""
    batch = problem.inner_batch(step)
    return gradient(lambda p: problem.inner(p, meta, batch), params, create_graph=create_graph)


def advance(problem: Problem, meta: Params, carry: Carry, *, create_graph: bool) -> Carry:
    """One inner step."""
    batch = problem.inner_batch(carry.step)
    params, state = take_step(
        rule_of(problem, meta), lambda p: problem.inner(p, meta, batch), carry.parameters, carry.state,
        create_graph=create_graph,
    )  # fmt: skip
    return Carry(params, state, carry.step + 1)


@torch.no_grad()
def walk(problem: Problem, meta: Params, carry: Carry | None, steps: int) -> Carry:
    """The carry after some inner steps, without history."""
    meta = {n: p.detach() for n, p in meta.items()}
    carry = first_carry(problem, meta) if carry is None else carry
    for _ in range(steps):
        carry = advance(problem, meta, carry, create_graph=False)
    return carry


def outer_loss(problem: Problem, params: Params, meta: Params, step: int) -> Tensor:
    """The outer loss after that many inner steps."""
    value = problem.outer(params, meta, problem.outer_batch(step))
    if not isinstance(value, Tensor) or value.ndim:
        raise UpstairsError(f"an outer loss must be one number, and this one is {value!r}")
    return value


def outer_gradients(problem: Problem, params: Params, meta: Params, step: int) -> tuple[Tensor, Params, Params]:
    """The outer loss with its gradients in parameters and in meta-parameters, the parameters as constants."""
    with torch.enable_grad():
        phi = {n: p.detach().requires_grad_() for n, p in params.items()}
        value = outer_loss(problem, phi, meta, step)
        v, direct = vjp([value], [list(phi.values()), list(meta.values())], [torch.ones_like(value)])
    return value.detach(), dict(zip(phi, v, strict=True)), dict(zip(meta, direct, strict=True))
