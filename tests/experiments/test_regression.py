"""Regression on the command line: trained, judged by the squared error, compared; and each kind refuses the other."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import upstairs
from helpers.runs import SMALL, Call, draw_folder
from upstairs.data.episodes import Episodes
from upstairs.data.regression.functions import function_splits
from upstairs.engine.evaluate import frozen_seeds

BUDGET = ("--quiet", "--validations", 2, "--validation-tasks", 20)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "maml"
    upstairs.train("maml", data="sinusoid", out=out, steps=400, validations=4, validation_tasks=50, quiet=True)
    return out


def test_training_lowers_the_error(call: Call, trained: Path) -> None:
    run = upstairs.load(trained)
    s = run.settings
    assert (s.way, s.shot, s.tasks, s.net, s.width) == (None, "5", 25, "mlp", 40)
    assert (s.own.inner_steps, s.own.inner_lr, s.task_kind) == (1, 0.01, "regression")
    assert [p.shape[0] for p in run.learner.parameters()] == [40, 40, 40, 40, 1, 1]
    errors = [point["mse"] for point in run.history]
    assert min(errors) < 0.9 * errors[0] and all("accuracy" not in point for point in run.history)
    status, out, _ = call("evaluate", trained, "--tasks", 40, "--json")
    result = json.loads(out)
    assert status == 0 and result["way"] is None and result["shot"] == 5 and result["data"] == "sinusoid"
    assert set(result["baselines"]) == {"support_mean", "scratch"} and "accuracy" not in result
    assert result["mse"] < result["baselines"]["support_mean"]["mse"]
    # by hand, one task after another
    episodes = Episodes(function_splits("sinusoid").test, shot=5, query=15)
    by_hand = []
    for seed in frozen_seeds(0, 40):
        support, query = episodes.batch([seed])
        net = torch.nn.Sequential(*(m for m in run.learner.net))
        loss = ((net(support.x[0]) - support.y[0]) ** 2).mean()
        grads = torch.autograd.grad(loss, list(net.parameters()))
        h = query.x[0]
        for i in range(0, 6, 2):
            w, b = (p - 0.01 * g for p, g in list(zip(net.parameters(), grads, strict=True))[i : i + 2])
            h = h @ w.T + b
            h = h.relu() if i < 4 else h
        by_hand.append(float(((h - query.y[0]) ** 2).mean().detach()))
    np.testing.assert_allclose(result["mse"], np.mean(by_hand), rtol=1e-4)
    status, out, _ = call("evaluate", trained, "--tasks", 10)
    assert (
        status == 0
        and "mse" in out
        and "5 examples" in out
        and "support mean" in out
        and "%" not in out.replace("95%", "")
    )


def test_gp_has_the_best_possible_beside_it(call: Call, tmp_path: Path) -> None:
    words = ("--data", "gp", "--shot", "4-8", "--steps", 3, *BUDGET, "--out")
    assert call("train", "fomaml", *words, tmp_path / "one")[0] == 0
    assert call("train", "anil", *words, tmp_path / "two")[0] == 0
    result = json.loads(call("evaluate", tmp_path / "one", "--tasks", 30, "--json")[1])
    assert result["shot"] == 8
    scores = result["baselines"]
    assert set(scores) == {"support_mean", "scratch", "exact_posterior"}
    assert scores["exact_posterior"]["mse"] < min(
        result["mse"], scores["scratch"]["mse"], scores["support_mean"]["mse"]
    )
    result = json.loads(call("compare", tmp_path / "one", tmp_path / "two", "--tasks", 30, "--json")[1])
    assert result["scores"][0]["name"] == "exact_posterior"
    assert all(pair["difference"] <= 0 for pair in result["differences"])
    status, out, _ = call("compare", tmp_path / "one", tmp_path / "two", "--tasks", 30)
    assert status == 0 and "mse" in out and "points" not in out


def test_the_best_validation_error_is_kept(tmp_path: Path) -> None:
    """A rate that ruins it: the best weights are an early point's."""
    budget = {"validations": 5, "validation_tasks": 20, "quiet": True}
    run = upstairs.train("maml", data="sinusoid", out=tmp_path / "run", steps=50, lr=3e-2, seed=1, **budget)
    errors = [point["mse"] for point in run.history]
    assert run.meta["progress"]["best"] == min(errors)


def test_each_kind_refuses_the_other(call: Call, trained: Path, tmp_path: Path) -> None:
    pictures = draw_folder(tmp_path / "pictures")
    assert (
        call("train", "protonet", "--data", pictures, "--out", tmp_path / "p", "--steps", 1, *SMALL, "--quiet")[0] == 0
    )
    cases = [
        (("train", "protonet", "--data", "sinusoid", "--out", tmp_path / "out"), "'protonet' needs classes"),
        (("train", "maml", "--data", "sinusoid", "--way", 5, "--out", tmp_path / "out"), "--way is 5 and sinusoid"),
        (("evaluate", tmp_path / "p", "--data", "sinusoid"), "learned classes and sinusoid is regression"),
        (("evaluate", trained, "--data", pictures), "learned regression and"),
        (("evaluate", trained, "--way", 5), "--way is 5 and sinusoid"),
        (("compare", tmp_path / "p", trained), "was trained with --data"),
        (("report", trained), "learned regression"),
        (("adapt", trained, "--support", pictures, "--out", tmp_path / "m"), "learned regression, which has no labels"),
    ]
    for words, needed in cases:
        status, out, err = call(*words)
        assert status == 2 and needed in err and err.count("\n") == 1 and out == "", f"{words}: {err}"
    assert not (tmp_path / "out").exists()


def test_a_learner_of_regression_alone_refuses_classes(
    monkeypatch: pytest.MonkeyPatch, call: Call, tmp_path: Path
) -> None:
    from upstairs import learners

    line = replace(learners.LEARNERS["maml"], classification=None)
    monkeypatch.setitem(learners.LEARNERS, "curve", line)
    status, _, err = call("train", "curve", "--data", draw_folder(tmp_path / "pictures"), "--out", tmp_path / "out")
    assert status == 2 and "'curve' needs regression tasks and the data is classes" in err
    assert call("train", "curve", "--data", "gp", "--out", tmp_path / "out", "--steps", 1, *BUDGET)[0] == 0


def test_resuming_is_the_same_to_the_bit(tmp_path: Path) -> None:
    budget = {"validations": 2, "validation_tasks": 5, "quiet": True, "data": "sinusoid"}
    upstairs.train("maml", out=tmp_path / "whole", steps=8, **budget)
    whole = upstairs.load(tmp_path / "whole").learner.state_dict()
    from upstairs.training.trainer import Trainer, restore, train_run

    settings = upstairs.load(tmp_path / "whole").settings
    splits = function_splits("sinusoid")

    def stop(status) -> None:
        if status.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(Trainer(settings, splits, tmp_path / "part"), stop)
    again = Trainer(settings, splits, tmp_path / "part")
    restore(again)
    train_run(again)
    assert all(torch.equal(v, whole[k]) for k, v in upstairs.load(tmp_path / "part").learner.state_dict().items())
