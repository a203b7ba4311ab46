"""Hypergradients from outer losses alone: the losses need not be differentiable.

They estimate the gradient of J smoothed by a Gaussian of width sigma, with noise: see `upstairs.functional.evolution`.
"""

from collections.abc import Iterator
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

    pairs: list[Any]  # two carries each; None before the first window: a start may depend on the meta-parameters
    xi: Params


@dataclass(frozen=True)
class EvolutionStrategies:
    """Antithetic evolution strategies (Salimans et al. 2017), with e ~ N(0, sigma^2) drawn anew for each pair:

        dJ/dlambda  ~  mean over pairs of  e (J(lambda + e) - J(lambda - e)) / (2 sigma^2)

    Both sides of a pair use the same random numbers. The noise is drawn from torch's global generator.

    Cost: (2 pairs + 1) K gradients; the memory of training.
    """

    pairs: int = 8
    sigma: float = 0.01

    def __call__(self, problem: Problem, meta: Params, carry: Carry | None) -> Hypergradient:
        noise = draw_noise(meta, self.sigma, self.pairs)
        rises = [rise for _, rise in _advance_pairs(problem, meta, noise, [(carry, carry)] * self.pairs)]
        after, value = _window(problem, meta, carry)
        return Hypergradient(antithetic_gradient(noise, torch.stack(rises), self.sigma), value, after)


@dataclass(frozen=True)
class PersistentES:
    """Persistent evolution strategies (Vicol, Metz and Sohl-Dickstein 2021, algorithm 2), for loops of many windows.

        sum over windows w of  dJ_w/dlambda  ~  mean over pairs of  xi_w (J_w^+ - J_w^-) / (2 sigma^2)

    Each call is a window of `problem.steps`: give its carry to the next call. Every pair of particles keeps its own two
    loops and is perturbed anew in each window; xi_w is the sum of its perturbations so far. So it is unbiased, unlike
    `Truncated`. In a single window it is `EvolutionStrategies`.

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
        moved, rises = zip(*_advance_pairs(problem, meta, noise, before), strict=True)
        after, value = _window(problem, meta, carry)
        found = antithetic_gradient(xi, torch.stack(rises), self.sigma)
        return Hypergradient(found, value, after._replace(particles=Particles(list(moved), xi)))


def _advance_pairs(problem: Problem, meta: Params, noise: Params, pairs: list[Any]) -> Iterator[tuple[Any, Tensor]]:
    """Yields each pair of loops after a window, with the difference of its outer losses."""
    device = next(iter(meta.values())).device
    for number, (above, below) in enumerate(pairs):
        e, states = index(noise, number), random_states(device)
        above, up = _window(problem, perturb(meta, e, 1), above)
        with same_chance(states, device):
            below, down = _window(problem, perturb(meta, e, -1), below)
        yield (above, below), up - down


@torch.no_grad()
def _window(problem: Problem, meta: Params, carry: Carry | None) -> tuple[Carry, Tensor]:
    """Runs the inner steps; returns the carry and the outer loss after them."""
    after = walk(problem, meta, carry, problem.steps)
    return after, outer_loss(problem, after.parameters, meta, after.step)
