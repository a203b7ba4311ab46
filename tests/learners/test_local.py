"""DN4 against loops over places, and its window."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers.runs import settings_of
from helpers.tasks import WAY, blobs
from upstairs.learners import DN4, make_learner
from upstairs.nets import conv4, picture_maps, sound_maps
from upstairs.nets.conv import BesideLevel
from upstairs.tree import index


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
    task = index(blobs(1, shape=(2, 2, 3)), 0)
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
        state = learner.fit(torch.cat([x, x.flip(3)]), index(blobs(1), 0).support._replace(
            y=torch.tensor([0, 1]), mask=torch.ones(2, dtype=torch.bool)))  # fmt: skip
        return learner.logits(state, z)[0]

    assert place(x)[0].item() == pytest.approx(2) == place(x.roll(3, 3))[0].item()
    assert place(x.roll(6, 3))[0].item() < 1.9


@pytest.mark.parametrize("shape", [(1, 40, 61), (1, 64, 100)])
def test_maps_keep_time_and_no_band(shape: tuple[int, ...]) -> None:
    maps = sound_maps(shape, width=6, norm="none")(torch.rand(2, *shape))
    assert maps.shape == (2, 6, 1, -(-shape[2] // 2) // 2)
    assert make_learner(settings_of(learner="dn4", net="sound"), shape, WAY).window == 0.2


def test_a_level_is_taken_away_where_it_is_loud() -> None:
    x = torch.rand(2, 1, 5, 30).double() + 1
    x[..., 20:] = 0
    level = torch.tensor([3.0, 1.0, 0.0, 2.0, 0.5]).double()[:, None]
    seen = BesideLevel()(x)
    assert torch.equal(seen[:, :1], x) and (seen[:, 1, :, 20:] == 0).all()
    assert seen[:, 1].sum(2).abs().max() < 1e-9, "each band is around its own mean"
    flat = torch.cat([torch.ones(1, 1, 5, 20).double() * 4, torch.zeros(1, 1, 5, 10).double()], 3)
    assert BesideLevel()(flat - level * (flat > 0))[:, 1].abs().max() < 1e-9, "a level that never changes is gone"


def test_an_example_is_as_near_as_its_nearest_view() -> None:
    """Of two views, x and x + 1: the best over the support example's, the mean over the query's."""
    task = index(blobs(1, shape=(2, 2, 3)), 0)
    plain, doubled = DN4(nn.Identity(), way=WAY).double(), DN4(nn.Identity(), way=WAY, views=shifted).double()
    support, x = task.support._replace(x=task.support.x.double()), task.query.x.double()
    first = [y == k for k in range(WAY) for y in [task.support.y]]
    one = support._replace(x=torch.stack([support.x[own][0] for own in first]), y=torch.arange(WAY),
                           mask=torch.ones(WAY, dtype=torch.bool))  # fmt: skip
    looks = shifted(one.x)
    expected = torch.stack([
        torch.stack([plain.predict(plain.adapt(one._replace(x=look)), asked) for look in looks]).amax(0)
        for asked in shifted(x)
    ]).mean(0)  # fmt: skip
    torch.testing.assert_close(doubled.predict(doubled.adapt(one), x), expected)
    assert not torch.allclose(expected, plain.predict(plain.adapt(one), x))
    one_by_one = torch.cat([doubled.predict(doubled.adapt(support), x[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(doubled.predict(doubled.adapt(support), x), one_by_one)


def shifted(x: Tensor) -> Tensor:
    return torch.stack([x, x + 1])


def test_maps_of_pictures_have_a_quarter_of_the_side_and_conv4s_work() -> None:
    def work(net: nn.Module) -> int:
        done = [0]
        for conv in (m for m in net.modules() if isinstance(m, nn.Conv2d)):
            conv.register_forward_hook(
                lambda m, _, out: done.append(out[0].numel() * m.weight[0].numel())  # multiplications of a picture
            )
        net(torch.rand(1, 1, 28, 28))
        return sum(done)

    maps = picture_maps((1, 28, 28), width=64, norm="none")
    assert maps(torch.rand(2, 1, 28, 28)).shape == (2, 64, 7, 7)
    assert 0.9 < work(maps) / work(conv4((1, 28, 28), width=64, norm="none")) < 1.2
    assert make_learner(settings_of(learner="dn4"), (1, 28, 28), WAY).window is None
