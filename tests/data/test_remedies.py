"""Remedies against overfitting, each against something that shares no code with it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.runs import SMALL, Call, draw_folder, settings_of
from helpers.tasks import WAY, blobs
from upstairs.core import Task
from upstairs.data.audio.format import AudioFormat
from upstairs.data.class_augmentation import some_classes, training_classes, turned
from upstairs.data.episodes import Episodes
from upstairs.data.images.format import ImageFormat
from upstairs.data.regression.functions import Sinusoids
from upstairs.data.source import Source, function_source
from upstairs.data.splits import Splits, split_by_ratio
from upstairs.data.task_augmentation import PARTNERS, mix_queries, remedied, shares, smoothed, with_places
from upstairs.engine.calibrate import calibrate
from upstairs.engine.meta_backward import meta_backward
from upstairs.errors import UpstairsError
from upstairs.learners import LEARNERS, make_learner
from upstairs.nets import conv4
from upstairs.settings import Settings
from upstairs.storage import load_tensors
from upstairs.training.compatibility import check_compatible
from upstairs.training.trainer import Trainer, restore, train_run
from upstairs.tree import index

SEEDS = [3, 4, 5]


def pictures(classes: int = 6, examples: int = 5, side: int = 16) -> Source:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (classes * examples, 1, side, side), dtype=np.uint8)
    return Source.from_arrays(x, np.arange(classes).repeat(examples))


ROTATED, MIRRORED = {"rotate": True, "mirror": False}, {"rotate": False, "mirror": True}


def test_a_turned_or_mirrored_class_is_one_more_class() -> None:
    source = pictures()
    for how, times in ((ROTATED, 4), (MIRRORED, 2), ({"rotate": True, "mirror": True}, 8)):
        more = turned(source, **how)
        assert len(more) == times * len(source) == len(set(more.labels))
        episodes = Episodes(more, way=len(more), shot=1, query=4)
        task, classes = index(episodes.batch([0]), 0), episodes.classes(0)
        for k, c in enumerate(classes):
            original, turn = more.rows[c], more.turns[c]
            seen = source.inputs[original] / 255
            expected = np.rot90(seen[..., ::-1] if turn > 3 else seen, turn % 4, (2, 3)).astype(np.float32)
            assert {x.numpy().tobytes() for part in task for x in part.x[part.y == k]} == {
                x.tobytes() for x in expected
            }
        assert turned(more, **how).labels == more.labels  # what is there is not added again
    both = turned(turned(source, **ROTATED), **MIRRORED)  # as Omniglot's usual split, whose turns are classes already
    there = [{(turn, bytes(own)) for turn, own in zip(s.turns, s.rows, strict=True)} for s in (both, more)]
    assert there[0] == there[1] and len(there[0]) == len(both)
    two = replace(source, turns=(1, 0, 0, 0, 0, 0), groups=tuple("aabbcc"))
    made = turned(two, **ROTATED)
    assert len(made) == 24 and made.turns.count(1) == 6 and made.groups.count("a") == 8


def test_the_name_of_a_turned_class_says_how_it_is_seen() -> None:
    x = torch.from_numpy(pictures(classes=2, examples=1).inputs[:1, 0].copy())
    turns = {"rot090": 1, "rot180": 2, "rot270": 3}
    for first in range(8):
        source = replace(pictures(classes=2, examples=1), turns=(first, first))
        made = turned(source, rotate=True, mirror=True)
        for label, turn in zip(made.labels, made.turns, strict=True):
            seen = torch.rot90(x.flip(-1) if first > 3 else x, first % 4, (-2, -1))
            for word in label.split("/")[1:]:
                seen = seen.flip(-1) if word == "mirrored" else torch.rot90(seen, turns[word], (-2, -1))
            assert torch.equal(seen, torch.rot90(x.flip(-1) if turn > 3 else x, turn % 4, (-2, -1)))


def test_what_cannot_be_turned_or_mirrored_is_refused() -> None:
    for wrong in (
        Source.from_arrays(np.zeros((4, 6)), [0, 0, 1, 1]),
        Source.from_arrays(np.zeros((4, 1, 8, 9)), [0, 0, 1, 1]),
        replace(pictures(), format=AudioFormat(1.0)),
    ):
        with pytest.raises(UpstairsError, match="turns square pictures"):
            turned(wrong, **ROTATED)
        with pytest.raises(UpstairsError, match="mirrors square pictures"):
            turned(wrong, **MIRRORED)
    photos = replace(pictures(side=32), format=ImageFormat(32, 3, False))
    with pytest.raises(UpstairsError, match="photos, which mean the same"):
        turned(photos, **MIRRORED)


def test_fewer_classes_are_among_more() -> None:
    source = pictures(20)
    few, more = (set(some_classes(source, count, seed=1).labels) for count in (5, 12))
    assert len(few) == 5 and few < more and few != set(some_classes(source, 5, seed=2).labels)
    with pytest.raises(UpstairsError, match="has 20 training classes"):
        some_classes(source, 21)


def test_validation_classes_can_be_trained_on_too() -> None:
    source = pictures(20)
    splits = split_by_ratio(replace(source, groups=tuple(map(str, range(20)))), (0.5, 0.25, 0.25))
    more = training_classes(splits, validation=True, mirror=True)
    assert set(more.train.labels) == {f"{c}{m}" for s in splits[:2] for c in s.labels for m in ("", "/mirrored")}
    assert len(more.train) == 30 and len(more.val) == 0 and more.test is splits.test
    for label, group, rows in zip(more.train.labels, more.train.groups, more.train.rows, strict=True):
        assert group == label.split("/")[0] and (rows == source.rows[int(group)]).all()
    functions = Splits(*[function_source(Sinusoids())] * 3)
    with pytest.raises(UpstairsError, match="`train_on_validation` are about classes"):
        training_classes(functions, validation=True)


def test_a_run_on_validation_classes_too_keeps_its_last_weights(call: Call, tmp_path: Path) -> None:
    draw_folder(tmp_path / "data", classes=20)
    words = ("train", "protonet", "--data", tmp_path / "data", *SMALL, "--quiet", "--train-on-validation")
    run = tmp_path / "run"
    assert call(*words, "--steps", 4, "--validations", 2, "--out", run)[0] == 0
    best, last = (load_tensors(run / f"{name}.safetensors", kind="run") for name in ("best", "last"))
    assert best[1]["progress"]["step"] == 4 and best[1]["settings"]["classes"] == 16
    assert all(torch.equal(best[0][name], last[0][name]) for name in best[0] if name.startswith("learner."))
    status, out, err = call("evaluate", run, "--tasks", 600, "--way", 4, "--query", 2, "--quiet")
    assert status == 0 and "protonet" in out, err
    status, _, err = call(*words, "--steps", 4, "--patience", 1, "--out", tmp_path / "other")
    assert status == 2 and "--patience waits for the validation tasks" in err


def settings(learner: str = "protonet", **changes: object) -> Settings:
    values = {"learner": learner, "way": 4, "shot": "1", "query": 2, "tasks": 2, "net": "mlp", "width": 8, **changes}
    return settings_of(**{"norm": "none", "steps": 6, "validations": 3, "validation_tasks": 8, **values})


def remedy(episodes: Episodes, **changes: object) -> Task:
    return remedied(
        episodes.batch(SEEDS), SEEDS, settings(**changes), global_labels=False, draw=episodes.batch
    )  # fmt: skip


def test_mlti_mixes_two_tasks_by_one_share() -> None:
    episodes = Episodes(pictures(), way=4, shot=1, query=2)
    mixed, own = remedy(episodes, interpolate="mlti"), episodes.batch(SEEDS)
    others = episodes.batch([seed + (PARTNERS << 31) for seed in SEEDS])
    for i in range(len(SEEDS)):
        found = []
        for part in (0, 1):
            a, b, x = (t[part].x[i].double().numpy().ravel() for t in (own, others, mixed))
            share = np.dot(x - b, a - b) / np.dot(a - b, a - b)  # least squares
            np.testing.assert_allclose(x, share * a + (1 - share) * b, atol=1e-6)
            found.append(share)
        assert abs(found[0] - found[1]) < 1e-6 and 0 <= found[0] <= 1
        assert torch.equal(mixed.query.y, own.query.y)
    waves = Episodes(function_source(Sinusoids()), way=None, shot=5, query=3)
    y = remedy(waves, interpolate="mlti", way=None).query.y
    assert y.shape == (3, 3, 1) and not torch.equal(y, waves.batch(SEEDS).query.y)


def test_shares_are_of_a_beta_distribution() -> None:
    for a in (0.5, 2.0):
        draws = shares(range(4000), a, 1).double()
        variance = 1 / (4 * (2 * a + 1))  # false alarm: 5 standard errors, 1e-6
        assert abs(draws.mean() - 0.5) < 5 * (variance / 4000) ** 0.5
        assert abs(draws.var() / variance - 1) < 0.15


def test_metamix_loss_is_that_of_both_labels() -> None:
    episodes = Episodes(pictures(), way=4, shot=(1, 2), query=3)
    tasks = episodes.batch(SEEDS)
    mixed = mix_queries(tasks, SEEDS, 0.5, outputs=4)
    assert torch.equal(mixed.support.x, tasks.support.x) and torch.equal(mixed.support.y, tasks.support.y)
    logits = torch.randn(4)
    partners = set()
    for i in range(len(SEEDS)):
        for q in range(12):
            x, own, shares_of = mixed.query.x[i, q], tasks.query.x[i, q], mixed.query.y[i, q]
            assert abs(float(shares_of.sum()) - 1) < 1e-6
            fits = []
            for s in range(len(tasks.support.mask[i])):
                if tasks.support.mask[i, s]:
                    a, b = own.double() - tasks.support.x[i, s], (x - tasks.support.x[i, s]).double()
                    share = float((a * b).sum() / (a * a).sum())
                    fits.append((float((b - share * a).abs().max()), share, s))
            error, share, s = min(fits)
            assert error < 1e-6
            partners.add((i, s))
            y, z = int(tasks.query.y[i, q]), int(tasks.support.y[i, s])
            both = share * F.cross_entropy(logits, torch.tensor(y)) + (1 - share) * F.cross_entropy(
                logits, torch.tensor(z)
            )
            torch.testing.assert_close(F.cross_entropy(logits, shares_of), both, atol=1e-5, rtol=0)
    assert len(partners) > 8


def test_smoothed_labels_are_torchs() -> None:
    tasks = blobs(3)
    soft = tasks._replace(query=smoothed(tasks.query, 0.2, outputs=WAY))
    logits = torch.randn(3 * 15, WAY)
    expected = F.cross_entropy(logits, tasks.query.y.flatten(), reduction="none", label_smoothing=0.2)
    torch.testing.assert_close(F.cross_entropy(logits, soft.query.y.flatten(0, 1), reduction="none"), expected)
    assert torch.equal(with_places(soft).query.y, tasks.query.y)


REFUSED = ("reptile", "lstm", "memory", "co_training")
CLASSIFY = [name for name, line in LEARNERS.items() if line.classification is not None and name not in REFUSED]


@pytest.mark.parametrize("name", CLASSIFY)
def test_every_learner_takes_shares_of_classes(name: str) -> None:
    torch.manual_seed(0)
    own = settings_of(learner=name, net="mlp", norm="none", width=8, inner_lr=0.1, label_smoothing=0.3)
    learner = make_learner(own, (8,), WAY)
    hard = blobs(2)
    soft = remedied(hard, [0, 1], own, global_labels=learner.global_labels, draw=lambda seeds: hard)
    assert soft.query.y.ndim == 3

    def losses(tasks: Task) -> torch.Tensor:
        torch.manual_seed(1)
        return learner(tasks)[0]

    if name != "versa":  # its noise is drawn anew
        alone = torch.stack([learner.meta_loss(index(soft, i))[0] for i in range(2)])
        torch.testing.assert_close(losses(soft), alone, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(losses(soft), losses(hard), atol=1e-6)
    meta_backward(learner, soft)
    grads = [p.grad for p in learner.parameters() if p.grad is not None]
    assert grads and all(bool(g.isfinite().all()) for g in grads)


def test_dropout_leaves_out_channels_in_training_alone() -> None:
    torch.manual_seed(0)
    net, plain = conv4((1, 16, 16), width=32, dropout=0.25), conv4((1, 16, 16), width=32)
    plain.load_state_dict(net.state_dict())
    x = torch.rand(64, 1, 16, 16)
    calibrate(net, [x]), calibrate(plain, [x])
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), plain.state_dict().values(), strict=True))
    net.eval(), plain.eval()
    assert torch.equal(net(x), plain(x))
    block = net.get_submodule("block0").train()
    left_out = (block(x) == 0).flatten(2).all(-1).float().mean()
    none = (plain.get_submodule("block0").train()(x) == 0).flatten(2).all(-1).float().mean()
    assert abs(float(left_out - none) - 0.25 * (1 - float(none))) < 0.05  # 2048 channels: 5 standard errors
    with pytest.raises(UpstairsError, match="`dropout` is for"):
        make_learner(settings_of(learner="protonet", net="projection", dropout=0.1), (8,), WAY)


def test_dropout_falls_the_same_way_when_inner_steps_are_computed_again() -> None:
    torch.manual_seed(0)
    learner = make_learner(settings("maml", dropout=0.3, inner_steps=3, way=WAY), (8,), WAY)
    assert any(isinstance(m, nn.Dropout) for m in learner.modules())
    found = []
    for recompute in (False, True):
        torch.manual_seed(2)
        learner.zero_grad()
        meta_backward(learner, blobs(2), recompute=recompute)
        found.append([p.grad.clone() for p in learner.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found, strict=True))


def test_training_with_all_of_them_resumes_to_the_same_bits(tmp_path: Path) -> None:
    splits = split_by_ratio(pictures(24, 6), (0.5, 0.25, 0.25))
    s = settings(interpolate="mlti", label_smoothing=0.1, dropout=0.2, weight_decay=0.1, net="conv4", norm="population")
    train_run(Trainer(s, splits, tmp_path / "whole"))

    def interrupt(status) -> None:
        if status.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(Trainer(s, splits, tmp_path / "stopped"), interrupt)
    again = Trainer(s, splits, tmp_path / "stopped")
    restore(again)
    train_run(again)
    one, two = (load_tensors(tmp_path / n / "last.safetensors", kind="run")[0] for n in ("whole", "stopped"))
    assert all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize(
    ("accuracies", "stale"),
    [([0.5], False), ([0.5, 0.4], False), ([0.5, 0.4, 0.45], True), ([0.5, 0.5, 0.5], True), ([0.5, 0.4, 0.6], False),
     ([0.3, 0.6, 0.5, 0.55], True), ([0.3, 0.6, 0.5], False)],
)  # fmt: skip
def test_early_stopping_waits_for_patience(tmp_path: Path, accuracies: list[float], stale: bool) -> None:
    run = Trainer(settings(patience=2), split_by_ratio(pictures(24), (0.5, 0.25, 0.25)), tmp_path)
    run.progress.history = [{"step": i, "accuracy": a} for i, a in enumerate(accuracies)]
    assert run.stale == stale
    if stale:
        train_run(run)
        assert run.progress.step == 0


def test_the_command_takes_them_and_refuses_what_cannot_be(call: Call, tmp_path: Path) -> None:
    draw_folder(tmp_path / "data", classes=20)
    words = ("train", "protonet", "--data", tmp_path / "data", *SMALL, "--steps", 4, "--quiet")
    more = ("--train-classes", 6, "--rotate-classes", "--interpolate", "metamix", "--dropout", 0.1)
    assert call(*words, *more, "--patience", 1, "--out", tmp_path / "run")[0] == 0
    meta = load_tensors(tmp_path / "run" / "last.safetensors", kind="run")[1]
    assert meta["settings"]["classes"] == 24 and meta["settings"]["rotate_classes"]
    assert call("train", "--out", tmp_path / "run", "--resume", "--steps", 6, "--quiet")[0] == 0
    cases = [
        (("--train-classes", 1), "--train-classes is 1"),
        (("--train-classes", 99), "training classes"),
        (("--interpolate", "mlti", "--shot", "1-3"), "mlti mixes example with example"),
        (("--interpolate", "mlti", "--hard", 0.2), "--hard looks for"),
        (("--dropout", 1), "--dropout is 1"),
        (("--label-smoothing", -0.1), "--label-smoothing is -0.1"),
        (("--mixing", 0), "--mixing is 0"),
        (("--patience", 0), "--patience is 0"),
    ]
    for given, message in cases:
        status, _, err = call(*words, *given, "--out", tmp_path / "x")
        assert status == 2 and message in err and err.count("\n") == 1, f"{given}: {err}"
    others = [
        (("reptile", "--data", tmp_path / "data", "--shot", 2, "--label-smoothing", 0.1), "looks at none of them"),
        (("lstm", "--data", tmp_path / "data", "--interpolate", "metamix"), "receives them one by one"),
        (("co_training", "--data", tmp_path / "data", "--label-smoothing", 0.1), "reads them in two ways"),
        (("simpleshot", "--data", tmp_path / "data", "--interpolate", "mlti"), "classifies all training classes"),
        (("maml", "--data", "sinusoid", "--label-smoothing", 0.1), "--label-smoothing is about classes"),
        (("maml", "--data", "sinusoid", "--train-classes", 5), "are about classes"),
    ]
    for given, message in others:
        status, _, err = call("train", *given, "--steps", 1, "--out", tmp_path / "x", "--quiet")
        assert status == 2 and message in err and err.count("\n") == 1, f"{given}: {err}"


def test_pictures_that_are_to_be_drawn_are_not_mixed() -> None:
    own = settings_of(learner="neural_statistician", net="mlp", norm="none", width=8, way=1, interpolate="mlti")
    source = Source.from_arrays(np.zeros((6, 8), np.float32), np.arange(6) // 2)
    with pytest.raises(UpstairsError, match="learns to draw what it is shown"):
        check_compatible(own, make_learner(own, (8,), 1), source, validated=True)
