"""What generates: its tasks are sets of one class, its draws a pure function of state and noise, its score a bound."""

from typing import NamedTuple

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Normal

from tasks_for_tests import blobs
from upstairs.core import Examples
from upstairs.errors import UpstairsError
from upstairs.evaluate import evaluate, frozen_seeds
from upstairs.learners import GenerativeLearner, ProtoNet
from upstairs.tasks.episodes import Episodes
from upstairs.tasks.sources import Source
from upstairs.testing import check_learner


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
    with pytest.raises(UpstairsError, match="--way is 1: it must be at least 2"):
        ProtoNet(nn.Linear(4, 4), way=5).for_way(1)
    with pytest.raises(UpstairsError, match="makes more of one class: leave --way out"):
        OneGaussian(4).for_way(5)
