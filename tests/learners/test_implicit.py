"""iMAML: the solve against a dense Hessian, and tasks whose loss bends down where the inner loop ended."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.tasks import WAY, blobs, double
from upstairs.core import Examples
from upstairs.engine.meta_backward import meta_backward
from upstairs.functional.implicit import conjugate_gradients
from upstairs.learners import imaml


def test_equals_the_dense_solve_at_the_same_point() -> None:
    """strength (H + strength I)^-1 g, with H from torch's own double differentiation, inverted in full."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, WAY)).double()
    tasks = double(blobs(2, shape=(3,)))
    learner = imaml(net, way=WAY, inner_lr=0.1, steps=5, strength=3.0, iterations=41)
    meta_backward(learner, tasks)
    total = torch.zeros(41, dtype=torch.float64)
    for i in range(2):
        support = Examples(*(leaf[i] for leaf in tasks.support))
        phi = torch.cat([p.detach().flatten() for p in learner.adapt(support).values()])

        def loss(flat: Tensor, x: Tensor, y: Tensor) -> Tensor:
            w, b, v, c = flat.split([12, 4, 20, 5])
            return F.cross_entropy((x @ w.view(4, 3).T + b).tanh() @ v.view(5, 4).T + c, y)

        hessian = torch.autograd.functional.hessian(lambda p, s=support: loss(p, s.x, s.y), phi)
        grad = torch.autograd.functional.jacobian(lambda p, i=i: loss(p, tasks.query.x[i], tasks.query.y[i]), phi)
        total += torch.linalg.solve(hessian + 3 * torch.eye(41, dtype=torch.float64), 3 * grad) / 2
        assert (hessian.diag().abs() > 1e-3).any()
    found = torch.cat([p.grad.flatten() for p in net.parameters()])
    torch.testing.assert_close(found, total, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_where_the_loss_bends_down_the_solve_stops(iterations: int) -> None:
    """Three tasks at once: one solved, one that bends down at once (b / strength), one that does so at the second."""
    good = torch.diag(torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64))
    bad = -good
    mixed = torch.diag(torch.tensor([5.0, 3.0, -1.0], dtype=torch.float64))
    matrices, b = torch.stack([good, bad, mixed]), torch.ones(3, 3, dtype=torch.float64)
    x = conjugate_gradients(
        lambda v: [(matrices @ v[0][..., None])[..., 0]], [b], iterations, strength=0.5, per_task=True
    )[0]
    torch.testing.assert_close(x[1], b[1] / 0.5)
    assert x.abs().max() <= 2  # never more than b / strength
    if iterations >= 3:
        torch.testing.assert_close(x[0], torch.tensor([1 / 2, 1 / 3, 1 / 4], dtype=torch.float64))
    # the third: one step along b, whose curvature is 7 / 3, and then one that is refused
    torch.testing.assert_close(x[2], b[2] * 3 / 7)


def test_its_memory_is_that_of_one_step() -> None:
    from upstairs.engine.plan import estimate

    net = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, WAY))
    few, many = (estimate(imaml(net, way=WAY, steps=k), blobs(1)).peak for k in (2, 30))
    assert many <= 1.05 * few
