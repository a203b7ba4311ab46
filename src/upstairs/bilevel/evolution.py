"""Hypergradients from outer losses alone: nothing is differentiated, and nothing need be differentiable.

They are gradients of J smoothed by a Gaussian of width sigma, and noisy: see `upstairs.functional.evolution`.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from upstairs.bilevel.problem import Carry, Hypergradient, Problem, outer_loss, walk
from upstairs.functional.call import Params, random_states, same_chance
from upstairs.functional.evolution import antithetic_gradient, draw_noise, perturb
from upstairs.tree import index


class Particles(NamedTuple):
    """Pairs of loops with opposite meta-parameters, and the sum of each pair's perturbations so far."""

    pairs: list[Any]  # two carries each; None for a loop that is yet to begin, under meta-parameters of its own
    xi: Params


@dataclass(frozen=True)
class EvolutionStrategies:
    """Antithetic evolution strategies (Salimans et al. 2017), e ~ N(0, sigma^2), drawn anew for each pair:

        dJ/dlambda  ~  mean over pairs of  e (J(lambda + e) - J(lambda - e)) / (2 sigma^2)

    Both of a pair meet the same random numbers. The noise is drawn from torch's global generator.

    Cost: (2 pairs + 1) K gradients; the memory of training.
    """

    pairs: int = 8
    sigma: float = 0.01

    def __call__(self, problem: Problem, meta: Params, carry: Carry | None) -> Hypergradient:
        noise = draw_noise(meta, self.sigma, self.pairs)
        _, rises = _advance_pairs(problem, meta, noise, [(carry, carry)] * self.pairs)
        after, value = _window(problem, meta, carry)
        return Hypergradient(antithetic_gradient(noise, rises, self.sigma), value, after)


@dataclass(frozen=True)
class PersistentES:
    """Persistent evolution strategies (Vicol, Metz and Sohl-Dickstein 2021, algorithm 2), for loops that go on.

        sum over windows w of  dJ_w/dlambda  ~  mean over pairs of  xi_w (J_w^+ - J_w^-) / (2 sigma^2)

    A loop is learned from while it runs, window after window of `problem.steps` each (hand on the carry). Every pair
    of particles keeps its own two loops, is perturbed anew in each window, and xi_w is the sum of its perturbations so
    far: so it is unbiased where `Truncated` is short-sighted. In one window it is `EvolutionStrategies`.

    Cost: (2 pairs + 1) gradients for each step; 2 pairs + 1 copies of the parameters and of the rule's state.
    """

    pairs: int = 8
    sigma: float = 0.01

    def __call__(self, problem: Problem, meta: Params, carry: Carry | None) -> Hypergradient:
        noise = draw_noise(meta, self.sigma, self.pairs)
        if carry is None or carry.particles is None:
            before, xi = [(carry, carry)] * self.pairs, noise
        else:
            before, xi = carry.particles.pairs, {n: x + noise[n] for n, x in carry.particles.xi.items()}
        moved, rises = _advance_pairs(problem, meta, noise, before)
        after, value = _window(problem, meta, carry)
        carry = after._replace(particles=Particles(moved, xi))
        return Hypergradient(antithetic_gradient(xi, rises, self.sigma), value, carry)


def _advance_pairs(problem: Problem, meta: Params, noise: Params, pairs: list[Any]) -> tuple[list[Any], Tensor]:
    """Every pair of loops after a window, and the difference of its outer losses; both draw the same random numbers."""
    device = next(iter(meta.values())).device
    moved, rises = [], []
    for number, (above, below) in enumerate(pairs):
        e, states = index(noise, number), random_states(device)
        above, up = _window(problem, perturb(meta, e, 1), above)
        with same_chance(states, device):
            below, down = _window(problem, perturb(meta, e, -1), below)
        moved.append((above, below))
        rises.append(up - down)
    return moved, torch.stack(rises)


@torch.no_grad()
def _window(problem: Problem, meta: Params, carry: Carry | None) -> tuple[Carry, Tensor]:
    """The inner steps, and the outer loss after them."""
    after = walk(problem, meta, carry, problem.steps)
    return after, outer_loss(problem, after.parameters, meta, after.step)
