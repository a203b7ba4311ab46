"""Hypergradients from outer losses alone: nothing is differentiated, and nothing need be differentiable.

They are gradients of J smoothed by a Gaussian of width sigma, and noisy: with N pairs in M meta-parameters the squared
cosine with the true one has the mean N / (N + M - 1) (`upstairs.engine.evolution`).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from upstairs.bilevel.problem import Carry, Hypergradient, Problem, outer_loss, walk
from upstairs.functional.call import random_states, same_chance
from upstairs.functional.differentiate import Params


class Particle(NamedTuple):
    """A pair of loops with opposite meta-parameters, and the sum of their perturbations so far."""

    above: Carry | None  # None: it is yet to begin, under meta-parameters of its own
    below: Carry | None
    xi: Params


@dataclass(frozen=True)
class EvolutionStrategies:
    """Antithetic evolution strategies (Salimans et al. 2017), e ~ N(0, sigma^2), drawn anew for each pair:

        dJ/dlambda  ~  mean over pairs of  e (J(lambda + e) - J(lambda - e)) / (2 sigma^2)

    Both of a pair meet the same random numbers. The noise is of torch's global generator.

    Cost: (2 pairs + 1) K gradients; the memory of training.
    """

    pairs: int = 8
    sigma: float = 0.01

    @torch.no_grad()
    def __call__(self, problem: Problem, meta: Params, carry: Carry | None) -> Hypergradient:
        pairs = []
        for _ in range(self.pairs):
            e = _noise(meta, self.sigma)
            sides = [_window(problem, _moved(meta, e, sign), carry) for sign in (1, -1)]
            pairs.append((e, sides[0][1] - sides[1][1]))
        after, value = _window(problem, meta, carry)
        return Hypergradient(_smoothed(pairs, self.sigma), value, after)


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

    @torch.no_grad()
    def __call__(self, problem: Problem, meta: Params, carry: Carry | None) -> Hypergradient:
        if carry is None or carry.particles is None:
            zeros = {n: torch.zeros_like(p) for n, p in meta.items()}
            particles = [Particle(carry, carry, zeros)] * self.pairs
        else:
            particles = carry.particles
        moved, pairs = [], []
        for above, below, xi in particles:
            e = _noise(meta, self.sigma)
            (above, up), (below, down) = (
                _window(problem, _moved(meta, e, sign), side) for sign, side in ((1, above), (-1, below))
            )
            xi = {n: x + e[n] for n, x in xi.items()}
            moved.append(Particle(above, below, xi))
            pairs.append((xi, up - down))
        after, value = _window(problem, meta, carry)
        return Hypergradient(_smoothed(pairs, self.sigma), value, after._replace(particles=moved))


def _window(problem: Problem, meta: Params, carry: Carry | None) -> tuple[Carry, Tensor]:
    """The inner steps and the outer loss after them; chance is the same in every call before the next draw."""
    device = next(iter(meta.values())).device
    with same_chance(random_states(device), device):
        after = walk(problem, meta, carry, problem.steps)
        return after, outer_loss(problem, after.parameters, meta, after.step)


def _noise(meta: Params, sigma: float) -> Params:
    return {n: sigma * torch.randn_like(p) for n, p in meta.items()}


def _moved(meta: Params, e: Params, sign: int) -> Params:
    return {n: p.detach() + sign * e[n] for n, p in meta.items()}


def _smoothed(pairs: list[tuple[Params, Tensor]], sigma: float) -> Params:
    """The mean of xi (J^+ - J^-) / (2 sigma^2)."""
    scale = 2 * sigma**2 * len(pairs)
    return {n: sum((xi[n] * rise for xi, rise in pairs), torch.zeros_like(pairs[0][0][n])) / scale for n in pairs[0][0]}
