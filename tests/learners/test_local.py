"""DN4 against loops over places, and its window."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tasks_for_tests import WAY, blobs
from upstairs.learners import DN4, make_learner
from upstairs.nets import sound_maps
from upstairs.settings import Settings
from upstairs.tree import take


def alike(a: np.ndarray, b: np.ndarray, window: float) -> float:
    """The mean cosine of each place of map a [c, h, w] with the nearest of map b, both ways."""
    places = [(h, w) for h in range(a.shape[1]) for w in range(a.shape[2])]

    def one_way(a: np.ndarray, b: np.ndarray) -> float:
        total = 0.0
        for p in places:
            best = -1.0
            for q in places:
                if abs(p[1] - q[1]) <= window * a.shape[2]:
                    u, v = a[:, *p], b[:, *q]
                    best = max(best, float(u @ v / np.linalg.norm(u) / np.linalg.norm(v)))
            total += best
        return total / len(places)

    return (one_way(a, b) + one_way(b, a)) / 2


@pytest.mark.parametrize("window", [None, 0.0, 0.34])
def test_each_place_is_compared_with_its_nearest_within_the_window(window: float | None) -> None:
    torch.manual_seed(0)
    task = take(blobs(1, shape=(2, 2, 3)), 0)
    learner = DN4(nn.Identity(), way=WAY, window=window, scale=4.0).double()
    support, queries = task.support.x.double(), task.query.x.double()
    found = learner.predict(learner.adapt(task.support._replace(x=support)), queries).detach().numpy()
    far = 9.0 if window is None else window
    expected = [
        [
            4 * np.mean([alike(q, s, far) for s in support[task.support.y == k].numpy()])
            for k in range(WAY)
        ]
        for q in queries.numpy()
    ]  # fmt: skip
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_sound_said_later_is_the_same_within_the_window() -> None:
    x = torch.zeros(1, 4, 1, 20)
    x[0, torch.arange(4), 0, torch.tensor([6, 7, 8, 9])] = 1.0
    learner = DN4(nn.Identity(), way=2, window=0.2)

    def place(z: Tensor) -> Tensor:
        state = learner.fit(torch.cat([x, x.flip(3)]), take(blobs(1), 0).support._replace(
            y=torch.tensor([0, 1]), mask=torch.ones(2, dtype=torch.bool)))  # fmt: skip
        return learner.logits(state, z)[0]

    assert place(x)[0].item() == pytest.approx(2) == place(x.roll(3, 3))[0].item()
    assert place(x.roll(6, 3))[0].item() < 1.9


@pytest.mark.parametrize("shape", [(1, 40, 61), (1, 64, 100)])
def test_maps_keep_time_and_no_band(shape: tuple[int, ...]) -> None:
    maps = sound_maps(shape, width=6, norm="none")(torch.rand(2, *shape))
    assert maps.shape == (2, 6, 1, -(-shape[2] // 2) // 2)
    assert make_learner(Settings(learner="dn4", net="sound"), shape, WAY).window == 0.2
