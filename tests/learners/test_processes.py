"""Neural processes: laws on functions, attention against loops, a mixture, and the exact posterior's log-likelihood."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from torch.func import functional_call

from helpers.runs import settings_of
from helpers.tasks import double
from upstairs.core import Task, gaussian_nll
from upstairs.data.episodes import Episodes
from upstairs.data.regression.functions import GaussianProcess
from upstairs.data.source import function_source
from upstairs.engine.evaluate import evaluate
from upstairs.engine.metrics import LIKELIHOOD
from upstairs.learners import ANP, CNP, LNP, GaussianPosterior, make_learner
from upstairs.learners.model_based.neural_processes import CrossAttention
from upstairs.testing import check_learner
from upstairs.tree import index


def functions(count: int = 3, shot: tuple[int, int] = (2, 6), query: int = 4) -> Task:
    return Episodes(function_source(GaussianProcess()), way=None, shot=shot, query=query).batch(range(count))


@pytest.mark.parametrize("name", ["cnp", "lnp", "anp"])
def test_laws_on_functions(name: str) -> None:
    torch.manual_seed(0)
    check_learner(make_learner(settings_of(learner=name, net="mlp", way=None, width=16), (1,), None), functions())


def test_gaussian_nll_equals_scipys() -> None:
    prediction, y = torch.randn(5, 4).double(), torch.randn(5, 2).double()
    expected = -stats.norm.logpdf(y, prediction[:, :2], prediction[:, 2:].exp()).sum(1)
    np.testing.assert_allclose(gaussian_nll(prediction, y).numpy(), expected)


def test_the_exact_posteriors_likelihood_equals_that_of_the_joint_normal() -> None:
    """log p(y | support) = log p(support, y) - log p(support), by scipy's multivariate normal."""
    process, tasks = GaussianProcess(), double(functions(10))
    found = LIKELIHOOD.of(GaussianPosterior(process).solve(tasks), tasks)
    for i, (support, query) in enumerate(index(tasks, j) for j in range(10)):
        x, y = support.x[support.mask].numpy(), support.y[support.mask, 0].numpy()

        def log_p(a: np.ndarray, b: np.ndarray) -> float:
            covariance = np.exp(-2 * (a - a.T) ** 2) + 0.01 * np.eye(len(a))
            return stats.multivariate_normal(np.zeros(len(a)), covariance).logpdf(b)

        each = [
            log_p(np.vstack([x, q[None]]), np.append(y, t)) - log_p(x, y)
            for q, t in zip(query.x.numpy(), query.y[:, 0].numpy(), strict=True)
        ]
        assert math.isclose(float(found[i]), float(np.mean(each)), rel_tol=1e-6, abs_tol=1e-8)


@torch.no_grad()
def test_attention_equals_a_loop() -> None:
    torch.manual_seed(0)
    layer = CrossAttention(8, heads=2).double()
    a, b = torch.randn(3, 8).double(), torch.randn(5, 8).double()
    mask = torch.tensor([True, True, False, True, False])
    found = layer(a, b, mask)
    seen = [layer.nothing[0], *(b[i] for i in range(5) if mask[i])]
    for n in range(3):
        heads = []
        for h in (slice(0, 4), slice(4, 8)):
            q = layer.query(a[n])[h]
            scores = [math.exp(float(q @ layer.key(s)[h]) / 2) for s in seen]
            heads.append(sum(w / sum(scores) * layer.value(s)[h] for w, s in zip(scores, seen, strict=True)))
        u = a[n] + layer.out(torch.cat(heads))
        torch.testing.assert_close(found[n], u + layer.after(u))


@pytest.mark.parametrize("make", [CNP, LNP, ANP])
def test_the_meta_loss_has_true_derivatives_of_both_orders(make: type) -> None:
    torch.manual_seed(0)
    learner, task = make(1, width=8).double(), index(double(functions(1)), 0)
    parameters = dict(learner.named_parameters())
    name = "across.0.key.weight" if make is ANP else "read.0.weight"

    class Loss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.learner = learner

        def forward(self) -> torch.Tensor:
            return self.learner.meta_loss(task)[0]

    def loss(part: torch.Tensor) -> torch.Tensor:
        return functional_call(Loss(), {f"learner.{name}": part}, ())

    start = parameters[name].detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, (start,))
    assert torch.autograd.gradgradcheck(loss, (start,))


def test_a_latents_likelihood_is_that_of_a_mixture_of_functions() -> None:
    """Each draw is a component with independent queries (torch.distributions); answers are the mixture's moments."""
    torch.manual_seed(0)
    learner, tasks = LNP(1, width=16, samples=5).double(), double(functions(3))
    learner.latent[-1].weight.data.mul_(5), learner.answer[0].weight.data.mul_(5)  # latents that matter
    losses, predictions = learner(tasks)
    for i, (support, query) in enumerate(index(tasks, j) for j in range(3)):
        r = learner.read(torch.cat([support.x, support.y], 1)[support.mask]).mean(0)
        mean, scale = learner.latent(r).split(16)
        z = mean + (0.01 + 0.99 * scale.sigmoid()) * learner.noise.drawn
        answers = torch.stack([learner.answer(torch.cat([query.x, row.expand(4, -1)], 1)) for row in z])
        each = Normal(answers[..., 0], 0.05 + 0.95 * torch.nn.functional.softplus(answers[..., 1]))
        joint = MixtureSameFamily(Categorical(torch.ones(5).double()), Independent(each, 1))
        torch.testing.assert_close(losses[i], -joint.log_prob(query.y[:, 0]) / 4)
        torch.testing.assert_close(predictions[i, :, 0], joint.mean)
        torch.testing.assert_close(predictions[i, :, 1].exp(), joint.variance.sqrt())


def test_likelihood_is_evaluated_beside_the_error() -> None:
    episodes = Episodes(function_source(GaussianProcess()), way=None, shot=5, query=5)
    result = evaluate(CNP(1, width=8), episodes, tasks=20, baselines={"best": GaussianPosterior(GaussianProcess())})
    best = result["baselines"]["best"]
    assert result["likelihood"]["likelihood"] < best["likelihood"]["likelihood"]
    assert result["mse"] > best["mse"] and "likelihood" not in evaluate(
        make_learner(settings_of(learner="maml", way=None, net="mlp", norm="none", width=8), (1,), None),
        episodes,
        tasks=4,
    )
