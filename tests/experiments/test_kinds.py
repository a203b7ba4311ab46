"""One learner class, untouched, trains on pictures, on texts and on sounds."""

import numpy as np
import pytest
import torch

from helpers.sounds import tone
from upstairs.data.audio.format import RATE, AudioFormat
from upstairs.data.episodes import Episodes
from upstairs.data.source import InputFormat, Source
from upstairs.data.text.hashed import TextFormat
from upstairs.engine.calibrate import calibrate
from upstairs.engine.meta_backward import meta_backward
from upstairs.learners import seeded_learner
from upstairs.training.defaults import fit_settings, request_run

CLASSES, EXAMPLES, WAY = 6, 5, 3


def source(kind: str) -> Source:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(CLASSES), EXAMPLES)
    if kind == "pictures":
        x = rng.uniform(size=(CLASSES, 1, 16, 16))[y] + 0.2 * rng.normal(size=(len(y), 1, 16, 16))
        return Source.from_arrays(x, y, name=kind)
    format: InputFormat
    if kind == "texts":
        format = TextFormat(3)
        words = ["".join(rng.choice(list("abdegiklmnoprstuvz"), 4)) for _ in range(CLASSES + 20)]
        rows = [format.read(f"{words[k]} {' '.join(rng.choice(words[CLASSES:], 2))}") for k in y]
    else:
        format = AudioFormat(0.3, 16)
        rows = [format.read((tone(300.0 * (k + 1) + rng.uniform(-20, 20), seconds=0.3), RATE)) for k in y]
    places = tuple(np.flatnonzero(y == k) for k in range(CLASSES))
    return Source(kind, np.stack(rows), tuple(f"class{k}" for k in range(CLASSES)), places, format=format)


@pytest.mark.parametrize("name", ["protonet", "maml", "r2d2", "in_context"])
def test_one_class_trains_on_all_three(name: str) -> None:
    found = {}
    for kind, net in (("pictures", "conv4"), ("texts", "bag"), ("sounds", "sound")):
        data = source(kind)
        settings = fit_settings(request_run(name, way=WAY, query=2, shot="2", width=8, steps=1), data)
        learner = seeded_learner(settings, data.feature_shape, WAY)
        assert settings.net == net
        tasks = Episodes(data, way=WAY, shot=2, query=2).batch([0, 1])
        optimizer = torch.optim.Adam(learner.parameters(), lr=3e-3)
        before = [p.detach().clone() for p in learner.parameters()]
        losses = []
        for _ in range(5):
            learner.zero_grad()
            losses.append(float(meta_backward(learner, tasks).losses.mean()))
            optimizer.step()
        assert min(losses) < losses[0] - 0.01, f"{name} on {kind}: {losses}"
        moved = [not torch.equal(p, b) for p, b in zip(learner.parameters(), before, strict=True)]
        assert sum(moved) > 0.9 * len(moved) and all(p.isfinite().all() for p in learner.parameters())
        calibrate(learner, [tasks])
        solved = learner.eval().solve(tasks)
        assert solved.shape == (2, 2 * WAY, WAY) and solved.isfinite().all()
        found[kind] = type(learner)
    assert len(set(found.values())) == 1, found
