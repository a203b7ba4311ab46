"""Open sets: AUROC by counting pairs, the threshold by hand, and its promise on many tasks."""

import numpy as np
import pytest
import torch
from torch import nn

from helpers.tasks import WAY, blobs
from upstairs.core import Examples, Task
from upstairs.errors import UpstairsError
from upstairs.learners import R2D2, nearest_centroid
from upstairs.learners.open_set import auroc, max_logit, max_probability, score_open_tasks, threshold
from upstairs.tree import index


def test_auroc_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    known, unknown = rng.integers(0, 9, 40).astype(float), rng.integers(-3, 6, 25).astype(float)
    pairs = [(k > u) + (k == u) / 2 for k in known for u in unknown]
    assert auroc(known, unknown) == pytest.approx(np.mean(pairs))
    assert auroc(np.array([1.0, 2.0]), np.array([-1.0])) == 1
    with pytest.raises(UpstairsError, match="0 known and 1 unknown"):
        auroc(np.array([]), np.array([1.0]))


def test_threshold_by_hand() -> None:
    """Points 0, 1, 3, 7 of four classes: left out, they are 1, 1, 2 and 4 away from the nearest other."""
    x = torch.tensor([[0.0], [1.0], [3.0], [7.0], [99.0]])
    support = Examples(x, torch.tensor([2, 0, 3, 1, 1]), torch.tensor([True, True, True, True, False]))
    learner = nearest_centroid(way=4)
    for accepted, bar in ((0.1, -1), (0.4, -1), (0.5, -1), (0.7, -4), (0.9, -16)):
        assert threshold(learner, support, share=accepted) == pytest.approx(bar)
    scores = max_logit(learner.predict(learner.adapt(support), torch.tensor([[4.9], [5.1], [9.1], [-2.1]])))
    bar = threshold(learner, support, share=0.7)  # known are those less than 2 away
    assert (scores >= bar).tolist() == [True, True, False, False]
    assert learner.training


def test_threshold_by_left_out_examples_by_hand() -> None:
    """Points 0 and 1, 10 and 12, 20 and 23: left out, each is as far from its class as from the other example."""
    x = torch.tensor([[0.0], [10.0], [1.0], [20.0], [12.0], [23.0]])
    support = Examples(x, torch.tensor([0, 1, 0, 2, 1, 2]), torch.ones(6, dtype=torch.bool))
    for refused, bar in ((0.1, -9), (0.4, -9), (0.43, -4), (0.6, -4), (0.9, -1)):  # ranks 1 to 6 of -9 -9 -4 -4 -1 -1
        assert threshold(nearest_centroid(way=3), support, share=refused) == pytest.approx(bar)


def test_threshold_of_few_examples_by_other_tasks_by_hand() -> None:
    """Queries of two tasks are 1, 2 and 3, 5 away from the nearest point; padding is none."""
    y, real = torch.arange(3), torch.ones(3, dtype=torch.bool)
    points = Examples(torch.tensor([[0.0], [10.0], [20.0]]), y, real)
    tasks = [
        Task(points, Examples(torch.tensor([[9.0], [22.0], [99.0]]), y, torch.tensor([True, True, False]))),
        Task(points, Examples(torch.tensor([[3.0], [15.0], [99.0]]), y, torch.tensor([True, True, False]))),
    ]
    for refused, bar in ((0.1, -25), (0.45, -9), (0.6, -4), (0.9, -1)):
        assert threshold(nearest_centroid(way=3), points, share=refused, tasks=tasks) == pytest.approx(bar)
    five = Examples(*(torch.cat([leaf] * 5) for leaf in points))
    assert threshold(nearest_centroid(way=3), five, tasks=tasks) == pytest.approx(0), "the support set itself suffices"


def test_the_share_of_known_inputs_that_is_promised() -> None:
    """10 of 20 classes, 8 examples of each, 100 tasks: at most 0.2 of the known are refused, and not much less."""
    g = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(100, 20, 1, 8, generator=g) + torch.randn(100, 20, 16, 8, generator=g)
    y = torch.arange(20).repeat_interleave(8).expand(100, 160)
    parts = (Examples(x[:, :, k : k + 8].flatten(1, 2), y, torch.ones_like(y, dtype=torch.bool)) for k in (0, 8))
    result = score_open_tasks(nearest_centroid(way=20), Task(*parts), 10, share=0.2)
    assert 0.13 < 1 - result.known_accepted.mean() < 0.21
    assert result.unknown_accepted.mean() < 0.2


def test_what_cannot_be_is_refused() -> None:
    support = index(blobs(1), 0).support
    with pytest.raises(UpstairsError, match="has 2 classes: 3 or more"):
        threshold(nearest_centroid(way=WAY), support._replace(mask=support.y < 2))
    with pytest.raises(UpstairsError, match="a share between 0 and 1"):
        threshold(nearest_centroid(way=WAY), support, share=1.0)


@pytest.mark.parametrize("score", [max_logit, max_probability])
def test_unknown_inputs_are_told_apart(score) -> None:
    """300 tasks of 3 known and 2 unknown blobs of the same kind; the same points without a difference score 1/2."""
    tasks = blobs(300, shot=3)
    result = score_open_tasks(nearest_centroid(way=WAY), tasks, 3, score=score, share=0.2)
    assert result.auroc.mean() > (0.95 if score is max_logit else 0.6)
    assert result.accuracy.mean() > 0.95
    if score is max_logit:  # the probabilities are nearly all 1 here
        assert result.known_accepted.mean() > result.unknown_accepted.mean() + 0.2
    lost = tasks._replace(query=tasks.query._replace(x=tasks.query.x.roll(1, 0)))  # the queries of another task
    assert abs(score_open_tasks(nearest_centroid(way=WAY), lost, 3, score=score).auroc.mean() - 0.5) < 0.05


def test_the_share_of_unknown_inputs_that_is_promised() -> None:
    """30 known and 30 unknown classes, 40 tasks: 0.2 of the unknown pass (standard error about 0.015)."""
    g = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(40, 60, 1, 8, generator=g) + torch.randn(40, 60, 2, 8, generator=g)
    y = torch.arange(60).expand(40, 60)
    parts = (Examples(x[:, :, i], y, torch.ones_like(y, dtype=torch.bool)) for i in (0, 1))
    result = score_open_tasks(nearest_centroid(way=60), Task(*parts), 30, share=0.2)
    assert abs(result.unknown_accepted.mean() - 0.2) < 0.06


def test_any_learner_will_do() -> None:
    torch.manual_seed(0)
    result = score_open_tasks(R2D2(nn.Identity(), way=WAY), blobs(50, shot=3), 3)
    assert result.auroc.mean() > 0.6
