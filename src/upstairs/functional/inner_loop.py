"""`inner_loop`: an inner loop for one task, that runs for all; unrolled, computed again step by step, or implicit."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from upstairs.errors import UpstairsError
from upstairs.functional.batching.tensor import BatchedTensor, wrap
from upstairs.functional.call import cache_frozen_modules, random_states, same_chance
from upstairs.functional.differentiate import (
    EXACT,
    NOW,
    SGD,
    Differentiation,
    Exact,
    Implicit,
    Loss,
    Params,
    UpdateRule,
    add,
    at_step,
    descend,
    detached,
    gradient,
    per_task,
    raw_of,
    transformed,
)

Step = Callable[..., Any]  # (number, carry, create_graph=) -> carry
LEAST_BEND = 0.5  # of the penalty's own: at a minimum none is below 1


def inner_loop(
    loss: Loss, start: Params, *args: Any, rule: UpdateRule, steps: int, differentiate: Differentiation = EXACT,
    first: int = 0,
) -> Params:  # fmt: skip
    """`steps` of `rule` on `loss(params, *args)`, a scalar, from `start`.

    Args:
        args: what the loss depends on beside the parameters; its tensors say for which tasks this runs.
        first: the number of the first step, where a loop runs piece by piece (each begins with the rule's `init`).
    """
    how = NOW.differentiate or differentiate
    params = per_task(start, args)
    grad_on = torch.is_grad_enabled()
    exact = isinstance(how, Exact) and grad_on
    if isinstance(how, Implicit):
        loss = _proximal(loss, detached(params), how.strength)

    def step(number: int, carry: Any, *, create_graph: bool) -> Any:
        params, state = carry
        with at_step(first + number):
            if type(rule) is SGD and isinstance(rule.lr, float):
                return descend(loss, params, *args, lr=rule.lr, create_graph=create_graph), state
            grads = gradient(loss, params, *args, create_graph=create_graph)
            updates, state = rule.update(grads, state)
        return add(params, updates), state

    carry = (params, rule.init(params))
    again = exact and NOW.recompute and first + steps > 1
    if grad_on and not transformed() and (isinstance(how, Implicit) or again):
        with cache_frozen_modules(graph=True, off=True):  # steps are run alone here, each with a graph of its own
            if isinstance(how, Implicit):
                return implicitly(step, carry, steps, loss=loss, args=args, how=how)
            return checkpointed(step, carry, steps)[0]
    if isinstance(how, Implicit) and grad_on:
        raise UpstairsError("implicit differentiation does not run under a torch.func transform: use autograd")
    with cache_frozen_modules(graph=exact, off=transformed()):
        for number in range(steps):
            carry = step(number, carry, create_graph=exact)
    return carry[0]


def _proximal(loss: Loss, start: Params, strength: float) -> Loss:
    def penalised(params: Params, *args: Any) -> Tensor:
        distance = sum((p - start[n]).square().sum() for n, p in params.items())
        return loss(params, *args) + 0.5 * strength * distance

    return penalised


class _Backward(torch.autograd.Function):
    """Values that are at hand, with a backward of one's own."""

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


def checkpointed(step: Step, carry: Any, steps: int, *, shared: list[Tensor] | None = None) -> Any:
    """The last carry, as if unrolled. Kept are the parameters (and the rule's state) before each step.

    Walking back, each step is computed once more, and the vector-Jacobian product of it alone is taken.

    Args:
        shared: leaves with a gradient that steps depend on beside their carry; None: those of the first step.
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
            live = [(a, lam) for a, lam in zip(after, lams, strict=True) if a.requires_grad]
            wanted = [b for b in before if b.requires_grad] + shared
            grads = torch.autograd.grad(
                [a for a, _ in live], wanted, [lam for _, lam in live], retain_graph=True,
                allow_unused=True, materialize_grads=True,
            )  # fmt: skip
            found = iter(grads)
            lams = [next(found) if b.requires_grad else torch.zeros_like(b) for b in before]
            totals = [t + g for t, g in zip(totals, found, strict=True)]
            del after, live, grads, path[number]
        return [*lams, *totals]

    out = _Backward.apply(pull, path.pop(), *inputs, *shared)
    parts = [wrap(r) if s else r for r, s in zip(out, batched, strict=True)]
    return tree_unflatten(parts, structure)


def _shared(step: Step, carry: Any) -> list[Tensor]:
    """Tensors with a gradient that a step depends on beside its carry: shared layers, a learned rate.

    They are found in the graph of the first step, so that none can be forgotten.
    """
    leaves, structure = tree_flatten(carry)
    own = [raw_of(leaf).detach().requires_grad_(leaf.is_floating_point()) for leaf in leaves]
    parts = [wrap(r) if isinstance(leaf, BatchedTensor) else r for r, leaf in zip(own, leaves, strict=True)]
    with torch.random.fork_rng(devices=[]):
        after = step(0, tree_unflatten(parts, structure), create_graph=True)
    mine = {id(t) for t in own}
    found: dict[int, Tensor] = {}
    seen: set[Any] = set()
    todo = [raw_of(leaf).grad_fn for leaf in tree_flatten(after)[0]]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable") and id(node.variable) not in mine:
            found[id(node.variable)] = node.variable
        todo.extend(parent for parent, _ in node.next_functions)
    return list(found.values())


def implicitly(step: Step, carry: Any, steps: int, *, loss: Loss, args: Any, how: Implicit) -> Params:
    """The last parameters, differentiated as the minimum of the penalised `loss` (Rajeswaran 2019, equation 6).

    At the minimum, grad L(phi, psi) + strength (phi - theta) = 0. With (H + strength I) v = g by conjugate gradients:
    the gradient in theta is strength v, and in shared tensors psi it is minus the derivative of grad L in psi times v.
    """
    start = carry[0]
    shared = _shared(step, carry)
    with torch.no_grad():
        for number in range(steps):
            carry = step(number, carry, create_graph=False)
    names, batched = list(start), [isinstance(p, BatchedTensor) for p in start.values()]
    last = [raw_of(carry[0][n]).detach() for n in names]

    def pull(cotangents: tuple[Tensor, ...]) -> list[Tensor]:
        with torch.enable_grad():
            phi = [t.detach().requires_grad_() for t in last]
            params = {n: wrap(t) if s else t for n, t, s in zip(names, phi, batched, strict=True)}
            grads = [raw_of(g) for g in gradient(loss, params, *args, create_graph=True).values()]
            # the graph's own leaves: `gradient` keeps tensors that require a gradient

        def curvature(v: list[Tensor]) -> list[Tensor]:
            return list(_vjp(grads, phi, v))

        v = conjugate_gradients(curvature, list(cotangents), how.iterations, strength=how.strength, per_task=batched[0])
        totals = [-g for g in _vjp(grads, shared, v)] if shared else []
        return [*(how.strength * t for t in v), *totals]

    out = _Backward.apply(pull, last, *(raw_of(p) for p in start.values()), *shared)
    return {n: wrap(t) if s else t for n, t, s in zip(names, out, batched, strict=True)}


def _vjp(outputs: list[Tensor], inputs: list[Tensor], v: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(outputs, inputs, v, retain_graph=True, allow_unused=True, materialize_grads=True)


def conjugate_gradients(
    matrix: Callable[[list[Tensor]], list[Tensor]], b: list[Tensor], iterations: int, *, strength: float,
    per_task: bool = False,
) -> list[Tensor]:  # fmt: skip
    """x with matrix x = b, for each task on its own (Hestenes and Stiefel 1952).

    Where the inner loop did not reach a minimum, the matrix H + strength may bend down in some direction. There a task
    stops with what it has (Steihaug 1983), and at the very first with b / strength, which is the first-order gradient
    (and with 0 where nothing was added).
    """

    def dot(a: list[Tensor], c: list[Tensor]) -> Tensor:
        products = (s * t for s, t in zip(a, c, strict=True))
        return torch.stack([p.flatten(1).sum(1) if per_task else p.sum() for p in products]).sum(0)

    def along(x: list[Tensor], rate: Tensor, d: list[Tensor]) -> list[Tensor]:
        return [s + (rate.view(-1, *(1,) * (t.ndim - 1)) if per_task else rate) * t for s, t in zip(x, d, strict=True)]

    x = [torch.zeros_like(t) for t in b]
    residual, direction = b, b
    size = dot(residual, residual)
    tiny = torch.finfo(b[0].dtype).tiny
    going = size > tiny
    for number in range(iterations):
        image = matrix(direction)
        bend = dot(direction, image)
        up = bend > LEAST_BEND * strength * dot(direction, direction)
        rate = torch.where(up, size / bend.clamp(min=tiny), 0.0 if number or not strength else 1 / strength)
        rate = torch.where(going, rate, 0.0)
        going = going & up & (size > tiny)
        x, residual = along(x, rate, direction), along(residual, -rate, image)
        before, size = size, dot(residual, residual)
        direction = along(residual, size / before.clamp(min=tiny), direction)
    return x
