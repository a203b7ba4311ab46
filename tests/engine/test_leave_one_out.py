"""Leave-one-out against a loop, the choice of a head, temperature, calibration error and conformal sets."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.tasks import WAY, blobs, double
from upstairs.core import Examples, Learner
from upstairs.engine import leave_one_out as module
from upstairs.engine.leave_one_out import (
    DEFAULT,
    ONE_SHOT,
    choose_by,
    choose_head,
    conformal_bar,
    leave_one_out,
    parts_of,
    prediction_sets,
    temperature,
)
from upstairs.engine.metrics import expected_calibration_error
from upstairs.learners import HEADS, ProtoNet
from upstairs.nets import conv4, mlp
from upstairs.tree import index


def looped(learner: Learner, support: Examples, folds: int | None = None) -> Tensor:
    """Leave-one-out as a reader of a textbook would write it."""
    part = parts_of(support, folds)
    part[support.mask & (support.y[support.mask].bincount(minlength=learner.way)[support.y] < 2)] = -1  # never left out
    out = torch.full((len(support.y), learner.way), torch.nan, dtype=support.x.dtype)
    for p in range(int(part.max()) + 1):
        keep, gone = support.mask & (part != p), support.mask & (part == p)
        with torch.no_grad():
            state = learner.eval().adapt(Examples(support.x[keep], support.y[keep]))
            out[gone] = learner.predict(state, support.x[gone])
    return out


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("shape", [(8,), (40,)])
def test_against_a_loop(name: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = double(blobs(count=3, shot=4, shape=shape)).support
    head = HEADS[name](way=WAY)
    expected = torch.stack([looped(head, index(tasks, i)) for i in range(3)])
    torch.testing.assert_close(leave_one_out(head, tasks), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(leave_one_out(head, index(tasks, 1)), expected[1], rtol=1e-9, atol=1e-9)
    monkeypatch.setattr(module, "VALUES", 1)  # one fit at a time
    torch.testing.assert_close(leave_one_out(head, tasks), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(8,), (1, 16, 16)])
def test_any_learner(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net = mlp(shape) if len(shape) == 1 else conv4(shape, width=8, norm="group")
    learner, support = ProtoNet(net, way=WAY), index(blobs(shot=3, shape=shape), 0).support
    found = leave_one_out(learner, support, folds=2)
    torch.testing.assert_close(found, looped(learner, support, 2), rtol=1e-4, atol=1e-4)


def test_one_example_of_each_class_is_left_out_at_a_time() -> None:
    support = index(blobs(shot=4), 0).support
    part = parts_of(support, None)
    for p in range(4):
        assert support.y[part == p].tolist() == list(range(WAY))
    many = Examples(torch.randn(90, 3, generator=torch.Generator().manual_seed(0)), torch.arange(90) % 3)
    assert parts_of(many, None).bincount().tolist() == [9] * 10


@pytest.mark.parametrize(("count", "parts"), [(40, 10), (1000, 10), (2000, 5), (8000, 3)])
def test_many_examples_are_left_out_in_fewer_parts(count: int, parts: int) -> None:
    """Ten fits of logistic regression on 4,500 examples each took 36 s."""
    y = torch.arange(count) % 2
    part = parts_of(Examples(torch.randn(count, 3), y), None)
    assert part.unique().tolist() == list(range(parts))
    assert part.bincount().max() - part.bincount().min() <= 2


def test_what_cannot_be_told_is_nan() -> None:
    """Padding, and the only example of a class, which is never left out of the other fits."""
    x, y, _ = index(blobs(shot=3), 0).support
    keep = torch.arange(len(y)) > 1  # class 0 has a single example
    mask = torch.arange(int(keep.sum())) != 4
    support, head = Examples(x[keep], y[keep], mask), HEADS["ridge"](way=WAY)
    found = leave_one_out(head, support)
    known = mask & (support.y > 0)
    assert torch.equal(found.isfinite().all(1), known)
    assert (found[known] > torch.finfo(torch.float32).min).all()  # class 0 is known in every fit
    torch.testing.assert_close(found[known], looped(head, support)[known])
    assert leave_one_out(head, Examples(x[:1], y[:1])).isnan().all()


@pytest.mark.parametrize("shot", [3, 12])
def test_the_order_of_the_examples_changes_nothing(shot: int) -> None:
    support = index(double(blobs(shot=shot, shape=(60,))), 0).support
    order = torch.randperm(len(support.y), generator=torch.Generator().manual_seed(2))
    shuffled = Examples(*(leaf[order] for leaf in support))
    first, again = choose_head(support), choose_head(shuffled)
    assert first.name == again.name
    torch.testing.assert_close(first.logits[order], again.logits, rtol=1e-10, atol=1e-10)
    assert math.isclose(first.temperature, again.temperature, rel_tol=1e-10)


class Last(nn.Module):
    """Reads the last two numbers alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, -2:]


def test_the_choice() -> None:
    support = index(blobs(shot=5, shape=(20,)), 0).support
    bad, good = (lambda way: HEADS["cosine"](way=way, encoder=Last())), HEADS["cosine"]
    chosen = choose_head(support, heads={"bad": bad, "good": good})
    assert chosen.name == "good" and chosen.learner.way == WAY
    torch.testing.assert_close(chosen.logits, leave_one_out(good(way=WAY), support))
    assert choose_head(support, heads={"good": good, "bad": bad}).name == "good"
    assert choose_head(support, heads={"first": good, "same": good}).name == "first"
    single = Examples(*(leaf[::5] for leaf in support))
    chosen = choose_head(single)
    assert chosen.name == ONE_SHOT and chosen.temperature == 1 and chosen.logits.isnan().all()
    assert choose_head(support, way=WAY + 1).learner.way == WAY + 1


def test_a_difference_within_chance_leaves_the_default() -> None:
    """Seven equally good heads, with noise of their own: another is taken in 5% of tasks.

    Of 60 tasks at most 9: three and a half standard errors, a false alarm in one of 300 runs, and the seed is fixed.
    """
    g = torch.Generator().manual_seed(0)
    taken = 0
    for _ in range(60):
        y = torch.arange(25) % 5
        centre = F.one_hot(y, 5) * 2.0
        logits = {name: centre + torch.randn(25, 5, generator=g) for name in HEADS}
        taken += choose_by(logits, y)[0] != DEFAULT
    assert 0 < taken <= 9


def test_temperature_is_the_minimum() -> None:
    from scipy.optimize import minimize_scalar

    g = torch.Generator().manual_seed(0)
    y = torch.arange(40) % 4
    logits = 3 * (F.one_hot(y, 4) + torch.randn(40, 4, generator=g)).double()

    def objective(u: float) -> float:
        return float(F.cross_entropy(logits * math.exp(-u), y, reduction="sum")) + u * u / 2

    best = minimize_scalar(objective, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9}).x
    assert math.isclose(temperature(logits, y), math.exp(best), rel_tol=1e-6)
    gaps = torch.cat([logits, torch.full((3, 4), torch.nan)])
    assert math.isclose(temperature(gaps, torch.cat([y, y[:3]])), math.exp(best), rel_tol=1e-6)
    lowest = torch.cat([logits, torch.full((40, 1), -1e308, dtype=torch.float64)], 1)
    assert math.isclose(temperature(lowest, y), math.exp(best), rel_tol=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_few_examples_give_no_extreme_temperature(sign: int) -> None:
    logits = sign * 4.0 * torch.eye(3)
    assert 1 / 3 < temperature(logits, torch.arange(3)) < 12
    assert temperature(logits[:0], torch.arange(0)) == 1


def test_calibration_error_against_a_loop() -> None:
    g = np.random.default_rng(0)
    p = g.dirichlet(np.ones(4), 200)
    y = g.integers(0, 4, 200)
    expected = 0.0
    for low in np.arange(15) / 15:
        rows = [(row.max(), row.argmax() == k) for row, k in zip(p, y, strict=True) if low <= row.max() < low + 1 / 15]
        if rows:
            confidence, right = np.mean(rows, axis=0)
            expected += len(rows) / 200 * abs(confidence - right)
    assert math.isclose(expected_calibration_error(p, y), expected, rel_tol=1e-9)
    assert expected_calibration_error(np.eye(4), np.arange(4)) == 0


@pytest.mark.parametrize("count", [9, 10, 25, 200])
def test_conformal_coverage_is_exact(count: int) -> None:
    """With scores uniform on [0, 1] the bar is the coverage: its mean over 1,000 draws is 90%.

    The standard error is at most 0.003: five of them are a false alarm in two of a million
    runs, and the seed is fixed.
    """
    g = torch.Generator().manual_seed(count)
    y = torch.zeros(count, dtype=torch.long)
    bars = []
    for _ in range(1000):
        p = torch.rand(count, 1, generator=g, dtype=torch.float64)
        bars.append(conformal_bar(torch.cat([p, 1 - p], 1), y))
    assert abs(np.mean(bars) - 0.9) < 0.015


def test_too_few_examples_put_every_class_in_every_set() -> None:
    p = torch.tensor([[0.9, 0.1]]).expand(8, 2)
    bar = conformal_bar(p, torch.zeros(8, dtype=torch.long))
    assert bar == 1 and prediction_sets(p, bar).all()
    assert conformal_bar(torch.full((5, 2), torch.nan), torch.zeros(5, dtype=torch.long)) == 1


def test_sets() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2], [0.9, 0.06, 0.04], [0.4, 0.35, 0.25]])
    assert prediction_sets(p, 0.7).tolist() == [[True, True, False], [True, False, False], [True, True, False]]
    assert prediction_sets(p, 0.55).tolist() == [[True, False, False], [True, False, False], [False] * 3]
    assert prediction_sets(p, 0.55, never_empty=True)[2].tolist() == [True, False, False]
