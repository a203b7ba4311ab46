"""Generative learners: tasks are sets of one class, draws a pure function of state and noise, the score a bound."""

from typing import NamedTuple

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from helpers.tasks import blobs
from upstairs.core import Examples
from upstairs.data.episodes import Episodes
from upstairs.data.source import Source
from upstairs.engine.evaluate import evaluate, frozen_seeds
from upstairs.errors import UpstairsError
from upstairs.learners import GenerativeLearner, NeuralStatistician, ProtoNet, Redrawing, Unconditioned
from upstairs.learners.generative.likelihood import gaussian, gaussian_log_p
from upstairs.learners.generative.neural_statistician import Factors
from upstairs.nets.drawing import Bender
from upstairs.testing import check_learner
from upstairs.tree import index


class Bell(NamedTuple):
    mean: Float[Tensor, " d"]
    scale: Float[Tensor, " d"]


class OneGaussian(GenerativeLearner[Bell]):
    """A Gaussian around the mean of the support set, of a learned width: its bound is the likelihood itself."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.noise_size, self.log_scale = size, nn.Parameter(torch.zeros(size))

    def adapt(self, support: Examples, /) -> Bell:
        return Bell(support.pool(support.x), self.log_scale.exp())

    def predict(self, state: Bell, x: Tensor, /) -> Tensor:
        z = (x - state.mean) / state.scale
        return (-0.5 * z.square() - state.scale.log() - 0.9189385).sum(-1, keepdim=True)

    def draw(self, state: Bell, noise: Tensor, /) -> Tensor:
        return state.mean + state.scale * noise


def rows(classes: int = 9, each: int = 12) -> Source:
    """Vectors: a class is a Gaussian of scale 1/2 around its own point."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(classes, 1, 4, generator=g) + 0.5 * torch.randn(classes, each, 4, generator=g)
    return Source.from_arrays(x.flatten(0, 1), torch.arange(classes).repeat_interleave(each))


def test_a_generator_keeps_the_laws() -> None:
    check_learner(OneGaussian(8), blobs(way=1))


def test_sets_of_one_class_are_scored_by_their_bound() -> None:
    """Against torch.distributions, task by task; and a way of 1 draws one class, labelled 0."""
    learner, episodes = OneGaussian(4), Episodes(rows(), way=1, shot=3, query=5)
    tasks = episodes.batch(frozen_seeds(0, 20))
    assert tasks.support.x.shape == (20, 3, 4) and not tasks.support.y.any() and not tasks.query.y.any()
    by_hand = [Normal(s.mean(0), 1.0).log_prob(q).sum(-1).mean() for s, q in zip(tasks[0].x, tasks[1].x, strict=True)]
    result = evaluate(learner, episodes, tasks=20)
    assert result["bound"] == pytest.approx(float(torch.stack(by_hand).mean()), abs=1e-4) and result["way"] == 1


def test_draws_are_of_the_generator_given() -> None:
    learner = OneGaussian(4)
    state = learner.adapt(Examples(torch.ones(2, 4), torch.zeros(2, dtype=torch.long), torch.ones(2, dtype=torch.bool)))
    one, same, other = (learner.sample(state, 6, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert one.shape == (6, 4) and torch.equal(one, same) and not torch.equal(one, other)


def test_one_class_is_for_generators_alone() -> None:
    with pytest.raises(UpstairsError, match="`way` is 1: it must be at least 2"):
        ProtoNet(nn.Linear(4, 4), way=5).for_way(1)
    with pytest.raises(UpstairsError, match="makes more of one class: leave `way` out"):
        OneGaussian(4).for_way(5)


def statistician(*, samples: int = 50) -> NeuralStatistician:
    """One whose every distribution is known: z is standard normal, and an example is linear in both latents."""
    torch.manual_seed(1)
    read, write = nn.Sequential(nn.Linear(3, 6), nn.Tanh()), nn.Linear(4, 6)
    learner = NeuralStatistician(read, write, 6, latent=2, likelihood=gaussian_log_p, samples=samples)
    with torch.no_grad():
        learner.prior.head.weight.zero_(), learner.prior.head.bias.zero_()
        write.weight[3:] = 0.0
    return learner


def test_the_bound_nears_a_likelihood_that_is_known() -> None:
    """x = W [z, c] + b + noise: a Gaussian whose mean and covariance follow from those of c, with 20,000 samples."""
    learner = statistician(samples=20_000)
    state = learner.adapt(Examples(torch.randn(4, 3), torch.zeros(4, dtype=torch.long), torch.ones(4).bool()))
    c, x = state.gaussian(), torch.randn(5, 3)
    mean_of_c, variance = c.mean, (2 * c.log_scale).exp()
    weight, bias = learner.write.weight[:3], learner.write.bias
    scale = 0.05 + 0.95 * nn.functional.softplus(bias[3:])
    covariance = weight[:, :2] @ weight[:, :2].T + weight[:, 2:] * variance @ weight[:, 2:].T + scale.square().diag()
    exact = MultivariateNormal(weight[:, 2:] @ mean_of_c + bias[:3], covariance).log_prob(x)
    assert torch.allclose(learner.predict(state, x)[:, 0], exact, atol=0.03)


@pytest.mark.parametrize("together", [1, 37, 2**14])
def test_the_bound_does_not_depend_on_how_many_samples_are_computed_at_once(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against one sample at a time, as the formula is written."""
    monkeypatch.setattr("upstairs.learners.generative.neural_statistician.TOGETHER", together)
    learner = statistician(samples=7)
    state = learner.adapt(Examples(torch.randn(4, 3), torch.zeros(4, dtype=torch.long), torch.ones(4).bool()))
    x, given = torch.randn(5, 3), state.gaussian()
    h, own = learner.factors(x)
    seen = Factors(state.precision + own.precision, state.weighted + own.weighted).gaussian()
    weights = []
    for row in learner.course.fixed:
        c = seen.at(row[:2])
        p, q = gaussian(learner.prior(c)), gaussian(learner.recognise(torch.cat([h, c], 1)))
        z = q.at(row[2:])
        fit = gaussian_log_p(learner.write(torch.cat([z, c], 1)), x)
        weights.append(fit + p.log_p(z) - q.log_p(z) + given.log_p(c) - seen.log_p(c))
    expected = torch.stack(weights).exp().mean(0).log()
    torch.testing.assert_close(learner.predict(state, x)[:, 0], expected, rtol=1e-4, atol=1e-4)


def test_the_meta_loss_is_the_bound_written_out() -> None:
    """By torch.distributions, on the latents that the noise gives; and with nothing shown the prior is N(0, I)."""
    learner = statistician()
    task = index(blobs(way=1, shot=3, query=4, shape=(3,)), 0)
    state = learner.adapt(task.support)
    precision = state.precision + learner.factors(task.query.x)[1].precision.sum(0)
    mean = (state.weighted + learner.factors(task.query.x)[1].weighted.sum(0)) / precision
    rows = learner.course.rows(task.query.x)
    q_c, p_c = Normal(mean, precision.rsqrt()), Normal(state.weighted / state.precision, state.precision.rsqrt())
    c = (mean + precision.rsqrt() * rows[0, :2]).expand(4, -1)
    code = learner.recognise(torch.cat([learner.read(task.query.x), c], 1))
    q_z = Normal(code[:, :2], code[:, 2:].exp())
    out = learner.write(torch.cat([q_z.mean + q_z.stddev * rows[:, 2:], c], 1))
    fit = Normal(out[:, :3], 0.05 + 0.95 * nn.functional.softplus(out[:, 3:])).log_prob(task.query.x).sum(1)
    apart = kl_divergence(q_z, Normal(0.0, 1.0)).sum(1)
    expected = (kl_divergence(q_c, p_c).sum() + (apart - fit).sum()) / 4
    assert torch.allclose(learner.meta_loss(task)[0], expected, atol=1e-4)
    nothing = Unconditioned(learner).adapt(task.support)
    assert torch.equal(nothing.precision, torch.ones(2)) and torch.equal(nothing.weighted, torch.zeros(2))


def test_a_bend_by_nothing_is_none_and_by_a_pixel_moves_by_one() -> None:
    bender, s = Bender(2, 3, (1, 16, 20), width=2), torch.rand(2, 1, 16, 20)
    numbers = torch.zeros(2, 2, 52)
    assert torch.allclose(bender.moved(s, numbers.flatten(1)), s, atol=1e-5)
    numbers[:, 0, 2] = 2 / 20  # every pixel takes its value from the one to its right
    assert torch.allclose(bender.moved(s, numbers.flatten(1))[..., :-1], s[..., 1:], atol=1e-4)


def test_support_pictures_share_the_draws() -> None:
    """Twice the same picture says what it says once; a picture nearer to the query only makes it likelier."""
    torch.manual_seed(0)
    learner = Redrawing((1, 16, 16), width=4, latent=4).eval()
    near, far, x = torch.rand(3, 1, 1, 16, 16).round()
    y, real = torch.zeros(2, dtype=torch.long), torch.ones(2).bool()
    one = learner.predict(learner.adapt(Examples(near, y[:1], real[:1])), x)
    same = learner.predict(learner.adapt(Examples(torch.cat([near, near]), y, real)), x)
    assert torch.allclose(one, same, atol=1e-4)
    other = learner.predict(learner.adapt(Examples(far, y[:1], real[:1])), x)
    both = learner.predict(learner.adapt(Examples(torch.cat([near, far]), y, real)), x)
    assert min(one, other) < both < max(one, other)


def test_drawings_come_from_every_support_picture() -> None:
    torch.manual_seed(0)
    learner = Redrawing((1, 16, 16), width=4, latent=4)
    x = torch.zeros(3, 1, 16, 16)
    x[0, :, :8], x[1, :, 8:] = 1.0, 1.0  # the third is padding
    support = Examples(x, torch.zeros(3, dtype=torch.long), torch.tensor([True, True, False]))
    made = learner.sample(learner.adapt(support), 200, torch.Generator().manual_seed(0))
    above = (made[:, 0, 2:6].mean((1, 2)) > made[:, 0, 10:14].mean((1, 2))).float().mean()
    assert made.shape == (200, 1, 16, 16) and 0.35 < above < 0.65  # 4 standard deviations either way
