"""Ridge regression against numpy, the support vector machine against scipy, both against finite differences."""

import numpy as np
import pytest
import torch
from scipy.optimize import LinearConstraint, minimize
from torch import Tensor, nn
from torch.func import functional_call

from helpers.tasks import WAY, blobs, double, sinusoids
from upstairs.core import Examples, Learner, squared_error
from upstairs.engine.meta_backward import meta_backward
from upstairs.learners import R2D2, MetaOptNet
from upstairs.learners.metric.closed_form import onto_simplex, ridge, svm_dual
from upstairs.nets import mlp
from upstairs.testing import check_learner
from upstairs.tree import index


def net(out: int, inputs: int = 8) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, out), nn.Tanh())


@pytest.mark.parametrize("d", [3, 40], ids=["more examples than features", "fewer"])
def test_ridge_is_least_squares_with_the_penalty_as_rows(d: int) -> None:
    """|z W - y|^2 + s |W|^2 = |[z; sqrt(s) I] W - [y; 0]|^2, which numpy solves by singular values."""
    rng = np.random.default_rng(0)
    z, y, strength = rng.normal(size=(12, d)), rng.normal(size=(12, 4)), 0.7
    rows = np.concatenate([z, np.sqrt(strength) * np.eye(d)]), np.concatenate([y, np.zeros((d, 4))])
    expected = np.linalg.lstsq(*rows, rcond=None)[0]
    found = ridge(torch.from_numpy(z), torch.from_numpy(y), torch.tensor(strength, dtype=torch.float64))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_r2d2_by_numpy() -> None:
    torch.manual_seed(0)
    learner = R2D2(net(30), way=WAY, strength=2.0, scale=3.0).double()
    task = index(double(blobs(1)), 0)
    z, queries = (learner.encoder(part.x).detach().numpy() for part in task)
    onehot = np.eye(WAY)[task.support.y.numpy()]
    expected = 3 * queries @ np.linalg.inv(z.T @ z + 2 * np.eye(30)) @ z.T @ onehot
    found = learner.predict(learner.adapt(task.support), task.query.x)
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-6, atol=1e-7)


def gradcheck(learner: Learner, tasks) -> None:
    names = [name for name, _ in learner.named_parameters()]

    def loss(*values: Tensor) -> Tensor:
        return functional_call(learner, dict(zip(names, values, strict=True)), (tasks,))[0].mean()

    assert torch.autograd.gradcheck(loss, tuple(learner.parameters()))


@pytest.mark.parametrize("out", [4, 12], ids=["more examples than features", "fewer"])
def test_gradcheck_r2d2(out: int) -> None:
    torch.manual_seed(0)
    gradcheck(R2D2(net(out), way=WAY).double(), double(blobs(2)))


@pytest.mark.parametrize("cost", [0.1, 2.0], ids=["margins given up", "margins kept"])
def test_gradcheck_of_the_support_vector_machine(cost: float) -> None:
    """In the embeddings, through all steps of the solver."""
    z, member = problem()

    def weight(z: Tensor) -> Tensor:
        return z.T @ svm_dual(z, member[::4], cost=cost, iterations=30)

    assert torch.autograd.gradcheck(weight, z[::4].detach().requires_grad_())


def test_ridge_regression_of_sinusoids() -> None:
    torch.manual_seed(0)
    learner = R2D2(net(6, 1), way=None, loss_fn=squared_error)
    check_learner(learner, sinusoids())
    gradcheck(learner.double(), double(sinusoids(2)))


def test_ridge_regression_learns_to_learn() -> None:
    """Ten examples of an unseen sinusoid: features that were meta-learned halve the error of random ones."""
    torch.manual_seed(0)
    learner = R2D2(mlp((1,)), way=None, loss_fn=squared_error)
    optimizer = torch.optim.Adam(learner.parameters(), lr=3e-3)
    before = learner(sinusoids(100, 9999))[0].mean().item()
    for seed in range(150):
        learner.zero_grad()
        meta_backward(learner, sinusoids(25, seed))
        optimizer.step()
    assert learner(sinusoids(100, 9999))[0].mean().item() < 0.5 * before


def test_onto_simplex_is_the_nearest_point() -> None:
    """The nearest point of a convex set has an angle of 90 degrees or more with the way to any other."""
    g = torch.Generator().manual_seed(0)
    v = 2 * torch.randn(50, WAY, generator=g, dtype=torch.float64)
    seen = torch.tensor([True, True, False, True, True])
    near = onto_simplex(v, 0.7, seen)
    torch.testing.assert_close(near.sum(-1), torch.full((50,), 0.7, dtype=torch.float64))
    assert (near >= 0).all()
    assert (near[:, 2] == 0).all()
    for k in seen.nonzero().flatten().tolist():
        corner = torch.zeros(WAY, dtype=torch.float64)
        corner[k] = 0.7
        assert (((v - near) * (corner - near))[:, seen].sum(-1) < 1e-12).all()


def problem() -> tuple[Tensor, Tensor]:
    """Embeddings of a task that no linear head separates, so that some margins are not kept."""
    support = index(double(blobs(1, shot=4)), 0).support
    return 0.3 * support.x, torch.eye(WAY, dtype=torch.float64)[support.y]


def primal(weight: np.ndarray, z: np.ndarray, member: np.ndarray, cost: float) -> float:
    scores = z @ weight
    own = (scores * member).sum(1)
    return 0.5 * (weight**2).sum() + cost * (scores + 1 - member - own[:, None]).max(1).sum()


@pytest.mark.parametrize("cost", [0.1, 2.0])
def test_svm_against_scipy(cost: float) -> None:
    """The dual as a quadratic program for scipy's sequential method; the primal is equal to it at the solution."""
    z, member = problem()
    n = len(z)
    gram = (z @ z.T).numpy()
    y = member.numpy().ravel()

    def value(flat: np.ndarray) -> float:
        a = flat.reshape(n, WAY)
        return 0.5 * (a * (gram @ a)).sum() - flat @ y

    result = minimize(
        value,
        np.zeros(n * WAY),
        jac=lambda flat: (gram @ flat.reshape(n, WAY)).ravel() - y,
        method="SLSQP",
        bounds=[(None, cost * hit) for hit in y],
        constraints=[LinearConstraint(np.kron(np.eye(n), np.ones(WAY)), 0, 0)],
        options={"ftol": 1e-12, "maxiter": 1000},
    )
    exact = svm_dual(z, member, cost=cost, iterations=3000)
    assert (exact <= cost * member + 1e-9).all()
    torch.testing.assert_close(exact.sum(1), torch.zeros(n, dtype=torch.float64))
    assert value(exact.numpy().ravel()) == pytest.approx(result.fun, rel=1e-5)
    weight = (z.T @ exact).numpy()
    np.testing.assert_allclose(weight, z.numpy().T @ result.x.reshape(n, WAY), atol=2e-3)
    assert primal(weight, z.numpy(), member.numpy(), cost) == pytest.approx(-value(exact.numpy().ravel()), rel=1e-5)


def test_the_default_number_of_steps_is_near_the_solution() -> None:
    for seed in range(5):
        support = index(double(blobs(1, seed, shot=1)), 0).support
        member = torch.eye(WAY, dtype=torch.float64)[support.y]
        few, many = (svm_dual(support.x, member, cost=0.1, iterations=k) for k in (30, 3000))
        assert (support.x.T @ (few - many)).norm() < 0.01 * (support.x.T @ many).norm()


def test_padding_has_no_dual_variables() -> None:
    z, member = problem()
    padded = svm_dual(torch.cat([z, 100 * z[:3]]), torch.cat([member, 0 * member[:3]]), cost=0.1, iterations=30)
    torch.testing.assert_close(padded[:-3], svm_dual(z, member, cost=0.1, iterations=30))
    assert (padded[-3:] == 0).all()


@pytest.mark.parametrize("make", [R2D2, MetaOptNet])
def test_a_class_that_is_not_in_the_support_set_is_never_the_answer(make) -> None:
    learner = make(net(6), way=WAY)
    support, query = index(blobs(1), 0)
    kept = support.y != 2
    less = Examples(support.x[kept], support.y[kept], support.mask[kept])
    masked = support._replace(mask=support.mask & kept)
    prediction = learner.predict(learner.adapt(masked), query.x)
    assert (prediction.argmax(-1) != 2).all()
    torch.testing.assert_close(prediction, learner.predict(learner.adapt(less), query.x))
