"""Estimators of the meta-gradient over long inner loops, against the whole loop differentiated exactly."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from upstairs.errors import UpstairsError
from upstairs.functional.differentiate import Params
from upstairs.learners import LSTMRule, MLPRule
from upstairs.learners.learned_optimizer.meta_train import (
    NetworkTraining,
    PersistentEvolution,
    TruncatedBackpropagation,
    Windows,
    mean_log,
    unroll,
)

STEPS, WINDOW = 6, 2
MEAN = torch.mean


class Rate(nn.Module):
    """phi <- phi - rate * gradient, its logarithm learned: one meta-parameter, whose gradient is known in full."""

    def __init__(self) -> None:
        super().__init__()
        self.log_rate = nn.Parameter(torch.tensor(-3.0, dtype=torch.float64))

    def init(self, params: Params) -> Params:
        return {n: torch.zeros_like(p) for n, p in params.items()}

    def update(self, grads: Params, state: Params, params: Params) -> tuple[Params, Params]:
        return {n: -self.log_rate.exp() * g for n, g in grads.items()}, state


def bowl() -> NetworkTraining:
    """Least squares, badly conditioned: the loss now and the loss later want different rates."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 2, generator=g, dtype=torch.float64) * torch.tensor([1.5, 0.3], dtype=torch.float64)
    y = x @ torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    make = partial(nn.Linear, 2, 1, bias=False, dtype=torch.float64)
    return NetworkTraining(make, x, y, batch=40, loss_fn=lambda p, y: (p - y).square().sum(-1))


def whole(training: NetworkTraining, rule: nn.Module, seed: int) -> Tensor:
    """The mean loss of a loop, written out: no code of the library's but the draw of start and minibatches."""
    (phi,) = training.start(seed).values()
    rate = rule.log_rate.exp()
    losses = []
    for x, y in training.minibatches(seed, 0, STEPS):
        error = x @ phi.T - y
        losses.append(error.square().sum(-1).mean())
        phi = phi - rate * 2 * error.T @ x / len(x)
    return torch.stack(losses).mean()


def exact(training: NetworkTraining, rule: nn.Module, seed: int) -> float:
    return float(torch.autograd.grad(whole(training, rule, seed), rule.log_rate)[0])


def estimate(
    estimator: PersistentEvolution | TruncatedBackpropagation, rule: nn.Module, loops: int, *, windows: int
) -> Tensor:
    """The gradient from each loop, a mean over its windows."""
    found = []
    for _ in range(loops):
        rule.zero_grad()
        for _ in range(windows):
            estimator.backward()
        found.append(rule.log_rate.grad.clone() / windows)
    return torch.stack(found)


def test_one_window_of_the_whole_loop_is_exact() -> None:
    training, rule = bowl(), Rate()
    got = estimate(
        TruncatedBackpropagation(rule, Windows([training], horizon=STEPS, window=STEPS), score=MEAN), rule, 3, windows=1
    )
    for seed, value in enumerate(got, start=1):
        assert value.item() == pytest.approx(exact(training, rule, seed), rel=1e-10)


@pytest.mark.parametrize("kind", [LSTMRule, MLPRule])
def test_truncated_gradients_are_those_of_finite_differences(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    training, rule = bowl(), kind(lr=0.1, hidden=2).double()
    nn.init.normal_(rule.head.weight, std=0.3)
    TruncatedBackpropagation(rule, Windows([training], horizon=4, window=4)).backward()
    start, batches = training.start(1), training.minibatches(1, 0, 4)

    def score() -> float:
        with torch.no_grad():
            return float(mean_log(unroll(rule, training, (start, ()), batches)[1]))

    for p in rule.parameters():
        flat, grad = p.data.view(-1), p.grad.view(-1)
        for k in range(len(flat)):
            before, sides = flat[k].item(), []
            for sign in (1e-6, -1e-6):
                flat[k] = before + sign
                sides.append(score())
            flat[k] = before
            assert grad[k].item() == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("window", [WINDOW, STEPS], ids=["PES", "ES"])
def test_evolution_is_unbiased_and_truncation_is_not(window: int) -> None:
    """The mean of 60 loops is within 4 standard errors of the exact gradient: false alarms, 1 in 16,000.

    Truncation misses the same target by more than 10 of PES's standard errors.
    """
    training, rule = bowl(), Rate()
    loops, windows = 60, STEPS // window
    own = Windows([training], horizon=STEPS, window=window)
    estimator = PersistentEvolution(rule, own, pairs=32, sigma=0.01, score=MEAN)
    got = estimate(estimator, rule, loops, windows=windows)
    right = torch.tensor([exact(training, rule, seed) for seed in range(1, loops + 1)], dtype=torch.float64)
    error = got - right  # of each loop from its own start
    assert abs(error.mean()) < 4 * error.std() / loops**0.5
    short = TruncatedBackpropagation(rule, Windows([training], horizon=STEPS, window=WINDOW), score=MEAN)
    biased = estimate(short, rule, loops, windows=STEPS // WINDOW)
    assert abs((biased - right).mean()) > 10 * error.std() / loops**0.5


def test_particles_are_loops_of_their_own() -> None:
    """PES by a plain loop over particles, with the same noise."""
    torch.manual_seed(0)
    training, rule = bowl(), MLPRule(lr=0.05, hidden=2).double()
    estimator = PersistentEvolution(rule, Windows([training], horizon=4, window=2, seed=5), pairs=3, sigma=0.1, seed=5)
    dice = torch.Generator().manual_seed(5)
    theta = [p.detach().clone() for p in rule.parameters()]
    carries = [(training.start(6), ()) for _ in range(6)]
    sums = [[torch.zeros_like(p) for p in theta] for _ in range(3)]
    for first in (0, 2):
        rule.zero_grad()
        estimator.backward()
        noise = [0.1 * torch.randn(3, *p.shape, generator=dice, dtype=p.dtype) for p in theta]
        expected = [torch.zeros_like(p) for p in theta]
        scores = []
        for particle in range(6):
            pair, sign = particle % 3, 1 if particle < 3 else -1
            other = MLPRule(hidden=2).double()
            with torch.no_grad():
                for p, t, e in zip(other.parameters(), theta, noise, strict=True):
                    p.copy_(t + sign * e[pair])
                carries[particle], losses = unroll(
                    other, training, carries[particle], training.minibatches(6, first, 2)
                )
            scores.append(mean_log(losses))
        for pair in range(3):
            for k, e in enumerate(noise):
                sums[pair][k] += e[pair]
                expected[k] += (scores[pair] - scores[pair + 3]) / (2 * 0.1**2 * 3) * sums[pair][k]
        for p, g in zip(rule.parameters(), expected, strict=True):
            torch.testing.assert_close(p.grad, g, rtol=1e-7, atol=1e-9)


def test_a_training_is_a_function_of_its_seed() -> None:
    training = bowl()
    state = torch.get_rng_state()
    a, b, c = training.start(1), training.start(1), training.start(2)
    assert torch.equal(a["weight"], b["weight"]) and not torch.equal(a["weight"], c["weight"])
    assert torch.equal(state, torch.get_rng_state())
    late = training.minibatches(1, 3, 1)[0]
    assert torch.equal(training.minibatches(1, 0, 5)[3][0], late[0])


def test_windows_must_fill_the_loop() -> None:
    with pytest.raises(UpstairsError, match="no whole number of windows of 3"):
        Windows([bowl()], horizon=8, window=3)


def test_loops_take_turns_on_the_trainings() -> None:
    """Windows follow each other; then the next seed's loop, of the next training."""
    one, other = bowl(), bowl()
    windows = Windows([one, other], horizon=4, window=2, seed=6)
    for seed, training in ((7, other), (8, one)):
        for first in (0, 2):
            start, batches = windows.following()
            assert (start is None) == (first == 2)
            assert torch.equal(batches[0][0], training.minibatches(seed, first, 1)[0][0])


@pytest.mark.filterwarnings("ignore")  # of torch itself, about torch.jit
def test_a_compiled_step_estimates_the_same() -> None:
    found = []
    for compile in (False, True):
        torch.manual_seed(0)
        rule = MLPRule(lr=0.05, hidden=2)
        training = NetworkTraining(
            partial(nn.Linear, 2, 1), bowl().x.float(), bowl().y.float(), 8, lambda p, y: (p - y).square().sum(-1)
        )
        estimator = PersistentEvolution(rule, Windows([training], horizon=6, window=3), pairs=2, compile=compile)
        for _ in range(4):
            estimator.backward()
        found.append([p.grad for p in rule.parameters()])
    for eager, program in zip(*found, strict=True):
        torch.testing.assert_close(program, eager, rtol=1e-3, atol=1e-4)
