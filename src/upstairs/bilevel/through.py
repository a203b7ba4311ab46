"""Hypergradients through the inner steps: unrolled, truncated, recomputed, forward.

Costs are for K inner steps and M meta-parameters; a gradient is one of the inner loss. Backpropagation through a step
costs about two more gradients.
"""

from dataclasses import dataclass
from typing import Any

import torch

from upstairs.bilevel.problem import (
    Carry,
    Hypergradient,
    Problem,
    advance,
    first_carry,
    outer_gradients,
    outer_loss,
    walk,
)
from upstairs.functional.call import Params
from upstairs.functional.differentiate import vjp
from upstairs.functional.inner_loop import checkpointed
from upstairs.tree import detach, map_tensors


@dataclass(frozen=True)
class Unrolled:
    """The exact hypergradient, by backpropagation through every step (Maclaurin et al. 2015; Franceschi et al. 2017).

        dJ/dlambda = d outer/d lambda + sum over k of (d outer/d phi_K) A_K ... A_{k+1} B_k
        with A = d step/d phi, B = d step/d lambda

    Cost: 3K gradients; K graphs of a step, which hold all activations.
    """

    def __call__(self, problem: Problem, meta: Params, carry: Carry | None) -> Hypergradient:
        return _backwards(problem, meta, carry, problem.steps)


@dataclass(frozen=True)
class Truncated:
    """Backpropagation through the last `last` steps; earlier ones are constants (Shaban et al. 2019).

    The bias along a direction of curvature h has the factor (1 - lr h)^last.

    Cost: K + 2 last gradients; `last` graphs of a step.
    """

    last: int

    def __call__(self, problem: Problem, meta: Params, carry: Carry | None) -> Hypergradient:
        return _backwards(problem, meta, carry, min(self.last, problem.steps))


@dataclass(frozen=True)
class OneStep:
    """Backpropagation through the last step alone: DARTS, second order (Liu, Simonyan and Yang 2019, equation 6).

        dJ/dlambda = d outer/d lambda + (d outer/d phi_K) B_K

    The direction may be good, but the length is too small: it lacks the effect of lambda on earlier steps. Use it in an
    inner loop that continues from one hypergradient to the next.

    Cost: K + 2 gradients; one graph of a step.
    """

    def __call__(self, problem: Problem, meta: Params, carry: Carry | None) -> Hypergradient:
        return _backwards(problem, meta, carry, 1)


@dataclass(frozen=True)
class Recomputed:
    """The exact hypergradient, with each step recomputed in the backward pass (Chen et al. 2016).

    Cost: 4K gradients; one graph of a step and K copies of the parameters and of the rule's state.
    """

    def __call__(self, problem: Problem, meta: Params, carry: Carry | None) -> Hypergradient:
        with torch.enable_grad():
            first = first_carry(problem, meta) if carry is None else carry

            def step(number: int, inside: Any, *, create_graph: bool) -> Any:
                return advance(problem, meta, Carry(*inside, step=first.step + number), create_graph=create_graph)[:2]

            after = checkpointed(step, first[:2], problem.steps, shared=list(meta.values()))
            return _by_autograd(problem, meta, Carry(*after, step=first.step + problem.steps))


@dataclass(frozen=True)
class Forward:
    """The exact hypergradient in forward mode, with Z = d phi/d lambda (Franceschi et al. 2017, algorithm 2).

        Z_{k+1} = A_k Z_k + B_k,   dJ/dlambda = d outer/d lambda + (d outer/d phi_K) Z_K

    It suits few meta-parameters and many steps. The losses must run under torch.func; their random numbers are the same
    for all directions.

    Cost: about 2MK gradients (all M directions at once, by vmap); M copies of the parameters, of the rule's state and
    of a step's activations, for any K.
    """

    def __call__(self, problem: Problem, meta: Params, carry: Carry | None) -> Hypergradient:
        meta = {n: p.detach() for n, p in meta.items()}
        directions = _identity(meta)
        count = sum(p.numel() for p in meta.values())

        def along(function: Any, before: Any = (), tangents: Any = ()) -> Any:
            """Returns `function(meta, *before)` and its derivative in every direction."""

            def one(direction: Params, *tangents: Any) -> Any:
                return torch.func.jvp(function, (meta, *before), (direction, *tangents))

            dims: Any = (None, 0)  # the value is the same for all; torch's types know no None within
            return torch.vmap(one, out_dims=dims, randomness="same")(directions, *tangents)

        with torch.no_grad():
            if carry is None:
                # clones, since a tensor that a function returns unchanged has no tangent under jvp
                first, (inside, z) = 0, along(lambda meta: map_tensors(torch.clone, first_carry(problem, meta)[:2]))
            else:
                first, inside = carry.step, carry[:2]
                z = map_tensors(lambda t: t.new_zeros(count, *t.shape), inside)
            for number in range(first, first + problem.steps):

                def step(meta: Params, inside: Any, number: int = number) -> Any:
                    return advance(problem, meta, Carry(*inside, step=number), create_graph=True)[:2]

                inside, z = along(step, (inside,), (z,))
        after = Carry(*inside, step=first + problem.steps)
        leaves = {n: p.requires_grad_() for n, p in meta.items()}
        value, v, direct = outer_gradients(problem, after.parameters, leaves, after.step)
        through = torch.stack([torch.tensordot(z[0][n].flatten(1), g.flatten(), 1) for n, g in v.items()]).sum(0)
        sizes = [p.numel() for p in meta.values()]
        parts = dict(zip(meta, through.split(sizes), strict=True))
        return Hypergradient({n: direct[n] + parts[n].view_as(p) for n, p in meta.items()}, value, after)


def _backwards(problem: Problem, meta: Params, carry: Carry | None, last: int) -> Hypergradient:
    """Backpropagates through the last steps, and through the start if those are all of them."""
    with torch.enable_grad():
        if problem.steps > last:
            carry = walk(problem, meta, carry, problem.steps - last)
        now = first_carry(problem, meta) if carry is None else carry
        for _ in range(last):
            now = advance(problem, meta, now, create_graph=True)
        return _by_autograd(problem, meta, now)


def _by_autograd(problem: Problem, meta: Params, carry: Carry) -> Hypergradient:
    value = outer_loss(problem, carry.parameters, meta, carry.step)
    (grads,) = vjp([value], [list(meta.values())], [torch.ones_like(value)])
    after = Carry(*detach(carry[:2]), step=carry.step)
    return Hypergradient(dict(zip(meta, grads, strict=True)), value.detach(), after)


def _identity(meta: Params) -> Params:
    """Returns one direction for each number in the meta-parameters, along a new first axis."""
    like = next(iter(meta.values()))
    rows = torch.eye(sum(p.numel() for p in meta.values()), dtype=like.dtype, device=like.device)
    parts = rows.split([p.numel() for p in meta.values()], 1)
    return {n: part.reshape(-1, *p.shape) for (n, p), part in zip(meta.items(), parts, strict=True)}
