"""Evolution strategies against autograd and against theory, and where there is no gradient at all."""

from pathlib import Path

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import upstairs
from helpers.tasks import double, sinusoids
from upstairs.core import Examples, Learner, Task, squared_error
from upstairs.engine.evolution import es_step, query_losses
from upstairs.engine.meta_backward import meta_backward
from upstairs.errors import NonFiniteError
from upstairs.learners import SGD, GradientLearner
from upstairs.tree import index

REPEATS = 120


def small() -> GradientLearner:
    """25 meta-parameters, smooth, in float64."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    return GradientLearner(net, SGD(0.05), way=None, steps=1)


def flat(learner: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in learner.parameters()])


def estimates(learner: Learner, tasks: Task) -> Tensor:
    found = []
    for _ in range(REPEATS):
        learner.zero_grad()
        es_step(learner, tasks, pairs=1, sigma=1e-4)
        found.append(flat(learner).clone())
    return torch.stack(found)


def test_its_cosine_with_autograd_has_the_distribution_of_theory() -> None:
    """One gradient and N = 10 pairs in d = 25 dimensions: cos^2 ~ Beta(N/2, (d-1)/2) (Kolmogorov and Smirnov, false
    alarms 1 in 1,000), and its mean N / (N + d - 1) within 4 standard errors (1 in 16,000)."""
    learner = small()
    one = double(sinusoids(1))
    meta_backward(learner, one)
    true = flat(learner).clone()
    ten = index(one, torch.zeros(10, dtype=torch.long))
    cosine = torch.cosine_similarity(estimates(learner, ten), true[None])
    assert (cosine > 0).all()
    n, d = 10, len(true)
    assert d == 25
    assert stats.kstest(cosine.square().numpy(), stats.beta(n / 2, (d - 1) / 2).cdf).pvalue > 1e-3
    error = cosine.square().std() / REPEATS**0.5
    assert abs(cosine.square().mean() - n / (n + d - 1)) < 4 * error


def test_it_is_unbiased_over_unlike_tasks_and_as_long_as_theory_says() -> None:
    """With gradients g_t of m tasks: E g^ = mean g and E |g^|^2 = |mean g|^2 + (d + 1) / m mean |g_t|^2, each within 4
    standard errors (false alarms 1 in 16,000 each)."""
    learner, tasks = small(), double(sinusoids(6))
    each = []
    for i in range(6):
        learner.zero_grad()
        meta_backward(learner, index(tasks, slice(i, i + 1)))
        each.append(flat(learner).clone())
    gradients = torch.stack(each)
    mean, d = gradients.mean(0), gradients.shape[1]
    found = estimates(learner, tasks)
    for direction in (mean / mean.norm(), torch.eye(d, dtype=torch.float64)[0]):
        along = found @ direction
        assert abs(along.mean() - mean @ direction) < 4 * along.std() / REPEATS**0.5
    length = found.square().sum(1)
    expected = mean.square().sum() + (d + 1) / 6 * gradients.square().sum(1).mean()
    assert abs(length.mean() - expected) < 4 * length.std() / REPEATS**0.5


def test_many_pairs_are_the_gradient() -> None:
    """N pairs of each of m tasks: cos near sqrt(N m / (N m + d)), here 0.98."""
    learner, tasks = small(), double(sinusoids(8))
    meta_backward(learner, tasks)
    true = flat(learner).clone()
    torch.manual_seed(1)
    learner.zero_grad()
    es_step(learner, tasks, pairs=100, sigma=1e-3)
    assert torch.cosine_similarity(flat(learner), true, 0) > 0.94
    torch.testing.assert_close(flat(learner).norm(), true.norm(), rtol=0.15, atol=0)


def test_each_task_has_its_own_meta_parameters() -> None:
    learner, tasks = small(), double(sinusoids(3))
    params = {n: torch.randn(3, *p.shape, dtype=p.dtype) for n, p in learner.named_parameters()}
    before = {n: p.clone() for n, p in learner.state_dict().items()}
    losses, predictions = query_losses(learner, tasks, params)
    for i in range(3):
        own = torch.func.functional_call(
            learner, {n: p[i] for n, p in params.items()}, (index(tasks, slice(i, i + 1)),)
        )
        torch.testing.assert_close(losses[i], own[0][0].detach())
        torch.testing.assert_close(predictions[i], own[1][0].detach())
    assert all(torch.equal(before[n], p) for n, p in learner.state_dict().items())
    assert all(isinstance(p, nn.Parameter) for p in learner.parameters())


def test_chunks_do_not_matter_and_frozen_parameters_stay() -> None:
    learner, tasks = small(), double(sinusoids(5))
    learner.net[0].weight.requires_grad_(False)
    found = []
    for chunk in (None, 1, 2):
        torch.manual_seed(3)
        learner.zero_grad()
        step = es_step(learner, tasks, pairs=2, sigma=0.01, chunk=chunk)
        assert learner.net[0].weight.grad is None
        found.append(torch.cat([p.grad.flatten() for p in learner.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])
    torch.testing.assert_close(step.losses, learner(tasks)[0].detach())


def test_a_loss_that_is_not_finite_is_named() -> None:
    learner, tasks = small(), double(sinusoids(4))
    tasks.query.x[2, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="loss of task 2") as caught:
        es_step(learner, tasks, pairs=1, sigma=0.1, chunk=2)
    assert caught.value.index == 2


class HillClimber(Learner[Tensor]):
    """No derivative anywhere: weights are rounded, and the inner loop keeps a change of them where the loss falls."""

    loss_fn = staticmethod(squared_error)

    def __init__(self, tries: int = 4, width: int = 12) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.bias = nn.Parameter(torch.randn(width)), nn.Parameter(torch.randn(width))
        self.outer = nn.Parameter(0.1 * torch.randn(width))
        self.register_buffer("changes", torch.randn(tries, width))

    def curve(self, outer: Tensor, x: Tensor) -> Tensor:
        w, b, v = ((64 * p).round() / 64 for p in (self.inner, self.bias, outer))
        return torch.tanh(x * w + b) @ v[:, None]

    def adapt(self, support: Examples, /) -> Tensor:
        best = self.outer
        for change in self.changes:
            losses = [support.mean(squared_error(self.curve(v, support.x), support.y)) for v in (best, best + change)]
            best = torch.where(losses[1] < losses[0], best + change, best)
        return best

    def predict(self, outer: Tensor, x: Tensor, /) -> Tensor:
        return self.curve(outer, x)


def test_it_trains_a_learner_whose_inner_loop_has_no_derivative() -> None:
    learner = HillClimber()
    meta_backward(learner, sinusoids(5))
    assert all(p.grad is None or (p.grad == 0).all() for p in learner.parameters()), "autograd sees nothing"
    before = learner(sinusoids(100, 9999))[0].mean().item()
    optimizer = torch.optim.Adam(learner.parameters(), lr=3e-2)
    for seed in range(70):
        learner.zero_grad()
        es_step(learner, sinusoids(25, seed), pairs=2, sigma=0.1)
        optimizer.step()
    after = learner(sinusoids(100, 9999))[0].mean().item()
    assert after < 0.75 * before, (before, after)


def test_it_is_a_choice_of_any_learner_and_the_default_of_es_maml(tmp_path: Path) -> None:
    budget = {"data": "sinusoid", "validations": 2, "validation_tasks": 40, "quiet": True}
    run = upstairs.train("es_maml", out=tmp_path / "es", steps=60, **budget)
    assert run.settings.estimator == "es"
    errors = [point["mse"] for point in run.history]
    assert errors[-1] < errors[0]
    assert upstairs.train("fomaml", out=tmp_path / "fo", steps=2, estimator="es", **budget).settings.estimator == "es"
    with pytest.raises(upstairs.UpstairsError, match="`pairs` is 0"):
        upstairs.train("es_maml", out=tmp_path / "no", pairs=0, **budget)
