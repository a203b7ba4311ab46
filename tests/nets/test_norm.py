"""Our batch norm: torch's values, exact derivatives to the second, under vmap too, where torch's is wrong."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, vmap

from helpers.tasks import WAY, blobs
from upstairs.engine.calibrate import calibrate
from upstairs.learners import maml
from upstairs.nets import BatchNorm, batch_norm, convert_batch_norm
from upstairs.nets.norm import GroupNorm


def data(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    like = {"dtype": torch.float64, "requires_grad": True}
    return torch.randn(*shape, **like), torch.randn(shape[1], **like), torch.randn(shape[1], **like)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 7), (6, 5, 4, 3)])
def test_value_and_derivatives(shape: tuple[int, ...]) -> None:
    x, w, b = data(*shape)
    torch.testing.assert_close(batch_norm(x, w, b, 1e-5), F.batch_norm(x, None, None, w, b, True))
    assert torch.autograd.gradcheck(lambda *a: batch_norm(*a, 1e-5), (x, w, b))
    assert torch.autograd.gradgradcheck(lambda *a: batch_norm(*a, 1e-5), (x, w, b))


@pytest.mark.parametrize("which", [(0,), (1,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("batched", [False, True])
def test_second_derivative_under_vmap_equals_a_loop(which: tuple[int, ...], batched: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, 2, 5, 5, dtype=torch.float64)
    target, a = torch.randn_like(x), torch.rand(2, dtype=torch.float64)
    w, b = torch.rand(2, 3, 2, dtype=torch.float64) if batched else torch.rand(2, 2, dtype=torch.float64)

    def outer(a: Tensor, x: Tensor, target: Tensor, w: Tensor, b: Tensor) -> Tensor:
        def inner(a: Tensor, w: Tensor, b: Tensor) -> Tensor:
            return (torch.tanh(batch_norm(x * a.view(1, -1, 1, 1) + x.roll(1, 0), w, b, 1e-5)) * target).sum()

        return sum((g * g.detach().cos()).sum() for g in grad(inner, which)(a, w, b))

    own = 0 if batched else None
    fast = grad(lambda a, w, b: vmap(outer, (None, 0, 0, own, own))(a, x, target, w, b).sum(), (0, 1, 2))(a, w, b)
    pick = (lambda t, i: t[i]) if batched else (lambda t, i: t)
    slow = grad(lambda a, w, b: sum(outer(a, x[i], target[i], pick(w, i), pick(b, i)) for i in range(3)), (0, 1, 2))(
        a, w, b
    )
    for f, s in zip(fast, slow, strict=True):
        torch.testing.assert_close(f, s, rtol=1e-11, atol=1e-11)


def test_third_derivative() -> None:
    """Against batch norm written from primitives: torch's own third derivative is off by 87% here."""
    x, w, b = data(4, 2, 3, 1)

    def primitive(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
        return (x - mean) * torch.rsqrt(variance + 1e-5) * w.view(1, -1, 1, 1) + b.view(1, -1, 1, 1)

    def third(norm) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(norm(x, w, b).pow(3).sum(), (x, w, b), create_graph=True)
        second = torch.autograd.grad(sum(f.pow(2).sum() for f in first), (x, w, b), create_graph=True)
        return torch.autograd.grad(sum(s.pow(2).sum() for s in second), (x, w, b))

    for own, expected in zip(third(lambda *a: batch_norm(*a, 1e-5)), third(primitive), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-10, atol=1e-10)


def test_group_norm_equals_torch() -> None:
    x = torch.randn(3, 16, 5, 5, dtype=torch.float64)
    own, other = GroupNorm(4, 16).double(), nn.GroupNorm(4, 16).double()
    for module in (own, other):
        with torch.no_grad():
            module.weight.copy_(torch.linspace(0.5, 2, 16)), module.bias.copy_(torch.linspace(-1, 1, 16))
    torch.testing.assert_close(own(x), other(x))


def test_calibrated_statistics_are_those_of_the_data() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        BatchNorm(3, statistics="population"), nn.Linear(3, 2), BatchNorm(2, statistics="population")
    ).eval()
    batches = [5 + 2 * torch.randn(400, 3) for _ in range(4)]
    calibrate(net, batches)
    torch.testing.assert_close(net[0].mean, torch.stack(batches).mean((0, 1)))
    z = net(torch.cat(batches))
    torch.testing.assert_close(z.mean(0), torch.zeros(2), atol=0.02, rtol=0)
    torch.testing.assert_close(z.std(0), torch.ones(2), atol=0.02, rtol=0)
    assert not net.training


@pytest.mark.parametrize("tracked", [False, True])
def test_conversion_keeps_values_and_leaves_the_original(tracked: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=tracked), nn.Sequential(nn.BatchNorm2d(4))
    )
    x = torch.randn(6, 1, 8, 8)
    net(x)
    own = convert_batch_norm(net)
    assert isinstance(net[1], nn.BatchNorm2d) and isinstance(own[1], BatchNorm) and isinstance(own[2][0], BatchNorm)
    torch.testing.assert_close(own(x), net(x))
    net.eval(), own.eval()
    converted = convert_batch_norm(net)
    torch.testing.assert_close(converted(x), net(x))


def test_each_inner_step_has_statistics_of_its_own() -> None:
    """Measured in training mode, they are those of a plain loop's activations in each step, and of the queries."""
    torch.manual_seed(0)
    norm = BatchNorm(6, statistics="per_step", steps=2)
    net = nn.Sequential(nn.Linear(8, 6), norm, nn.Tanh(), nn.Linear(6, WAY))
    learner, tasks = maml(net, way=WAY, inner_lr=0.5, steps=2), blobs(1, shot=4)
    assert not learner.transductive
    calibrate(learner, [tasks])
    params = dict(net.named_parameters())
    for step, part in enumerate((tasks.support, tasks.support, tasks.query)):
        z = part.x[0] @ params["0.weight"].T + params["0.bias"]
        torch.testing.assert_close(norm.mean[step], z.mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.variance[step], z.var(0, correction=0), rtol=1e-4, atol=1e-5)
        normal = F.batch_norm(z, None, None, params["1.weight"], params["1.bias"], True)
        loss = F.cross_entropy(torch.tanh(normal) @ params["3.weight"].T + params["3.bias"], part.y[0])
        grads = torch.autograd.grad(loss, list(params.values()))
        params = {n: p - 0.5 * g for (n, p), g in zip(params.items(), grads, strict=True)}
    assert not torch.allclose(norm.mean[0], norm.mean[1])


def test_statistics_of_the_step_are_used_and_queries_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    norm = BatchNorm(6, statistics="per_step", steps=2)
    norm.mean.copy_(torch.randn(3, 6)), norm.variance.uniform_(0.5, 2.0), norm.measured.fill_(True)
    learner = maml(nn.Sequential(nn.Linear(8, 6), norm, nn.Linear(6, WAY)), way=WAY, inner_lr=0.5, steps=2).eval()
    tasks = blobs(2)
    alone = learner.solve_inductive(tasks)
    torch.testing.assert_close(learner.solve(tasks), alone)
    before = norm.mean.clone()
    for row in range(3):  # every row takes part: the first two in adapting, the last in predicting
        norm.mean.copy_(before)[row].add_(1)
        assert not torch.allclose(learner.solve(tasks), alone)
