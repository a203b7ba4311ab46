"""Hypergradients from first derivatives alone: the mixed second derivative of one step is a finite difference.

    u (d^2 inner / d phi d lambda)  ~  (d inner/d lambda (phi + e u) - d inner/d lambda (phi - e u)) / 2e

No graph of a gradient is ever built, so the memory of a step is that of training, and layers need no second derivative.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from upstairs.bilevel.problem import Carry, Hypergradient, Problem, inner_gradient, outer_gradients, rule_of, walk
from upstairs.functional.call import Params, random_states, same_chance
from upstairs.functional.differentiate import add, vjp
from upstairs.tree import detach


@dataclass(frozen=True)
class FiniteDifference:
    """`OneStep` by a finite difference: DARTS as implemented (Liu, Simonyan and Yang 2019, equation 8).

        u = (d outer/d phi_K) (d step/d gradient);   e = epsilon / |u|

    The derivatives of the inner rule itself (an adaptive scale, a learned rate) are exact.

    Cost: K + 3 gradients; the memory of training.
    """

    epsilon: float = 1e-2

    def __call__(self, problem: Problem, meta: Params, carry: Carry | None) -> Hypergradient:
        before = walk(problem, meta, carry, problem.steps - 1)
        step = _Step(problem, meta, before)
        value, v, direct = outer_gradients(problem, step.after.parameters, meta, step.after.step)
        return Hypergradient(step.pull(v, direct, self.epsilon), value, step.after)


@dataclass(frozen=True)
class FirstOrderHypergradient:
    """SAMA: the inverse curvature is replaced by the derivative of the inner rule (Choe et al. 2023).

        u = (d outer/d phi) (d step/d gradient) at the end phi of the loop,   e = epsilon / |u|

    The derivative is that of one further step, which is not taken. With gradient descent it is T1-T2 (Luketina et al.
    2016); for Adam, d step/d gradient includes the adaptive scale, which changes the direction.

    Cost: K + 4 gradients; the memory of training.
    """

    epsilon: float = 1e-2

    def __call__(self, problem: Problem, meta: Params, carry: Carry | None) -> Hypergradient:
        end = walk(problem, meta, carry, problem.steps)
        value, v, direct = outer_gradients(problem, end.parameters, meta, end.step)
        return Hypergradient(_Step(problem, meta, end).pull(v, direct, self.epsilon), value, end)


class _Step:
    """One inner step from constants, differentiated in the gradient and in the meta-parameters of the rule."""

    def __init__(self, problem: Problem, meta: Params, before: Carry) -> None:
        self.problem, self.meta, self.before = problem, meta, before
        still = {n: p.detach() for n, p in meta.items()}
        grads = inner_gradient(problem, before.parameters, still, before.step, create_graph=False)
        with torch.enable_grad():
            self.grads = {n: g.detach().requires_grad_() for n, g in grads.items()}
            updates, state = rule_of(problem, meta).update(self.grads, before.state, before.parameters)
        self.outputs = list(updates.values())
        params, state = detach((add(before.parameters, updates), state))
        self.after = Carry(params, state, before.step + 1)

    def pull(self, v: Params, direct: Params, epsilon: float) -> Params:
        """Returns direct + v (d after / d lambda)."""
        u, of_rule = vjp(self.outputs, [list(self.grads.values()), list(self.meta.values())], list(v.values()))
        length = torch.stack([t.square().sum() for t in u]).sum().sqrt()
        if length == 0:
            mixed = [torch.zeros_like(p) for p in self.meta.values()]
        else:
            e = epsilon / length
            up, down = (self._in_meta(s * e, u) for s in (1, -1))
            mixed = [(a - b) / (2 * e) for a, b in zip(up, down, strict=True)]
        return {n: direct[n] + r + m for n, r, m in zip(self.meta, of_rule, mixed, strict=True)}

    def _in_meta(self, e: Tensor, u: list[Tensor]) -> list[Tensor]:
        """Returns the inner loss's gradient in the meta-parameters, at phi + e u; both sides use one random state."""
        names = self.before.parameters
        phi = {n: p.detach() + e * t for (n, p), t in zip(names.items(), u, strict=True)}
        batch = self.problem.inner_batch(self.before.step)
        with torch.enable_grad(), same_chance(random_states(e.device), e.device):
            value = self.problem.inner(phi, self.meta, batch)
            (found,) = vjp([value], [list(self.meta.values())], [torch.ones_like(value)])
        return found
