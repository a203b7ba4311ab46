"""Regression tasks: a pure function of the seed, of the distribution that is stated, with an answer that is known."""

import numpy as np
import pytest
import torch
from scipy import stats

from upstairs.core import Task
from upstairs.data.episodes import Episodes
from upstairs.data.readers import reader_for
from upstairs.data.regression.functions import FUNCTIONS, GaussianProcess, Sinusoids
from upstairs.data.source import function_source
from upstairs.engine.evaluate import frozen_seeds, score_tasks
from upstairs.engine.metrics import score_kind
from upstairs.errors import UpstairsError
from upstairs.learners import GaussianPosterior, SupportMean
from upstairs.testing import check_learner


def episodes(name: str, shot: int | tuple[int, int] = 5, query: int = 10) -> Episodes:
    return Episodes(function_source(FUNCTIONS[name]), shot=shot, query=query)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_task_depends_on_its_seed_alone(name: str) -> None:
    some = episodes(name, (2, 6))
    whole = some.batch([5, 99, 2**40, 7])
    again = Task(*(type(p)(*(leaf[2:3] for leaf in p)) for p in whole))
    alone = some.batch([2**40])
    assert all(torch.equal(a, b) for p, q in zip(again, alone, strict=True) for a, b in zip(p, q, strict=True))
    assert whole.support.x.shape == whole.support.y.shape == (4, 6, 1) and whole.query.y.shape == (4, 10, 1)
    assert len({int(n) for n in some.batch(range(40)).support.mask.sum(1)}) == 5  # 2 to 6 examples
    assert (whole.support.x[~whole.support.mask] == 0).all()
    assert not torch.equal(whole.query.y[0], whole.query.y[1])


def test_sinusoids_are_those_of_the_paper() -> None:
    """Amplitude and phase from the points alone: a sin x cos b + a cos x sin b is linear. Uniform in their ranges
    (Kolmogorov and Smirnov, false alarms 1 in 1,000 each)."""
    tasks = episodes("sinusoid", 5, 10).batch(range(400))
    found = []
    for x, y in zip(tasks.query.x[..., 0].double().numpy(), tasks.query.y[..., 0].double().numpy(), strict=True):
        (s, c), rest, *_ = np.linalg.lstsq(np.stack([np.sin(x), np.cos(x)], 1), y, rcond=None)
        assert rest < 1e-9
        found.append((np.hypot(s, c), np.arctan2(c, s)))
    amplitude, phase = np.array(found).T
    assert stats.kstest(amplitude, stats.uniform(0.1, 4.9).cdf).pvalue > 1e-3
    assert stats.kstest(phase % (2 * np.pi), stats.uniform(0, np.pi).cdf).pvalue > 1e-3
    assert stats.kstest(tasks.support.x.flatten().numpy(), stats.uniform(-5, 10).cdf).pvalue > 1e-3


def test_gaussian_process_has_its_covariance() -> None:
    """Each task whitened by numpy's own covariance is standard normal (false alarms 1 in 1,000)."""
    process = GaussianProcess(length=0.7, noise=0.2)
    tasks = Episodes(function_source(process), shot=4, query=8).batch(range(300))
    x = torch.cat([tasks.support.x, tasks.query.x], 1)[..., 0].double().numpy()
    y = torch.cat([tasks.support.y, tasks.query.y], 1)[..., 0].double().numpy()
    white = []
    for a, b in zip(x, y, strict=True):
        covariance = np.exp(-((a[:, None] - a) ** 2) / (2 * 0.7**2)) + 0.2**2 * np.eye(len(a))
        white.append(np.linalg.solve(np.linalg.cholesky(covariance), b))
    assert stats.kstest(np.ravel(white), "norm").pvalue > 1e-3
    assert abs(stats.zscore(np.ravel(white))).max() < 6


@pytest.mark.parametrize("shot", [1, 5, (2, 12)])
def test_the_exact_posterior_equals_numpys_closed_form(shot: int | tuple[int, int]) -> None:
    process = GaussianProcess()
    tasks = episodes("gp", shot).batch(range(20))
    found = GaussianPosterior(process).solve(Task(*(type(p)(p.x.double(), p.y.double(), p.mask) for p in tasks)))
    for i in range(20):
        keep = tasks.support.mask[i].numpy()
        a, b, q = (t.double().numpy() for t in (tasks.support.x[i], tasks.support.y[i], tasks.query.x[i]))
        a, b = a[keep], b[keep]

        def k(u: np.ndarray, v: np.ndarray) -> np.ndarray:
            return np.exp(-0.5 * (u - v.T) ** 2 / process.length**2)

        expected = k(q, a) @ np.linalg.inv(k(a, a) + process.noise**2 * np.eye(len(a))) @ b
        np.testing.assert_allclose(found[i, :, :1].numpy(), expected, atol=1e-7)


def test_the_exact_posterior_is_the_best_there_is() -> None:
    """Better than the mean, and than the posterior of any other length or noise (paired, t above 3)."""
    some, seeds = episodes("gp", 8, 20), frozen_seeds(0, 400)
    best = score_tasks(GaussianPosterior(GaussianProcess()), some, seeds)
    others = [SupportMean(), *(GaussianPosterior(GaussianProcess(length=s)) for s in (0.35, 0.75))]
    others.append(GaussianPosterior(GaussianProcess(noise=0.4)))
    for other in others:
        assert stats.ttest_rel(score_tasks(other, some, seeds), best).statistic > 3
    assert best.mean() > GaussianProcess().noise ** 2


def test_opponents_keep_the_laws() -> None:
    check_learner(SupportMean(), episodes("sinusoid").batch(range(3)))
    check_learner(GaussianPosterior(GaussianProcess()), episodes("gp").batch(range(3)))


def test_squared_error_is_judged_and_padding_is_not() -> None:
    some = episodes("sinusoid", 3, 4)
    kind, tasks = score_kind(some), some.batch(range(5))
    assert kind.name == "mse" and kind.better(0.1, 0.2)
    off = tasks.query.y + torch.tensor([1.0, -2.0, 3.0, 0.0])[:, None]
    np.testing.assert_allclose(kind.of(off, tasks), [14 / 4] * 5, rtol=1e-5)
    cut = tasks.query.mask.clone()
    cut[:, 2] = False
    np.testing.assert_allclose(
        kind.of(off, tasks._replace(query=tasks.query._replace(mask=cut))), [5 / 3] * 5, rtol=1e-5
    )


def test_ways_are_refused() -> None:
    with pytest.raises(UpstairsError, match="`way` is 5 and sinusoid is regression"):
        Episodes(function_source(Sinusoids()), way=5, shot=1)
    with pytest.raises(UpstairsError, match="`shot` is 0"):
        episodes("gp", 0)
    assert reader_for("glyphs").has_splits and not reader_for("gp").has_splits
