"""`inner_loop`: an inner loop written for one task, which runs on all; unrolled, recomputed, or implicit."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from upstairs.errors import UpstairsError, check_type
from upstairs.functional.batching.tensor import BatchedTensor, wrap
from upstairs.functional.call import Params, cache_frozen_modules, random_states, same_chance
from upstairs.functional.derivatives import graph_nodes
from upstairs.functional.differentiate import (
    EXACT,
    NOW,
    Differentiation,
    Exact,
    Implicit,
    Loss,
    add,
    at_step,
    descend,
    gradient,
    inside_transform,
    per_task,
    raw_of,
    vjp,
)
from upstairs.functional.implicit import conjugate_gradients, solve_curvature
from upstairs.functional.rules import SGD, UpdateRule, check_rule
from upstairs.tree import detach

CarryStep = Callable[..., Any]  # (number, carry, create_graph=) -> carry


def inner_loop(
    loss: Loss, start: Params, *args: Any, rule: UpdateRule, steps: int, differentiate: Differentiation = EXACT,
    recompute: bool = False, first: int = 0,
) -> Params:  # fmt: skip
    """Takes `steps` of `rule` on the scalar `loss(params, *args)`, and returns the parameters after them.

        def loss(params, x, y):
            return F.mse_loss(torch.func.functional_call(net, params, x), y)

        start = dict(net.named_parameters())
        params = inner_loop(loss, start, x, y, rule=SGD(0.1), steps=5)
        loss(params, *query).backward()  # through all five steps, into the gradients of `net`

    It changes neither `net` nor `start`. Gradients flow to `start`, to learned numbers of the rule (`SGD(lr)` with a
    tensor `lr` that requires a gradient), and to every tensor that the loss reads. Other derivatives, and long loops:

        inner_loop(..., differentiate=FirstOrder())            # inner gradients are constants
        inner_loop(..., differentiate=Implicit(strength=1.0))  # at the minimum of loss + strength / 2 |phi - start|^2
        inner_loop(..., steps=500, recompute=True)             # the memory of one step, and the parameters of each

    Args:
        loss: a function that returns one number for a task.
        start: parameters by name.
        args: further arguments of the loss, such as the support set.
        recompute: recompute each step in the backward pass of an exact derivative: about a third more time.
        first: the number of the first step, for a loop that runs in pieces (each starts with the rule's `init`).

    Raises:
        UpstairsError: an invalid argument, or a loss that is not one number.
    """
    how = NOW.differentiate or differentiate
    if not isinstance(start, Mapping) or not start:
        raise UpstairsError(
            f"`start` is {f'a {type(start).__name__}' if start else 'empty'} and an inner loop needs parameters by "
            "name: give a dict of tensors, such as dict(net.named_parameters())"
        )
    check_type("differentiate", how, Differentiation, "Exact(), FirstOrder() or Implicit()")
    if wrong := next((n for n, p in start.items() if not isinstance(p, Tensor)), None):
        raise UpstairsError(f"`start` has a {type(start[wrong]).__name__} as '{wrong}': give a tensor")
    if type(rule) is not SGD:
        check_rule(rule)
    if steps < 0:
        raise UpstairsError(f"`steps` is {steps}: give 0 or more")
    params = per_task(start, args)
    grad_on = torch.is_grad_enabled()
    exact = isinstance(how, Exact) and grad_on
    if isinstance(how, Implicit):
        loss = _proximal(loss, detach(params), how.strength)

    def step(number: int, carry: Any, *, create_graph: bool) -> Any:
        with at_step(first + number):
            return apply_rule(rule, loss, *carry, *args, create_graph=create_graph)

    carry = (params, rule.init(params))
    again = exact and (recompute or NOW.recompute) and first + steps > 1
    if grad_on and not inside_transform() and (isinstance(how, Implicit) or again):
        with cache_frozen_modules(graph=True, off=True):  # each step has its own graph
            if isinstance(how, Implicit):
                return _implicitly(step, carry, steps, loss=loss, args=args, how=how)
            return checkpointed(step, carry, steps)[0]
    if isinstance(how, Implicit) and grad_on:
        raise UpstairsError("implicit differentiation does not run under a torch.func transform: use autograd")
    with cache_frozen_modules(graph=exact, off=inside_transform()):
        for number in range(steps):
            carry = step(number, carry, create_graph=exact)
    return carry[0]


def apply_rule(
    rule: UpdateRule, loss: Loss, params: Params, state: Any, *args: Any, create_graph: bool
) -> tuple[Params, Any]:
    """Takes one step of the rule on `loss(params, *args)`; returns the parameters and the rule's state after it."""
    if type(rule) is SGD and (lr := rule.plain_lr) is not None:
        return descend(loss, params, *args, lr=lr, create_graph=create_graph), state
    grads = gradient(loss, params, *args, create_graph=create_graph)
    updates, state = rule.update(grads, state, params)
    return add(params, updates), state


def _proximal(loss: Loss, start: Params, strength: float) -> Loss:
    def penalised(params: Params, *args: Any) -> Tensor:
        distance = sum((p - start[n]).square().sum() for n, p in params.items())
        return loss(params, *args) + 0.5 * strength * distance

    return penalised


class _Backward(torch.autograd.Function):
    """Known values with a given backward function."""

    @staticmethod
    def forward(ctx: Any, pull: Callable[..., Any], values: list[Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.pull = pull
        ctx.set_materialize_grads(True)
        return tuple(values)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("a recomputed inner loop has no second meta-gradient: use recompute=False")
        return None, None, *ctx.pull(grads)


def checkpointed(step: CarryStep, carry: Any, steps: int, *, shared: list[Tensor] | None = None) -> Any:
    """Returns the last carry, as if unrolled; only the parameters and the rule's state before each step are kept.

    The backward pass recomputes each step and takes its vector-Jacobian product alone.

    Args:
        shared: other leaves with a gradient that steps depend on; None: those of the first step.
    """
    leaves, structure = tree_flatten(carry)
    shared = _shared(step, carry) if shared is None else shared
    batched = [isinstance(leaf, BatchedTensor) for leaf in leaves]
    inputs = [raw_of(leaf) for leaf in leaves]

    def run(number: int, raws: list[Tensor], *, create_graph: bool) -> list[Tensor]:
        parts = [wrap(r) if s else r for r, s in zip(raws, batched, strict=True)]
        after = step(number, tree_unflatten(parts, structure), create_graph=create_graph)
        return [raw_of(leaf) for leaf in tree_flatten(after)[0]]

    path, dice, device = [[r.detach() for r in inputs]], [], inputs[0].device
    with torch.no_grad():
        for number in range(steps):
            dice.append(random_states(device))
            path.append([r.detach() for r in run(number, path[-1], create_graph=False)])

    def pull(cotangents: tuple[Tensor, ...]) -> list[Tensor]:
        lams, totals = list(cotangents), [torch.zeros_like(p) for p in shared]
        for number in reversed(range(steps)):
            before = [r.detach().requires_grad_(r.is_floating_point()) for r in path[number]]
            with torch.enable_grad(), same_chance(dice[number], device):
                after = run(number, before, create_graph=True)
            own, rest = vjp(after, [[b for b in before if b.requires_grad], shared], lams)
            found = iter(own)
            lams = [next(found) if b.requires_grad else torch.zeros_like(b) for b in before]
            totals = [t + g for t, g in zip(totals, rest, strict=True)]
            del after, own, rest, found, path[number]
        return [*lams, *totals]

    out = _Backward.apply(pull, path.pop(), *inputs, *shared)
    parts = [wrap(r) if s else r for r, s in zip(out, batched, strict=True)]
    return tree_unflatten(parts, structure)


def _shared(step: CarryStep, carry: Any) -> list[Tensor]:
    """Returns the leaves in the graph of the first step, except its carry: shared layers, a learned learning rate."""
    leaves, structure = tree_flatten(carry)
    own = [raw_of(leaf).detach().requires_grad_(leaf.is_floating_point()) for leaf in leaves]
    parts = [wrap(r) if isinstance(leaf, BatchedTensor) else r for r, leaf in zip(own, leaves, strict=True)]
    with torch.random.fork_rng(devices=[]):
        after = step(0, tree_unflatten(parts, structure), create_graph=True)
    mine = {id(t) for t in own}
    leaves = [n.variable for n in graph_nodes([raw_of(t) for t in tree_flatten(after)[0]]) if hasattr(n, "variable")]
    return [leaf for leaf in leaves if id(leaf) not in mine]


def _implicitly(step: CarryStep, carry: Any, steps: int, *, loss: Loss, args: Any, how: Implicit) -> Params:
    """Returns the last parameters, differentiated as the minimum of the penalised `loss` (Rajeswaran 2019, equation 6).

    At the minimum, grad L(phi, psi) + strength (phi - theta) = 0. With (H + strength I) v = g by conjugate gradients,
    the gradient in theta is strength v, and in shared tensors psi it is -(d grad L / d psi) v.
    """
    start = carry[0]
    shared = _shared(step, carry)
    with torch.no_grad():
        for number in range(steps):
            carry = step(number, carry, create_graph=False)
    batched = {n: isinstance(p, BatchedTensor) for n, p in start.items()}
    last = [raw_of(carry[0][n]).detach() for n in start]

    def as_params(raws: Any) -> Params:
        return {n: wrap(t) if b else t for (n, b), t in zip(batched.items(), raws, strict=True)}

    solver = partial(
        conjugate_gradients, iterations=how.iterations, strength=how.strength, per_task=all(batched.values())
    )

    def pull(cotangents: tuple[Tensor, ...]) -> list[Tensor]:
        with torch.enable_grad():
            phi = [t.detach().requires_grad_() for t in last]
            grads = [raw_of(g) for g in gradient(loss, as_params(phi), *args, create_graph=True).values()]
            # the graph's own leaves: `gradient` keeps tensors that require a gradient
        v, mixed = solve_curvature(grads, phi, shared, list(cotangents), solver)
        return [*(how.strength * t for t in v), *(-g for g in mixed)]

    return as_params(_Backward.apply(pull, last, *(raw_of(p) for p in start.values()), *shared))
