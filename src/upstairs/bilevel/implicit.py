"""Hypergradients at the end of the inner loop, by the implicit function theorem.

Where grad_phi inner(phi, lambda) = 0, with H = d^2 inner / d phi^2 (Bengio 2000; Pedregosa 2016):

    dJ/dlambda = d outer/d lambda - (d outer/d phi) H^-1 (d^2 inner / d phi d lambda)

It depends on the minimum alone, so learned learning rates and starting points get no gradient; it is biased where the
loop has not converged. Solvers compute H^-1 v from products of H with vectors, each of which costs two gradients.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from upstairs.bilevel.problem import Carry, Hypergradient, Problem, inner_gradient, outer_gradients, walk
from upstairs.errors import UpstairsError
from upstairs.functional.call import Params
from upstairs.functional.implicit import Matrix, Solver, conjugate_gradients, solve_curvature


@dataclass(frozen=True)
class ConjugateGradients:
    """Solves (H + damping) x = b by conjugate gradients (Hestenes and Stiefel 1952; Pedregosa 2016).

    After n iterations the relative error is at most 2 ((sqrt(c) - 1) / (sqrt(c) + 1))^n, with the condition number c.
    It stops early in a direction of negative curvature: use damping then (Rajeswaran et al. 2019).

    Cost: `iterations` products, 4 copies of the parameters.
    """

    iterations: int = 20
    damping: float = 0.0

    def __call__(self, matrix: Matrix, b: list[Tensor]) -> list[Tensor]:
        return conjugate_gradients(_damped(matrix, self.damping), b, self.iterations, strength=self.damping)


@dataclass(frozen=True)
class Neumann:
    """Computes x = lr sum over j < terms of (I - lr H)^j b (Lorraine, Vicol and Duvenaud 2020).

    It equals unrolling `terms` steps of gradient descent at the minimum. The error is (1 - lr h)^terms along a
    direction of curvature h.

    Args:
        lr: below 2 / the largest curvature. None: half of that bound, from 10 steps of power iteration.

    Cost: `terms` products (and 10), 3 copies of the parameters.
    """

    terms: int = 100
    lr: float | None = None
    damping: float = 0.0

    def __call__(self, matrix: Matrix, b: list[Tensor]) -> list[Tensor]:
        matrix = _damped(matrix, self.damping)
        rate = self.lr or 1 / max(_largest_curvature(matrix, b), torch.finfo(b[0].dtype).tiny)
        x = term = [rate * t for t in b]
        for _ in range(self.terms - 1):
            term = [t - rate * h for t, h in zip(term, matrix(term), strict=True)]
            x = [s + t for s, t in zip(x, term, strict=True)]
        return x


@dataclass(frozen=True)
class Nystrom:
    """Approximates H from `rank` random directions and inverts it by Woodbury's formula (Hataya and Yamada 2023).

        H ~ Y C^-1 Y^T,  Y = H Q,  C = Q^T Y,   x = (b - Y (damping C + Y^T Y)^-1 Y^T b) / damping

    Q are orthonormal Gaussian directions, drawn from torch's global generator (the paper uses columns of H, which cost
    the same and are worse where curvature is spread over many coordinates). Up to `damping` it is exact where rank is
    the number of parameters, and it cannot diverge.

    Cost: `rank` products, 2 rank copies of the parameters.
    """

    rank: int = 20
    damping: float = 1e-2

    def __post_init__(self) -> None:
        if self.damping <= 0:
            raise UpstairsError(f"damping is {self.damping} and Nystrom divides by it: give one above 0, such as 0.01")

    def __call__(self, matrix: Matrix, b: list[Tensor]) -> list[Tensor]:
        flat, sizes = torch.cat([t.flatten() for t in b]), [t.numel() for t in b]

        def shaped(v: Tensor) -> list[Tensor]:
            return [part.view_as(t) for part, t in zip(v.split(sizes), b, strict=True)]

        q = torch.linalg.qr(torch.randn(len(flat), min(self.rank, len(flat)), dtype=flat.dtype, device=flat.device))[0]
        y = torch.stack([torch.cat([t.flatten() for t in matrix(shaped(column))]) for column in q.T], 1)
        wide, small = y.double(), (q.T @ y).double()
        inside = self.damping * (small + small.T) / 2 + wide.T @ wide
        solved = torch.linalg.lstsq(inside, wide.T @ flat.double()[:, None], driver="gelsd").solution
        return shaped(((flat.double() - (wide @ solved)[:, 0]) / self.damping).to(flat.dtype))


@dataclass(frozen=True)
class ImplicitHypergradient:
    """The hypergradient by the implicit function theorem, at the end of the loop.

    The curvature is that of the next inner batch, so inner batches must be large enough to estimate it.

    Cost: K gradients, then the solver's products of two gradients each, and 2 more; one graph of a step.
    """

    solver: Solver = field(default_factory=ConjugateGradients)

    def __call__(self, problem: Problem, meta: Params, carry: Carry | None) -> Hypergradient:
        carry = walk(problem, meta, carry, problem.steps)
        value, v, direct = outer_gradients(problem, carry.parameters, meta, carry.step)
        with torch.enable_grad():
            phi = {n: p.detach().requires_grad_() for n, p in carry.parameters.items()}
            grads = list(inner_gradient(problem, phi, meta, carry.step, create_graph=True).values())
        _, mixed = solve_curvature(grads, list(phi.values()), list(meta.values()), list(v.values()), self.solver)
        return Hypergradient({n: direct[n] - m for n, m in zip(meta, mixed, strict=True)}, value, carry)


def _damped(matrix: Matrix, damping: float) -> Matrix:
    if not damping:
        return matrix
    return lambda v: [h + damping * t for h, t in zip(matrix(v), v, strict=True)]


def _largest_curvature(matrix: Matrix, b: list[Tensor], steps: int = 10) -> float:
    """Estimates the largest curvature by power iteration, which underestimates it: 20% is added."""
    v = [torch.randn_like(t) for t in b]
    size = 1.0
    for _ in range(steps):
        length = torch.stack([t.square().sum() for t in v]).sum().sqrt().clamp(min=1e-30)
        v = matrix([t / length for t in v])
        size = float(torch.stack([t.square().sum() for t in v]).sum().sqrt())
    return 1.2 * size
