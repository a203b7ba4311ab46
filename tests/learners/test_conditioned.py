"""Hypernetwork, VERSA and FiLM against plain loops that share no code with them."""

import math

import torch

from helpers.tasks import WAY, blobs
from upstairs.learners import FilmLearner, Hypernetwork, Versa
from upstairs.nets import mlp
from upstairs.tree import index


@torch.no_grad()
def test_hypernetwork_equals_a_loop_over_classes() -> None:
    torch.manual_seed(0)
    learner = Hypernetwork(mlp((8,), widths=(16, 6)), 6, way=WAY).double()
    support, query = index(blobs(), 0)
    a, q = learner.encoder(support.x.double()), learner.encoder(query.x.double())
    means = [torch.stack([z for z, y in zip(a, support.y, strict=True) if y == k]).mean(0) for k in range(WAY)]
    whole = sum(means) / WAY
    first, last = learner.write[0], learner.write[2]
    expected = torch.zeros(len(q), WAY, dtype=torch.float64)
    for k in range(WAY):
        hidden = (first.weight @ torch.cat([means[k], whole]) + first.bias).clamp(min=0)
        written = last.weight @ hidden + last.bias
        for n in range(len(q)):
            expected[n, k] = sum(float(w * z) for w, z in zip(written[:6], q[n], strict=True)) / 6**0.5 + written[6]
    found = learner.predict(learner.adapt(support._replace(x=support.x.double())), query.x.double())
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_versas_objective_equals_a_loop_over_samples() -> None:
    """-log of the mean over draws of the softmax; each logit is drawn from the Gaussian that the weights give it."""
    torch.manual_seed(0)
    learner = Versa(mlp((8,), widths=(16, 6)), 6, way=WAY, samples=4)
    task = index(blobs(), 0)
    state = learner.adapt(task.support)
    noise, total = learner.noise(), 0.0
    for x, y in zip(task.query.x, task.query.y, strict=True):
        features = torch.cat([learner.encoder(x[None])[0], torch.ones(1)]) / 6**0.5
        share = 0.0
        for draw in noise:
            logits = [
                float(state.mean[k] @ features)
                + float(draw[k]) * math.sqrt(float((state.variance[k] * features**2).sum()))
                for k in range(WAY)
            ]
            share += math.exp(logits[y]) / sum(map(math.exp, logits)) / len(noise)
        total -= math.log(share) / len(task.query.y)
    assert abs(float(learner.meta_loss(task)[0]) - total) < 1e-5


@torch.no_grad()
def test_versas_logits_have_the_moments_of_sampled_weights() -> None:
    """100,000 weight vectors drawn from q give logits of the mean and variance that are used (6 standard errors)."""
    torch.manual_seed(0)
    learner = Versa(mlp((8,), widths=(16, 6)), 6, way=WAY)
    task = index(blobs(), 0)
    state = learner.adapt(task.support)
    features = torch.cat([learner.encoder(task.query.x[:1])[0], torch.ones(1)]) / 6**0.5
    weights = state.mean[0] + state.variance[0].sqrt() * torch.randn(100_000, 7)
    drawn, variance = weights @ features, float((state.variance[0] * features**2).sum())
    assert abs(float(drawn.mean() - state.mean[0] @ features)) < 6 * (variance / 1e5) ** 0.5
    assert abs(float(drawn.var()) / variance - 1) < 6 * (2 / 1e5) ** 0.5


def test_the_noise_of_a_step_is_its_own_and_evaluations_is_one() -> None:
    learner = Versa(mlp((8,), widths=(16, 6)), 6, way=WAY)
    end = learner.noise().clone()
    learner.at(0.25)
    quarter = learner.noise().clone()
    learner.at(0.5)
    assert not torch.equal(learner.noise(), quarter)
    learner.at(0.25)
    assert torch.equal(learner.noise(), quarter)
    before = learner.eval().noise().clone()
    learner.at(1.0)
    assert torch.equal(learner.noise(), before) and torch.equal(learner.train().noise(), end)


def test_film_equals_a_network_that_is_modulated_by_hand() -> None:
    torch.manual_seed(0)
    net = mlp((8,), widths=(12, 6))
    learner = FilmLearner(net, mlp((8,), widths=(5, 4)), 4, way=WAY, scale=0.5)
    support, query = index(blobs(), 0)
    context = learner.condition.weight @ torch.stack([learner.summary(x[None])[0] for x in support.x]).mean(0)
    films = [m for m in learner.encoder.modules() if type(m).__name__ == "Film"]
    assert len(films) == 2

    def embed(x: torch.Tensor) -> torch.Tensor:
        for name, film in zip(("linear0", "linear1"), films, strict=True):
            layer = net.get_submodule(name)
            size = layer.out_features
            maps = film.film.weight
            x = layer.weight @ x + layer.bias
            x = ((1 + maps[:size] @ context) * x + maps[size:] @ context).clamp(min=0)
        return x

    means = [
        torch.stack([embed(x) for x, y in zip(support.x, support.y, strict=True) if y == k]).mean(0) for k in range(WAY)
    ]
    found = learner.predict(learner.adapt(support), query.x).log_softmax(-1)
    expected = torch.stack([torch.stack([-0.5 * (embed(x) - c).square().sum() for c in means]) for x in query.x])
    torch.testing.assert_close(found, expected.log_softmax(-1), rtol=1e-4, atol=1e-4)
