"""Every method against the implicit function theorem, on logistic regression with a decay for each feature.

    inner(w) = mean log(1 + exp(-y x.w)) + 1/2 sum_i exp(lambda_i) w_i^2,   outer(w) = mean log(1 + exp(-y' x'.w))
    dJ/dlambda = -exp(lambda) w (H^-1 grad outer),   H = X^T D X / n + diag exp(lambda),   D = s (1 - s)

The right side is written out with numpy's linear algebra; nothing of it is the library's.
"""

from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from upstairs.bilevel import (
    SGD,
    Adam,
    ConjugateGradients,
    EvolutionStrategies,
    FiniteDifference,
    FirstOrderHypergradient,
    Forward,
    ImplicitHypergradient,
    Neumann,
    Nystrom,
    OneStep,
    PersistentES,
    Problem,
    Recomputed,
    Truncated,
    Unrolled,
    hypergradient,
)
from upstairs.errors import NonFiniteError, UpstairsError

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, in torch.func.jvp

FEATURES, STEPS = 6, 80


@cache
def data() -> tuple[np.ndarray, ...]:
    dice = np.random.default_rng(0)
    x, other = dice.normal(size=(40, FEATURES)), dice.normal(size=(40, FEATURES))
    w = dice.normal(size=FEATURES)
    return x, np.sign(x @ w + dice.normal(size=40)), other, np.sign(other @ w + dice.normal(size=40))


@cache
def decays() -> dict[str, Tensor]:
    return {"log_decay": torch.linspace(-1.5, 0.5, FEATURES, dtype=torch.float64)}


def logistic(w: Tensor, x: np.ndarray, y: np.ndarray) -> Tensor:
    return torch.nn.functional.softplus(-torch.as_tensor(y) * (torch.as_tensor(x) @ w)).mean()


def inner(params: dict[str, Tensor], meta: dict[str, Tensor], batch: Any) -> Tensor:
    x, y, *_ = data()
    return logistic(params["w"], x, y) + 0.5 * (meta["log_decay"].exp() * params["w"].square()).sum()


def outer(params: dict[str, Tensor], meta: dict[str, Tensor], batch: Any) -> Tensor:
    *_, x, y = data()
    return logistic(params["w"], x, y)


@cache
def closed_form() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The minimum w, the curvature H there and the hypergradient."""
    x, y, x2, y2 = data()
    decay = np.exp(decays()["log_decay"].numpy())

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        s = 1 / (1 + np.exp(y * (x @ w)))
        return np.log1p(np.exp(-y * (x @ w))).mean() + 0.5 * decay @ w**2, -x.T @ (y * s) / len(x) + decay * w

    w = minimize(loss, np.zeros(FEATURES), jac=True, method="BFGS", options={"gtol": 1e-9}).x
    for _ in range(3):  # Newton's steps, to the last bit
        s = 1 / (1 + np.exp(y * (x @ w)))
        h = x.T @ (x * (s * (1 - s))[:, None]) / len(x) + np.diag(decay)
        w = w - np.linalg.solve(h, loss(w)[1])
    s2 = 1 / (1 + np.exp(y2 * (x2 @ w)))
    v = -x2.T @ (y2 * s2) / len(x2)
    return w, h, -decay * w * np.linalg.solve(h, v)


PROBLEM = Problem(inner, outer, start={"w": torch.zeros(FEATURES, dtype=torch.float64)}, rule=SGD(0.8), steps=STEPS)
# each with the tolerance relative to the length of the hypergradient
AGREE = {
    "unrolled": (Unrolled(), 1e-8),
    "recomputed": (Recomputed(), 1e-8),
    "forward": (Forward(), 1e-8),
    "truncated": (Truncated(40), 1e-4),
    "conjugate gradients": (ImplicitHypergradient(ConjugateGradients(FEATURES)), 1e-8),
    "neumann": (ImplicitHypergradient(Neumann(400)), 1e-6),
    "nystrom": (ImplicitHypergradient(Nystrom(FEATURES, damping=1e-6)), 1e-5),
}


def right() -> Tensor:
    return torch.as_tensor(closed_form()[2])


def error(found: Tensor, true: Tensor) -> float:
    return float((found - true).norm() / true.norm())


@pytest.mark.parametrize("name", AGREE)
def test_it_agrees_with_the_implicit_function_theorem(name: str) -> None:
    method, tolerance = AGREE[name]
    torch.manual_seed(0)
    found = hypergradient(PROBLEM, decays(), method=method)
    assert error(found.gradients["log_decay"], right()) < tolerance
    torch.testing.assert_close(found.carry.parameters["w"], torch.as_tensor(closed_form()[0]), rtol=0, atol=1e-8)
    assert found.carry.step == STEPS and not found.carry.parameters["w"].requires_grad


class Newton:
    """A step that ends at the minimum: its memory of what came before is zero."""

    def init(self, params: dict[str, Tensor]) -> tuple[()]:
        return ()

    def update(self, grads: dict[str, Tensor], state: tuple[()], params: dict[str, Tensor]) -> Any:
        return {"w": -torch.linalg.solve(torch.as_tensor(closed_form()[1]), grads["w"])}, state


@pytest.mark.parametrize(
    ("method", "tolerance"), [(OneStep(), 1e-8), (FiniteDifference(), 1e-8), (FirstOrderHypergradient(), 1e-8)], ids=str
)
def test_one_step_is_exact_where_a_step_forgets_all(method: Any, tolerance: float) -> None:
    """The mixed derivative is linear in w here, so that a central difference has no error but rounding."""
    w = {"w": torch.as_tensor(closed_form()[0])}
    found = hypergradient(replace(PROBLEM, start=w, rule=Newton(), steps=1), decays(), method=method)
    assert error(found.gradients["log_decay"], right()) < tolerance


@pytest.mark.parametrize("method", [OneStep(), FiniteDifference(), FirstOrderHypergradient()], ids=str)
def test_one_step_of_gradient_descent_is_too_short_by_the_formula(method: Any) -> None:
    """At the minimum, dJ = -rate exp(lambda) w grad outer: H^-1 is taken for the rate."""
    w = torch.as_tensor(closed_form()[0])
    found = hypergradient(replace(PROBLEM, start={"w": w}, rule=SGD(0.3), steps=1), decays(), method=method)
    v = torch.func.grad(lambda w: outer({"w": w}, {}, None))(w)
    assert error(found.gradients["log_decay"], -0.3 * decays()["log_decay"].exp() * w * v) < 1e-8
    assert found.gradients["log_decay"].norm() < 0.7 * right().norm()


@pytest.mark.parametrize("kind", [EvolutionStrategies, PersistentES])
def test_evolution_agrees_with_the_theorem_on_average(kind: type) -> None:
    """40 estimates of 6 pairs; along each axis the mean is within 4.5 standard errors of the closed form: false alarms
    for all six together 1 in 2,800 (Student's t with 39 degrees of freedom). The loop is one step of Newton's, which
    from the minimum finds the next one to first order."""
    torch.manual_seed(1)
    near = replace(PROBLEM, start={"w": torch.as_tensor(closed_form()[0])}, rule=Newton(), steps=1)
    method = kind(pairs=6, sigma=1e-3)
    found = torch.stack([hypergradient(near, decays(), method=method).gradients["log_decay"] for _ in range(40)])
    mean, spread = found.mean(0), found.std(0) / 40**0.5
    assert ((mean - right()).abs() < 4.5 * spread).all()
    assert error(mean, right()) < 0.5, "the test can see something"


def test_persistent_evolution_sees_past_its_window_and_truncation_does_not() -> None:
    """Four windows of three steps of a slow loop; the sum of their hypergradients against the whole loop's, exact.

    The mean of 45 loops is within 4 standard errors along the truth (false alarms 1 in 2,500)."""
    torch.manual_seed(2)
    slow = replace(PROBLEM, rule=SGD(0.1), steps=3, start={"w": torch.ones(FEATURES, dtype=torch.float64)})
    true = sum(
        hypergradient(replace(slow, steps=3 * w), decays(), method=Unrolled()).gradients["log_decay"]
        for w in range(1, 5)
    )

    def loop(method: Any) -> Tensor:
        carry, total = None, torch.zeros(FEATURES, dtype=torch.float64)
        for _ in range(4):
            found = hypergradient(slow, decays(), method=method, carry=carry)
            carry, total = found.carry, total + found.gradients["log_decay"]
        assert carry.step == 12
        return total

    along = torch.stack([loop(PersistentES(pairs=4, sigma=1e-2)) for _ in range(45)]) @ true / true.square().sum()
    spread = along.std() / 45**0.5
    assert abs(along.mean() - 1) < 4 * spread
    assert 1 - loop(Unrolled()) @ true / true.square().sum() > 4 * spread


def finite_difference(problem: Problem, meta: dict[str, Tensor], e: float = 1e-5) -> Tensor:
    flat = torch.cat([p.flatten() for p in meta.values()])

    def value(v: Tensor) -> Tensor:
        parts = v.split([p.numel() for p in meta.values()])
        own = {n: part.view_as(p) for (n, p), part in zip(meta.items(), parts, strict=True)}
        return hypergradient(problem, own, method=EvolutionStrategies(pairs=1)).outer

    rows = torch.eye(len(flat), dtype=flat.dtype)
    return torch.stack([(value(flat + e * row) - value(flat - e * row)) / (2 * e) for row in rows])


def everything() -> tuple[Problem, dict[str, Tensor]]:
    """Meta-parameters in the start, in the rule, in the inner loss of one late step alone, and in the outer loss."""
    meta = {
        **decays(),
        "lr": torch.tensor(0.3, dtype=torch.float64),
        "start": torch.linspace(-1, 1, FEATURES, dtype=torch.float64),
        "late": torch.tensor([0.2, -0.1], dtype=torch.float64),
        "outside": torch.tensor(0.5, dtype=torch.float64),
    }
    problem = Problem(
        inner=lambda p, m, k: inner(p, m, k) + (p["w"][:2] * m["late"]).sum() * (k == 3),
        outer=lambda p, m, b: outer(p, m, b) + m["outside"] * p["w"].square().sum(),
        start=lambda m: {"w": m["start"]}, rule=lambda m: Adam(m["lr"]), steps=5, inner_batch=lambda k: k,
    )  # fmt: skip
    return problem, meta


@pytest.mark.parametrize("method", [Unrolled(), Recomputed(), Forward()], ids=str)
def test_exact_methods_reach_every_place_a_meta_parameter_can_be(method: Any) -> None:
    problem, meta = everything()
    found = torch.cat([g.flatten() for g in hypergradient(problem, meta, method=method).gradients.values()])
    torch.testing.assert_close(found, finite_difference(problem, meta), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("method", [Unrolled(), Recomputed(), Forward()], ids=str)
def test_a_loop_in_two_parts_is_the_same_loop(method: Any) -> None:
    """Where the first part's parameters count as constants: the second part alone is differentiated."""
    problem, meta = everything()
    first = hypergradient(replace(problem, steps=2), meta, method=method)
    second = hypergradient(replace(problem, steps=3), meta, method=method, carry=first.carry)
    whole = hypergradient(problem, meta, method=Truncated(3))
    torch.testing.assert_close(second.outer, whole.outer)
    for name, g in whole.gradients.items():
        torch.testing.assert_close(second.gradients[name], g)


def test_an_adaptive_rule_is_seen_through() -> None:
    """FiniteDifference is OneStep for Adam too, to the error of a central difference."""
    problem, meta = everything()
    problem = replace(problem, start={"w": torch.ones(FEATURES, dtype=torch.float64)})
    exact, near = (hypergradient(problem, meta, method=m).gradients for m in (OneStep(), FiniteDifference(1e-4)))
    for name, g in exact.items():
        torch.testing.assert_close(near[name], g, rtol=1e-6, atol=1e-9)


def test_what_cannot_be_is_refused_in_a_line() -> None:
    with pytest.raises(UpstairsError, match=r"'n' is a tensor of torch\.int64: a hypergradient needs floating"):
        hypergradient(PROBLEM, {"n": torch.ones(2, dtype=torch.long)}, method=Unrolled())
    with pytest.raises(UpstairsError, match="there are no meta-parameters"):
        hypergradient(PROBLEM, {}, method=Unrolled())
    with pytest.raises(UpstairsError, match="0 steps"):
        replace(PROBLEM, steps=0)
    with pytest.raises(UpstairsError, match="outer loss must be one number"):
        hypergradient(replace(PROBLEM, outer=lambda p, m, b: p["w"]), decays(), method=Unrolled())
    with pytest.raises(UpstairsError, match="damping is 0"):
        Nystrom(damping=0.0)
    with pytest.raises(NonFiniteError, match=r"outer loss is (nan|inf) after 80 inner steps and so is.*'w'"):
        wild = replace(PROBLEM, inner=lambda p, m, b: (m["log_decay"] * p["w"] ** 4).sum() + p["w"].sum())
        hypergradient(wild, decays(), method=Unrolled())
    with pytest.raises(NonFiniteError, match="hypergradient of 'log_decay' by Unrolled is not finite"):
        root = replace(PROBLEM, outer=lambda p, m, b: (0 * p["w"]).norm() + (m["log_decay"] * 0).sum().sqrt())
        hypergradient(root, decays(), method=Unrolled())


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * g * ctx.saved_tensors[0]


@pytest.mark.parametrize("method", [Unrolled(), Recomputed(), ImplicitHypergradient()], ids=str)
def test_an_operation_without_a_second_derivative_is_named_and_first_order_takes_it(method: Any) -> None:
    problem = replace(PROBLEM, inner=lambda p, m, b: (m["log_decay"].exp() * Once.apply(p["w"])).sum(), steps=2,
                      start={"w": torch.ones(FEATURES, dtype=torch.float64)}, rule=SGD(0.1))  # fmt: skip
    with pytest.raises(UpstairsError, match="once_differentiable"):
        hypergradient(problem, decays(), method=method)
    smooth = replace(problem, inner=lambda p, m, b: (m["log_decay"].exp() * p["w"].square()).sum())
    got, true = (
        hypergradient(p, decays(), method=FirstOrderHypergradient()).gradients["log_decay"] for p in (problem, smooth)
    )
    torch.testing.assert_close(got, true)


@pytest.mark.parametrize("method", [Unrolled(), Recomputed(), FiniteDifference(), EvolutionStrategies()], ids=str)
def test_meta_parameters_are_left_alone(method: Any) -> None:
    meta = {"log_decay": decays()["log_decay"].clone().requires_grad_()}
    hypergradient(replace(PROBLEM, steps=3), meta, method=method)
    assert meta["log_decay"].grad is None and torch.equal(meta["log_decay"].detach(), decays()["log_decay"])


def test_methods_print_their_settings() -> None:
    shown = str(ImplicitHypergradient(Neumann(5)))
    assert shown == "ImplicitHypergradient(solver=Neumann(terms=5, lr=None, damping=0.0))"
    assert partial(Truncated, 3)() == Truncated(last=3)
