"""Examples that are embedded once are those of every task."""

from pathlib import Path

import numpy as np
import pytest
import torch

import upstairs
from upstairs.data.episodes import Episodes
from upstairs.data.images.augment import crops
from upstairs.data.images.glyphs import glyphs
from upstairs.data.source import Source
from upstairs.data.splits import Splits
from upstairs.engine.calibrate import calibrate
from upstairs.engine.evaluate import frozen_seeds, score_tasks
from upstairs.engine.precompute import embedded
from upstairs.errors import UpstairsError
from upstairs.learners import ProtoNet, maml
from upstairs.nets import conv4


def letters() -> Source:
    """Eight classes of four pictures, half of them others turned."""
    x = np.random.default_rng(0).integers(0, 255, (16, 1, 16, 16), dtype=np.uint8)
    rows = tuple(np.arange(4 * (k % 4), 4 * (k % 4) + 4) for k in range(8))
    return Source("letters", x, tuple("abcdefgh"), rows, turns=(0,) * 4 + (1, 2, 3, 1))


def test_the_same_predictions_and_scores_as_by_embedding_in_every_task() -> None:
    torch.manual_seed(0)
    episodes = Episodes(letters(), way=5, shot=1, query=2)
    learner = ProtoNet(conv4((1, 16, 16), width=8), way=5).eval()
    calibrate(learner, episodes)
    told: list[tuple[int, int]] = []
    with torch.no_grad():
        head, once = embedded(learner, episodes, tasks=20)
        assert once.source.feature_shape == (8,)
        tasks = frozen_seeds(0, 20)
        found, whole = head.solve(once.batch(tasks)), learner.solve(episodes.batch(tasks))
        torch.testing.assert_close(found, whole)
        assert (once.batch(tasks).query.y == episodes.batch(tasks).query.y).all()
    scores = score_tasks(learner, episodes, tasks, progress=lambda done, total: told.append((done, total)))
    right = (whole.argmax(-1) == episodes.batch(tasks).query.y).double().mean(1)
    np.testing.assert_allclose(scores, right.numpy())
    assert told == sorted(told) and told[-1] == (20, 20) and told[0][0] <= 10


def test_what_is_not_embedded_once() -> None:
    episodes = Episodes(letters(), way=5, shot=1, query=2)
    learner = ProtoNet(conv4((1, 16, 16), width=8), way=5).eval()
    assert embedded(learner, episodes, tasks=1) == (learner, episodes)  # fewer draws than examples
    batch = ProtoNet(conv4((1, 16, 16), width=8, norm="batch"), way=5).eval()
    adapting = maml(conv4((1, 16, 16), width=8, norm="batch", out=5), way=5).eval()
    raw = ProtoNet(torch.nn.Flatten(), way=5).eval()
    others = type("Others", (ProtoNet,), {"predict": lambda self, state, x: -ProtoNet.predict(self, state, x)})
    contrary = others(conv4((1, 16, 16), width=8), way=5).eval()
    for other in (batch, adapting, raw, contrary):
        assert embedded(other, episodes, tasks=100)[1] is episodes
    changing = Episodes(glyphs().train, way=5, shot=1, query=2)  # another picture at every draw
    assert embedded(learner, changing, tasks=10**6)[1] is changing


def test_views_are_averaged_in_use_and_not_in_training(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 255, (40, 3, 16, 16), dtype=np.uint8)
    source = Source.from_arrays(x, np.arange(40) // 4)
    splits, options = Splits(source, source, source), {"steps": 2, "width": 8, "way": 3, "query": 1, "quiet": True}
    once = upstairs.train("co_training", data=splits, out=tmp_path / "once", **options)
    ten = upstairs.train("co_training", data=splits, out=tmp_path / "ten", views=10, **options)
    assert ten.history[-1]["accuracy"] == once.history[-1]["accuracy"]  # the same weights, seen once
    pictures = torch.from_numpy(x[:4]).float() / 255
    with torch.no_grad():
        z = ten.learner.eval().embed(pictures)
        each = torch.stack([once.learner.encoder.eval()(view) for view in crops(pictures, 10)]).mean(0)
        torch.testing.assert_close(z, torch.nn.functional.normalize(each - once.learner.centre.mean, dim=-1))
    assert ten.learner.for_way(2).views == 10
    support = {"a": list(x[:2]), "b": list(x[4:6])}
    model = ten.adapt(support)
    model.save(tmp_path / "model.safetensors")
    again = upstairs.load_adapted(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(model.predict_proba(support["a"]), again.predict_proba(support["a"]))
    for name, data in (("maml", splits), ("dn4", splits), ("protonet", "gp"), ("protonet", "glyphs")):
        with pytest.raises(UpstairsError, match=r"`views` is for photos|`views` is an option of|regression"):
            upstairs.train(name, data=data, views=2, out=tmp_path / name, steps=1, quiet=True)
