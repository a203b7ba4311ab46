"""Population statistics: measured before they are used, or refused; no silent number."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import upstairs
from upstairs.data.episodes import Episodes
from upstairs.data.source import Source
from upstairs.data.splits import Splits
from upstairs.engine.calibrate import calibrate
from upstairs.engine.evaluate import evaluate, frozen_seeds, score_tasks
from upstairs.engine.meta_backward import meta_backward
from upstairs.errors import UpstairsError
from upstairs.learners import ProtoNet, SimpleShot
from upstairs.nets import BatchNorm, conv4, convert_batch_norm, mlp


def episodes(seed: int, way: int = 4) -> Episodes:
    """Classes of 1 x 16 x 16 pictures far from mean 0 and variance 1."""
    rng = np.random.default_rng(seed)
    x = 3 + 2 * rng.normal(size=(10, 1, 1, 16, 16)) + rng.normal(size=(10, 12, 1, 16, 16))
    return Episodes(Source.from_arrays(x.reshape(-1, 1, 16, 16), np.arange(10).repeat(12)), way=way, shot=1, query=3)


def trained(batches: Episodes, steps: int = 3) -> ProtoNet:
    """A ProtoNet on a network with population statistics, trained in a loop of one's own."""
    torch.manual_seed(0)
    learner = ProtoNet(conv4((1, 16, 16), width=4), way=4)
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-2)
    for step in range(steps):
        optimizer.zero_grad()
        meta_backward(learner, batches.batch([step]))
        optimizer.step()
    return learner


def test_statistics_that_were_never_measured_are_refused_with_the_remedy() -> None:
    train, test = episodes(0), episodes(1)
    learner = trained(train)
    for use in (
        lambda: evaluate(learner, test, tasks=4),
        lambda: score_tasks(learner, test, frozen_seeds(0, 4)),
        lambda: learner.eval().solve(test.batch([0])),
        lambda: learner.eval().solve_inductive(test.batch([0])),
    ):
        with pytest.raises(UpstairsError, match=r"'encoder.block0.1'.*calibrate\(learner, train_tasks\)"):
            use()


def test_training_episodes_calibrate_and_that_is_what_the_number_is_of() -> None:
    train, test = episodes(0), episodes(1)
    learner, other = trained(train), trained(train)
    given = evaluate(learner, test, tasks=20, training=train)
    calibrate(other, train)
    assert given == evaluate(other, test, tasks=20)
    for name, value in other.state_dict().items():
        assert torch.equal(value, learner.state_dict()[name]), name
    norm = next(m for m in other.modules() if isinstance(m, BatchNorm))
    before = norm.mean.clone()
    calibrate(other, [train.batch([1, 2])])  # batches of one's own: other data, other statistics
    assert norm.measured.all() and not torch.equal(norm.mean, before)


def test_a_learner_for_fewer_classes_is_calibrated_on_tasks_of_more() -> None:
    learner = trained(episodes(0)).for_way(2)
    calibrate(learner, episodes(0))
    assert learner.eval().solve(episodes(1, way=2).batch([0])).isfinite().all()


def test_nothing_is_drawn_for_a_learner_without_such_statistics() -> None:
    learner = ProtoNet(mlp((256,)), way=4)
    calibrate(learner, iter([None]))  # it would fail if it were read
    assert evaluate(learner, episodes(1), tasks=2)["accuracy"] <= 1


def test_whether_they_were_measured_is_saved_and_old_checkpoints_count_as_measured() -> None:
    fresh, measured = trained(episodes(0)), trained(episodes(0))
    calibrate(measured, episodes(0))
    fresh.load_state_dict(measured.state_dict())
    fresh.eval().solve(episodes(1).batch([0]))
    fresh.load_state_dict(trained(episodes(0)).state_dict())
    with pytest.raises(UpstairsError, match="never measured"):
        fresh.solve(episodes(1).batch([0]))
    old = {name: value for name, value in measured.state_dict().items() if not name.endswith("measured")}
    assert len(old) < len(measured.state_dict())
    fresh.load_state_dict(old)
    fresh.solve(episodes(1).batch([0]))


def test_the_centre_of_pretrained_features_is_a_statistic_too() -> None:
    learner = SimpleShot(mlp((256,)), 40, classes=10, way=4, centred=True)
    with pytest.raises(UpstairsError, match="'centre' were never measured"):
        evaluate(learner, episodes(1), tasks=2)
    evaluate(learner, episodes(1), tasks=2, training=episodes(0))


def test_statistics_of_torch_that_were_never_updated_are_not_measured() -> None:
    used = nn.BatchNorm1d(3)
    used(torch.randn(4, 3))
    assert convert_batch_norm(used).measured.all() and not convert_batch_norm(nn.BatchNorm1d(3)).measured.any()


def test_a_model_does_not_answer_by_statistics_that_were_never_measured(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 255, (40, 1, 16, 16), dtype=np.uint8)
    source = Source.from_arrays(x, np.arange(40) // 4)
    splits = Splits(source, source, source)
    run = upstairs.train("protonet", data=splits, out=tmp_path, steps=2, width=4, way=3, query=1, quiet=True)
    model = run.adapt({"a": list(x[:2]), "b": list(x[4:6])})
    model.predict(list(x[:3]))
    for layer in run.learner.modules():
        if isinstance(layer, BatchNorm):
            layer.measured.fill_(False)
    for use in (lambda: run.adapt({"a": list(x[:2]), "b": list(x[4:6])}), lambda: model.predict(list(x[:3]))):
        with pytest.raises(UpstairsError, match="never measured"):
            use()
