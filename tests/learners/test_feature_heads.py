"""Heads on frozen features: the laws, the order of the support set, and each against something that shares no code."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.tasks import WAY, blobs, double
from upstairs.core import Examples
from upstairs.learners.metric.heads import HEADS, GaussianClasses, NearestMean, logistic
from upstairs.testing import check_learner
from upstairs.tree import index


def uneven(d: int = 40) -> tuple[Examples, torch.Tensor]:
    """A task in float64 whose classes have 1 to 5 examples and lie in a narrow cone, and its queries."""
    support, query = index(double(blobs(shot=5, shape=(d,), seed=3)), 0)
    keep = torch.tensor([int(k) > i % 5 - 1 for i, k in enumerate(support.y)])
    return Examples(support.x[keep] + 3, support.y[keep]), query.x + 3


def standardised(support: Examples, x: torch.Tensor, name: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Support and query features as the heads read them, written anew."""
    v, w = (t.numpy() / np.linalg.norm(t.numpy(), axis=1)[:, None] for t in (support.x, x))
    centre = np.mean([v[support.y.numpy() == k].mean(0) for k in range(WAY)], 0)
    v, w = v - centre, w - centre
    if name == "nearest_mean":
        spread = np.sqrt((v**2).sum(1).mean())
        return v / spread, w / spread
    return v / np.linalg.norm(v, axis=1)[:, None], w / np.linalg.norm(w, axis=1)[:, None]


@pytest.mark.parametrize("name", HEADS)
def test_laws(name: str) -> None:
    check_learner(HEADS[name](way=WAY), blobs())
    check_learner(HEADS[name](way=WAY), blobs(shot=3, shape=(40,)))
    check_learner(HEADS[name](way=WAY, encoder=nn.Linear(8, 6)), blobs())


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("d", [3, 40])
def test_order_changes_nothing_to_ten_digits(name: str, d: int) -> None:
    support, x = uneven(d)
    head, order = HEADS[name](way=WAY), torch.randperm(len(support.y), generator=torch.Generator().manual_seed(0))
    first = head.predict(head.adapt(support), x)
    again = head.predict(head.adapt(Examples(*(leaf[order] for leaf in support))), x)
    assert first.dtype == torch.float64
    torch.testing.assert_close(first, again, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("d", [6, 40])
def test_rotated_features_give_the_same_answers(name: str, d: int) -> None:
    support, x = uneven(d)
    turn = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    head = HEADS[name](way=WAY)
    turned = head.predict(head.adapt(support._replace(x=support.x @ turn)), x @ turn)
    assert head.rotation_invariant
    torch.testing.assert_close(head.predict(head.adapt(support), x), turned, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", HEADS)
def test_a_class_without_examples_is_never_named(name: str) -> None:
    support, x = uneven()
    head = HEADS[name](way=WAY + 1)
    logits = head.predict(head.adapt(support), x)
    assert (logits[:, WAY] == torch.finfo(torch.float64).min).all()
    known = HEADS[name](way=WAY)
    torch.testing.assert_close(logits[:, :WAY], known.predict(known.adapt(support), x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["ridge", "logistic_regression", "proker"])
@pytest.mark.parametrize("d", [6, 40])
def test_solvers_against_scikit_learn(name: str, d: int) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn (extra [sklearn]) is not installed")
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.linear_model import LogisticRegression, Ridge

    support, x = uneven(d)
    u, q = standardised(support, x)
    y, head = support.y.numpy(), HEADS[name](way=WAY)
    if name == "ridge":
        expected = Ridge(alpha=head.strength, fit_intercept=False).fit(u, np.eye(WAY)[y]).predict(q)
    elif name == "proker":
        model = KernelRidge(kernel="rbf", gamma=head.beta / 2, alpha=head.strength)
        expected = model.fit(u, np.eye(WAY)[y]).predict(q)
    else:
        model = LogisticRegression(C=1 / head.strength, fit_intercept=False, tol=1e-12, max_iter=10_000)
        expected = model.fit(head.sharpness * u, y).decision_function(head.sharpness * q)
    found = head.predict(head.adapt(support), x).numpy() / head.scale
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sharpness", [1.0, 5.0, 40.0])
def test_logistic_regression_reaches_the_minimum(sharpness: float) -> None:
    """The gradient of the objective by autograd, on separable classes too, where plain Newton steps diverge."""
    support, _ = uneven()
    u, y = F.normalize(support.x - support.x.mean(0), dim=1), F.one_hot(support.y, WAY).double()
    weight = logistic(u, y, strength=1.0, sharpness=sharpness, steps=60).requires_grad_()
    loss = F.cross_entropy(sharpness * u @ weight, support.y, reduction="sum") + weight.square().sum() / 2
    assert float(torch.autograd.grad(loss, weight)[0].abs().max()) < 1e-8


@pytest.mark.parametrize("name", ["nearest_mean", "cosine", "gemcl", "tip_adapter"])
@pytest.mark.parametrize("d", [6, 40])
def test_heads_against_a_loop(name: str, d: int) -> None:
    support, x = uneven(d)
    head, y = HEADS[name](way=WAY), support.y.numpy()
    u, q = standardised(support, x, name)
    means = [u[y == k].mean(0) for k in range(WAY)]
    within = sum(np.outer(a - means[k], a - means[k]) for a, k in zip(u, y, strict=True))
    expected = np.zeros((len(q), WAY))
    for i, a in enumerate(q):
        for k, c in enumerate(means):
            if name == "nearest_mean":
                expected[i, k] = -((a - c) ** 2).sum() / 2
            elif name == "cosine":
                expected[i, k] = a @ c / np.linalg.norm(c)
            elif name == "tip_adapter":
                expected[i, k] = sum(np.exp(-head.beta * (1 - a @ b)) for b in u[y == k])
            else:
                covariance = (within + head.strength * np.eye(d)) / (len(y) - WAY + head.freedom)
                far, zero = a - c, a @ np.linalg.solve(covariance, a) / 2
                expected[i, k] = zero - far @ np.linalg.solve(covariance, far) / 2
    found = head.predict(head.adapt(support), x).numpy() / head.scale
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_one_shot_gaussians_are_nearest_means_of_unit_features() -> None:
    support, query = index(double(blobs(shot=1)), 0)
    gaussian, nearest = GaussianClasses(way=WAY), NearestMean(way=WAY)
    nearest.unit = True
    a, b = (head.predict(head.adapt(support), query.x).softmax(-1) for head in (gaussian, nearest))
    assert torch.equal(a.argmax(-1), b.argmax(-1))
