"""Implicit differentiation at a minimum: products with the inverse Hessian, which is never formed.

    grad L(phi, psi) = 0  =>  d phi / d psi = -H^-1 (d grad L / d psi),  H = d^2 L / d phi^2

(Bengio 2000; Pedregosa 2016; Rajeswaran 2019). Each product of H with a vector costs two gradients.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from upstairs.functional.differentiate import vjp

Matrix = Callable[[list[Tensor]], list[Tensor]]  # v -> H v
Solver = Callable[[Matrix, list[Tensor]], list[Tensor]]  # (H, b) -> x with H x = b
LEAST_BEND = 0.5  # least curvature relative to the penalty's: at a minimum it is at least 1


def solve_curvature(
    grads: list[Tensor], params: list[Tensor], others: list[Tensor], b: list[Tensor], solver: Solver
) -> tuple[list[Tensor], list[Tensor]]:
    """Returns x with H x = b, and x (d grads / d others).

    Args:
        grads: the gradient of the inner loss in `params`, with its graph.
        others: other tensors that the inner loss depends on.
    """
    x = solver(lambda v: vjp(grads, [params], v)[0], b)
    return x, vjp(grads, [others], x)[0]


def conjugate_gradients(
    matrix: Matrix, b: list[Tensor], iterations: int, *, strength: float, per_task: bool = False
) -> list[Tensor]:
    """Solves matrix x = b by conjugate gradients, for each task separately if `per_task` (Hestenes and Stiefel 1952).

    Where the inner loop has not converged, H + strength may have negative curvature in some direction. A task stops
    there with its current x (Steihaug 1983); in the first iteration with b / strength, the first-order gradient (0
    where strength is 0).
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
