"""Hypergradients through the inner steps: unrolled, truncated, computed again, forward.

Costs are for K inner steps, P parameters, M meta-parameters; a gradient is one of the inner loss. A step differentiated
backwards costs about two gradients more: the graph of the gradient is walked back.
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
    """Exact, by backpropagation through every step (Maclaurin et al. 2015; "reverse mode" of Franceschi et al. 2017).

        dJ/dlambda = d outer/d lambda + sum over k of (d outer/d phi_K) A_K ... A_{k+1} B_k
        with A = d step/d phi, B = d step/d lambda

    Cost: 3K gradients; K graphs of a step, which hold all activations.
    """

    def __call__(self, problem: Problem, meta: Params, carry: Carry | None) -> Hypergradient:
        return _backwards(problem, meta, carry, problem.steps)


@dataclass(frozen=True)
class Truncated:
    """Backpropagation through the last `last` of the steps; the others are constants (Shaban et al. 2019).

    Biased, by the factor (1 - rate h)^last along a direction of curvature h: what the inner loop has not forgotten.

    Cost: K + 2 last gradients; `last` graphs of a step.
    """

    last: int

    def __call__(self, problem: Problem, meta: Params, carry: Carry | None) -> Hypergradient:
        return _backwards(problem, meta, carry, min(self.last, problem.steps))


@dataclass(frozen=True)
class OneStep:
    """Backpropagation through the last step alone: DARTS, second order (Liu, Simonyan and Yang 2019, equation 6).

        dJ/dlambda = d outer/d lambda + (d outer/d phi_K) B_K

    It sees what lambda does within one step, which is too little by about the number of steps that the loop remembers:
    the direction may be good, the length is not.

    Cost: K + 2 gradients; one graph of a step. Meant for a loop that goes on from hypergradient to hypergradient.
    """

    def __call__(self, problem: Problem, meta: Params, carry: Carry | None) -> Hypergradient:
        return _backwards(problem, meta, carry, 1)


@dataclass(frozen=True)
class Recomputed:
    """Exact: `Unrolled`, but each step is computed again on the way back (Chen et al. 2016, a checkpoint every step).

    Cost: 4K gradients; one graph of a step and K copies of the parameters and of the rule's state.
    """

    def __call__(self, problem: Problem, meta: Params, carry: Carry | None) -> Hypergradient:
        with torch.enable_grad():
            first = first_carry(problem, meta) if carry is None else carry

            def step(number: int, inside: Any, *, create_graph: bool) -> Any:
                return advance(problem, meta, Carry(*inside, first.step + number), create_graph=create_graph)[:2]

            after = checkpointed(step, first[:2], problem.steps, shared=list(meta.values()))
            return _by_autograd(problem, meta, Carry(*after, first.step + problem.steps))


@dataclass(frozen=True)
class Forward:
    """Exact, in forward mode: Z = d phi/d lambda walks along with the loop (Franceschi et al. 2017, algorithm 2).

        Z_{k+1} = A_k Z_k + B_k,   dJ/dlambda = d outer/d lambda + (d outer/d phi_K) Z_K

    Cost: about 2MK gradients (all M directions at once, by vmap); M copies of the parameters and of the rule's state,
    and M of a step's activations, whatever K is. For few meta-parameters and many steps. The losses must run under
    torch.func; random numbers in them are the same for all directions.
    """

    def __call__(self, problem: Problem, meta: Params, carry: Carry | None) -> Hypergradient:
        meta = {n: p.detach() for n, p in meta.items()}
        directions = _identity(meta)
        count = sum(p.numel() for p in meta.values())

        def along(function: Any, directions: Params, before: Any = None, tangents: Any = None) -> Any:
            """`function(meta, carry)` and its derivative in every direction."""

            def one(direction: Params, tangent: Any) -> Any:
                if before is None:
                    return torch.func.jvp(function, (meta,), (direction,))
                return torch.func.jvp(function, (meta, before), (direction, tangent))

            dims: Any = (None, 0)  # the value is the same for all; torch's types know no None within
            return torch.vmap(one, out_dims=dims, randomness="same")(directions, tangents or directions)

        with torch.no_grad():
            if carry is None:
                first, (inside, z) = 0, along(lambda meta: _fresh(first_carry(problem, meta)[:2]), directions)
            else:
                first, inside = carry.step, carry[:2]
                z = map_tensors(lambda t: t.new_zeros(count, *t.shape), inside)
            for number in range(first, first + problem.steps):

                def step(meta: Params, inside: Any, number: int = number) -> Any:
                    return advance(problem, meta, Carry(*inside, number), create_graph=True)[:2]

                inside, z = along(step, directions, inside, z)
        after = Carry(*inside, first + problem.steps)
        leaves = {n: p.requires_grad_() for n, p in meta.items()}
        value, v, direct = outer_gradients(problem, after.parameters, leaves, after.step)
        through = torch.stack([torch.tensordot(z[0][n].flatten(1), g.flatten(), 1) for n, g in v.items()]).sum(0)
        sizes = [p.numel() for p in meta.values()]
        parts = dict(zip(meta, through.split(sizes), strict=True))
        return Hypergradient({n: direct[n] + parts[n].view_as(p) for n, p in meta.items()}, value, after)


def _backwards(problem: Problem, meta: Params, carry: Carry | None, last: int) -> Hypergradient:
    """Through the last steps; through the start too where all of them are."""
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
    return Hypergradient(
        dict(zip(meta, grads, strict=True)), value.detach(), Carry(*detach(carry[:2]), carry.step)
    )  # fmt: skip


def _identity(meta: Params) -> Params:
    """A direction for each number of the meta-parameters, along a new first axis."""
    like = next(iter(meta.values()))
    rows = torch.eye(sum(p.numel() for p in meta.values()), dtype=like.dtype, device=like.device)
    parts = rows.split([p.numel() for p in meta.values()], 1)
    return {n: part.reshape(-1, *p.shape) for (n, p), part in zip(meta.items(), parts, strict=True)}


def _fresh(tree: Any) -> Any:
    """Copies: a tensor that is given back as it came has no tangent under jvp."""
    return map_tensors(torch.clone, tree)
