"""Pretrain, meta-train, fine-tune: each stage checked on its own, and the whole by one command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import upstairs
from helpers.runs import SMALL, Call, draw_folder, settings_of
from helpers.tasks import WAY, blobs, double
from upstairs.core import Examples, Task
from upstairs.data.episodes import Episodes
from upstairs.data.images.datasets import open_data
from upstairs.data.source import Source
from upstairs.engine.meta_backward import meta_backward
from upstairs.engine.metrics import hardest_classes
from upstairs.errors import UpstairsError
from upstairs.learners import mtl, seeded_learner
from upstairs.learners.gradient.mtl import scale_shift
from upstairs.nets import conv4
from upstairs.storage import load_tensors
from upstairs.training.pretrain import copy_weights
from upstairs.training.trainer import Trainer, hard_classes, restore, take_step, train_run


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("data") / "pictures", classes=30)


def net(norm: str, out: int = WAY) -> nn.Sequential:
    torch.manual_seed(0)
    made = conv4((1, 16, 16), width=6, norm=norm, out=out).double()
    for layer in made.modules():
        if hasattr(layer, "variance"):  # statistics of some pretraining
            layer.mean.normal_(), layer.variance.uniform_(0.5, 2.0)
    return made


@pytest.mark.parametrize("norm", ["population", "group", "none"])
def test_scales_of_one_change_nothing_and_only_scales_shifts_and_the_head_learn(norm: str) -> None:
    plain, x = net(norm).eval(), torch.randn(3, 1, 16, 16, dtype=torch.float64)
    scaled = scale_shift(plain).train()
    torch.testing.assert_close(scaled(x), plain(x), rtol=1e-9, atol=1e-9)
    assert set(plain.state_dict()) <= set(scaled.state_dict()), "a pretrained checkpoint fits by name"
    learned = {n for n, p in scaled.named_parameters() if p.requires_grad}
    assert {"head.weight", "head.bias", "block0.0.scale", "block3.0.scale"} <= learned
    assert not {n for n in learned if n.startswith("block") and n.endswith("weight")}
    assert scaled.block1[0].scale.shape == (6, 6, 1, 1)


def test_a_meta_gradient_of_mtl_equals_a_loop_by_torch() -> None:
    """Published in words: frozen weights times scales, statistics settled, the head alone adapted; torch.autograd."""
    plain, tasks = net("population").eval(), double(blobs(2, shape=(1, 16, 16)))
    learner = mtl(plain, way=WAY, inner_lr=0.2, steps=3).train()
    blocks = [plain.get_submodule(f"block{i}") for i in range(4)]
    scales = [torch.ones_like(b[0].weight[:, :, :1, :1]).requires_grad_() for b in blocks]
    shifts = [b[1].bias.detach().clone().requires_grad_() for b in blocks]
    start = [p.detach().clone().requires_grad_() for p in plain.head.parameters()]

    def features(x):
        for block, scale, shift in zip(blocks, scales, shifts, strict=True):
            n = block[1]
            x = F.conv2d(x, block[0].weight.detach() * scale, padding=1)
            x = F.batch_norm(x, n.mean, n.variance, n.weight.detach(), shift, training=False, eps=n.eps)
            x = F.max_pool2d(F.relu(x), 2)
        return x.flatten(1)

    total = 0.0
    for i in range(2):
        head = list(start)
        for _ in range(3):
            loss = F.cross_entropy(features(tasks.support.x[i]) @ head[0].T + head[1], tasks.support.y[i])
            head = [p - 0.2 * g for p, g in zip(head, torch.autograd.grad(loss, head, create_graph=True), strict=True)]
        total = total + F.cross_entropy(features(tasks.query.x[i]) @ head[0].T + head[1], tasks.query.y[i]) / 2
    expected = torch.autograd.grad(total, [*scales, *shifts, *start])
    meta_backward(learner, tasks)
    own = dict(learner.net.named_parameters())
    names = [f"block{i}.0.scale" for i in range(4)] + [f"block{i}.1.bias" for i in range(4)]
    for name, gradient in zip([*names, "head.weight", "head.bias"], expected, strict=True):
        torch.testing.assert_close(own[name].grad, gradient, rtol=1e-8, atol=1e-10, msg=lambda t, n=name: f"{n}: {t}")
    assert own["block0.0.weight"].grad is None and own["block0.1.weight"].grad is None


def test_own_labels_are_places_and_hard_tasks_are_of_the_given_classes() -> None:
    x = np.arange(60).reshape(20, 3).repeat(2, 0).astype(np.float32)
    source = Source.from_arrays(x, [f"{k:02d}" for k in range(10) for _ in range(4)])
    places = Episodes(source, way=4, shot=1, query=2, global_labels=True)
    usual = Episodes(source, way=4, shot=1, query=2)
    for seed in range(5):
        for part, other in zip(places.batch([seed]), usual.batch([seed]), strict=True):
            assert torch.equal(part.x, other.x)
            assert torch.equal(part.x[0, :, 0].div(6, rounding_mode="floor").long(), part.y[0])
            assert torch.equal(torch.tensor(usual.classes(seed))[other.y[0]], part.y[0])
        hard = places.batch([seed], among=[1, 4, 5, 8, 9])
        assert set(hard.query.y[0].tolist()) == set(usual.classes(seed, [1, 4, 5, 8, 9])) <= {1, 4, 5, 8, 9}


def test_the_hardest_class_is_the_one_with_the_lowest_share_of_right_answers() -> None:
    y = torch.tensor([[0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2]])
    said = torch.tensor([[0, 0, 1, 2, 0, 1], [1, 0, 1, 1, 2, 2]])
    mask = torch.ones(2, 6, dtype=torch.bool)
    tasks = Task(*[Examples(torch.zeros(2, 6, 1), y, mask)] * 2)
    assert hardest_classes(F.one_hot(said, 3).float(), tasks) == [2, 0]
    masked = tasks._replace(query=tasks.query._replace(mask=mask & (y != 2)))
    assert hardest_classes(F.one_hot(said, 3).float(), masked) == [1, 0]


def test_every_so_often_a_step_is_on_the_hardest_classes(pictures: Path, tmp_path: Path) -> None:
    settings = settings_of(learner="protonet", way=3, query=2, tasks=2, width=4, steps=12, hard=0.25, validations=1)
    run = Trainer(settings, open_data(pictures), tmp_path / "whole")
    met = []
    for step in range(12):
        expected = sorted(set(run.progress.hard))
        among = hard_classes(run)
        if among is not None:
            met.append(step)
            assert among == expected and len(among) >= 3 and run.progress.hard == []
            run.progress.hard = expected  # as it was
        take_step(run)
    assert met == [3, 7, 11]


def test_a_run_with_hard_steps_goes_on_to_the_same_bits(pictures: Path, tmp_path: Path) -> None:
    settings = settings_of(learner="protonet", way=3, query=2, tasks=2, width=4, steps=9, hard=0.5, validations=1)
    splits = open_data(pictures)
    train_run(Trainer(settings, splits, tmp_path / "whole"))

    def stop(status) -> None:
        if status.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(Trainer(settings, splits, tmp_path / "part"), stop)
    again = Trainer(settings, splits, tmp_path / "part")
    restore(again)
    assert again.progress.hard
    train_run(again)
    whole, part = (load_tensors(tmp_path / n / "last.safetensors", kind="run")[0] for n in ("whole", "part"))
    assert all(torch.equal(whole[k], part[k]) for k in whole)


def test_one_command_pretrains_meta_trains_and_fine_tunes(call: Call, pictures: Path, tmp_path: Path) -> None:
    words = ("train", "mtl", "--data", pictures, "--quiet", *SMALL, "--steps", 60, "--width", 8)
    status, _, err = call(*words, "--out", tmp_path / "run")
    assert status == 0, err
    first, run = upstairs.load(tmp_path / "run" / "pretrain"), upstairs.load(tmp_path / "run")
    assert first.settings.learner == "simpleshot" and first.meta["progress"]["step"] == 36
    assert run.meta["progress"]["step"] == 24 and run.settings.hard == 0.2
    theirs, own = first.learner.state_dict(), run.learner.state_dict()
    for i in range(4):
        for kind in ("0.weight", "1.weight", "1.mean", "1.variance"):
            assert torch.equal(own[f"net.block{i}.{kind}"], theirs[f"encoder.block{i}.{kind}"]), "frozen"
        assert not torch.equal(own[f"net.block{i}.1.bias"], theirs[f"encoder.block{i}.1.bias"])
    assert theirs["encoder.block0.1.mean"].abs().sum() > 0
    assert first.history[-1]["loss"] < first.history[0]["loss"]
    result = json.loads(call("evaluate", tmp_path / "run", "--way", 3, "--tasks", 40, "--no-baselines", "--json")[1])
    assert result["accuracy"] > 0.5 and not result["transductive"]
    assert call("adapt", tmp_path / "run", "--support", draw_folder(tmp_path / "new", classes=3, seed=7),
                "--out", tmp_path / "model.safetensors", "--quiet")[0] == 0  # fmt: skip
    picture = sorted((tmp_path / "new" / "class01").glob("*.png"))[-1]
    assert call("predict", tmp_path / "model.safetensors", picture)[1].split()[1] == "class01"
    assert call(*words, "--out", tmp_path / "run", "--resume")[0] == 0


def test_stopped_while_it_pretrains_it_goes_on(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from upstairs.training import pretrain as pipeline

    small = {"width": 4, "way": 3, "query": 2, "steps": 20, "validations": 1, "validation_tasks": 4, "quiet": True}
    real = pipeline.train_run

    def stopped(run, tell) -> None:
        def stop(status) -> None:
            if status.step == 5:
                raise KeyboardInterrupt

        real(run, stop)

    monkeypatch.setattr(pipeline, "train_run", stopped)
    with pytest.raises(KeyboardInterrupt, match="step 5 of pretraining for mtl is saved; the same command goes on"):
        upstairs.train("mtl", data=pictures, out=tmp_path / "run", **small)
    monkeypatch.undo()
    part = upstairs.train("mtl", data=pictures, out=tmp_path / "run", **small)
    whole = upstairs.train("mtl", data=pictures, out=tmp_path / "whole", **small)
    assert all(torch.equal(v, whole.learner.state_dict()[k]) for k, v in part.learner.state_dict().items())


def test_start_from_copies_what_fits(call: Call, pictures: Path, tmp_path: Path) -> None:
    words = ("--data", pictures, "--quiet", *SMALL, "--steps", 2)
    assert call("train", "simpleshot", *words, "--out", tmp_path / "first")[0] == 0
    before = upstairs.load(tmp_path / "first").learner.state_dict()
    fresh = seeded_learner(settings_of(learner="protonet", width=4, way=3), (1, 28, 28), 3)
    assert copy_weights(fresh, tmp_path / "first") == len(fresh.state_dict()) == 4 * 6
    assert all(torch.equal(v, before[k]) for k, v in fresh.state_dict().items())
    deep = seeded_learner(settings_of(learner="proto_maml", width=4, way=3), (1, 28, 28), 3)
    assert copy_weights(deep, tmp_path / "first") == 4 * 6  # `net.encoder.block0`, where the other has `encoder.block0`
    assert torch.equal(deep.state_dict()["net.encoder.block2.0.weight"], before["encoder.block2.0.weight"])
    start = ("--start-from", tmp_path / "first")
    assert call("train", "protonet", *words, *start, "--lr", 1e-30, "--out", tmp_path / "second")[0] == 0
    after = upstairs.load(tmp_path / "second").learner.state_dict()
    assert torch.allclose(after["encoder.block2.0.weight"], before["encoder.block2.0.weight"])
    assert call("train", "mtl", *words, *start, "--out", tmp_path / "third")[0] == 0
    third = upstairs.load(tmp_path / "third")
    assert torch.equal(third.learner.state_dict()["net.block2.0.weight"], before["encoder.block2.0.weight"])
    assert third.settings.pretrain == 0 and not (tmp_path / "third" / "pretrain").exists()
    cases = [
        (("mtl", *start, "--pretrain", 0.5), "both --pretrain and --start-from"),
        (("protonet", "--start-from", tmp_path / "nowhere"), "holds no checkpoint to start from"),
        (("maml", "--net", "mlp", "--norm", "none", *start), "no weight of"),
        (("protonet", "--pretrain", 1.5), "--pretrain is 1.5: it must be from 0"),
        (("protonet", "--hard", 0.9), "--hard is 0.9: it must be from 0"),
    ]
    for more, needed in cases:
        status, _, err = call("train", *words, *more, "--out", tmp_path / "out")
        assert status == 2 and needed in err and err.count("\n") == 1, f"{more}: {err}"
    status, _, err = call("train", "maml", "--data", "sinusoid", "--hard", 0.2, "--out", tmp_path / "out")
    assert status == 2 and "--hard and --pretrain are about" in err and err.count("\n") == 1, err
    with pytest.raises(UpstairsError, match="no weight of"):
        copy_weights(seeded_learner(settings_of(learner="protonet", width=8), (1, 28, 28), 3), tmp_path / "first")
