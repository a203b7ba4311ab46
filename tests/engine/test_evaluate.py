"""Evaluation: frozen tasks, honest intervals, nothing written, nothing kept."""

import json

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from upstairs.data.episodes import Episodes
from upstairs.data.regression.functions import GaussianProcess
from upstairs.data.source import Source, function_source
from upstairs.engine.evaluate import evaluate, frozen_seeds, score_tasks
from upstairs.errors import UpstairsError
from upstairs.learners import ProtoNet, SupportMean, maml, nearest_centroid
from upstairs.nets import conv4, mlp
from upstairs.statistics import interval, paired_differences, paired_interval


def source(noise: float = 0.5, classes: int = 10, shape: tuple[int, ...] = (6,)) -> Source:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(classes, 1, *shape)) + noise * rng.normal(size=(classes, 12, *shape))
    return Source.from_arrays(x.reshape(-1, *shape), np.arange(classes).repeat(12))


def test_nearest_centroid_equals_numpy() -> None:
    episodes = Episodes(source(1.0), way=4, shot=3, query=5)
    seeds = frozen_seeds(0, 20)
    expected = []
    for seed in seeds:
        support, query = episodes.batch([seed])
        centroids = np.stack([support.x[0][support.y[0] == k].numpy().mean(0) for k in range(4)])
        distance = ((query.x[0].numpy()[:, None] - centroids) ** 2).sum(-1)
        expected.append((distance.argmin(-1) == query.y[0].numpy()).mean())
    np.testing.assert_allclose(score_tasks(nearest_centroid(way=4), episodes, seeds), expected)
    assert 0.3 < np.mean(expected) < 0.999


def test_chunks_do_not_matter_and_the_learner_is_left_alone() -> None:
    torch.manual_seed(0)
    learner = maml(conv4((1, 16, 16), width=4, norm="batch", out=3), way=3, steps=2).train()
    learner.net[0].eval()
    modes = [m.training for m in learner.modules()]
    before = {k: v.clone() for k, v in learner.state_dict().items()}
    episodes = Episodes(source(shape=(1, 16, 16)), way=3, shot=1, query=2)
    scores = [score_tasks(learner, episodes, range(7), chunk=c) for c in (1, 3, 7)]
    assert (scores[0] == scores[1]).all() and (scores[0] == scores[2]).all()
    assert [m.training for m in learner.modules()] == modes
    assert all(torch.equal(before[k], v) for k, v in learner.state_dict().items())
    assert all(p.grad is None for p in learner.parameters())


def test_result_has_both_figures_of_a_transductive_learner() -> None:
    torch.manual_seed(0)
    learner = maml(conv4((1, 16, 16), width=4, norm="batch", out=3), way=3, steps=1)
    episodes = Episodes(source(shape=(1, 16, 16)), way=3, shot=1, query=2)
    result = evaluate(learner, episodes, tasks=10, baselines={"nearest_centroid": nearest_centroid(way=3)})
    assert result["transductive"] and 0 <= result["inductive"]["accuracy"] <= 1
    assert set(result["baselines"]) == {"nearest_centroid"}
    plain = evaluate(ProtoNet(nn.Flatten(), way=3), episodes, tasks=10)
    assert not plain["transductive"] and "inductive" not in plain


def test_baselines_without_learning_are_there_unless_they_are_left_out() -> None:
    episodes = Episodes(source(), way=3, shot=1, query=2)
    learner = maml(mlp((6,), out=3), way=3)
    expected = evaluate(nearest_centroid(way=3), episodes, tasks=10, baselines={})
    assert expected["baselines"] == {}
    found = evaluate(learner, episodes, tasks=10)["baselines"]
    assert found == {"nearest_centroid": {k: expected[k] for k in ("accuracy", "ci95", "transductive")}}
    functions = evaluate(SupportMean(), Episodes(function_source(GaussianProcess()), shot=3, query=2), tasks=4)
    assert set(functions["baselines"]) == {"support_mean", "exact_posterior"}
    assert functions["baselines"]["support_mean"]["mse"] == functions["mse"]


def test_a_result_prints_plainly_and_is_a_dict_for_json() -> None:
    torch.manual_seed(0)
    learner = maml(conv4((1, 16, 16), width=4, norm="batch", out=3), way=3, steps=1)
    episodes = Episodes(source(shape=(1, 16, 16)), way=3, shot=1, query=2)
    result = evaluate(learner, episodes, tasks=10)
    assert json.loads(json.dumps(result)) == result
    score, alone = (f"{100 * r['accuracy']:.1f}% ± {100 * r['ci95']:.1f}" for r in (result, result["inductive"]))
    first, *rest = str(result).splitlines()
    assert first == f"3-way 1-shot, 2 queries a class: accuracy {score} (95% interval over 10 tasks)"
    assert "transductive: it sees all queries of a task at once" in rest
    assert f"inductive, one query at a time: {alone}" in rest and "baseline nearest centroid: " in rest[-1]
    plain = str(evaluate(nearest_centroid(way=3), episodes, tasks=10, baselines={})).splitlines()
    assert plain[1:] == ["inductive: each query is predicted without the others"]


def test_alone_means_alone() -> None:
    """A query's answer does not change when the other queries do."""
    torch.manual_seed(0)
    learner = maml(conv4((1, 16, 16), width=4, norm="batch", out=3), way=3, steps=1).eval()
    tasks = Episodes(source(shape=(1, 16, 16)), way=3, shot=1, query=2).batch([0])
    other = tasks.query.x.clone()
    other[:, 1:] = torch.randn_like(other[:, 1:])
    changed = tasks._replace(query=tasks.query._replace(x=other))
    torch.testing.assert_close(learner.solve_inductive(tasks)[0, 0], learner.solve_inductive(changed)[0, 0])
    assert not torch.allclose(learner.solve(tasks)[0, 0], learner.solve(changed)[0, 0])


def test_interval_is_students() -> None:
    values = np.random.default_rng(0).normal(size=30)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    mean, half = interval(values)
    np.testing.assert_allclose([mean - half, mean + half], [low, high])


def test_paired_interval_is_students_paired_t() -> None:
    rng = np.random.default_rng(0)
    difficulty = rng.normal(size=40)
    a, b = (difficulty + 0.1 * rng.normal(size=40) for _ in range(2))
    low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
    mean, half = paired_interval(a, b)
    np.testing.assert_allclose([mean - half, mean + half], [low, high])
    assert half < 0.3 * np.hypot(interval(a).ci95, interval(b).ci95)
    with pytest.raises(UpstairsError, match="40 and 39 tasks cannot be paired"):
        paired_interval(a, b[1:])


def test_paired_differences_name_the_better_first_and_leave_baselines_apart() -> None:
    scores = {
        "a": [0.1, 0.2, 0.4],
        "b": [0.6, 0.6, 0.9],
        "c": [0.5, 0.7, 0.8],
        "plain": [0.0, 0.1, 0.0],
        "other": [0, 0, 0],
    }
    found = paired_differences(scores, baselines=("plain", "other"))
    assert {(p["first"], p["second"]) for p in found} == {
        ("b", "c"), ("b", "a"), ("c", "a"), ("b", "plain"), ("c", "plain"), ("a", "plain"), ("b", "other"),
        ("c", "other"), ("a", "other"),
    }  # fmt: skip
    for pair in found:
        low, high = stats.ttest_rel(scores[pair["first"]], scores[pair["second"]]).confidence_interval(0.95)
        np.testing.assert_allclose([pair["difference"] - pair["ci95"], pair["difference"] + pair["ci95"]], [low, high])
        assert pair["difference"] >= 0 and pair["clear"] == (low > 0)
    assert not all(p["clear"] for p in found) and any(p["clear"] for p in found)
    assert paired_differences(scores, less_is_better=True)[0]["first"] == "other"


def test_bad_requests() -> None:
    episodes = Episodes(source(), way=4, shot=1, query=2)
    with pytest.raises(UpstairsError, match="`tasks` is 1"):
        evaluate(nearest_centroid(way=4), episodes, tasks=1)
    with pytest.raises(UpstairsError, match="trained to tell 3 classes apart and was given 4"):
        evaluate(maml(mlp((6,), out=3), way=3), episodes, tasks=2)
    with pytest.raises(UpstairsError, match="`chunk` is -1"):
        evaluate(nearest_centroid(way=4), episodes, tasks=2, chunk=-1)


def test_memory_is_flat_in_the_number_of_tasks() -> None:
    """Peak resident memory of a process, at 100 and at 2,000 tasks."""
    import subprocess
    import sys

    code = """
import sys, resource, numpy as np, torch
torch.set_num_threads(1)
from upstairs.engine.evaluate import score_tasks
from upstairs.learners import maml
from upstairs.nets import conv4
from upstairs.engine.allocator import keep_freed_memory
from upstairs.data.episodes import Episodes
from upstairs.data.source import Source, function_source
keep_freed_memory()
x = np.random.default_rng(0).normal(size=(120, 1, 16, 16))
e = Episodes(Source.from_arrays(x, np.arange(10).repeat(12)), way=5, shot=1, query=5)
score_tasks(maml(conv4((1, 16, 16), width=8, norm="batch", out=5), way=5, steps=1), e, range(int(sys.argv[1])))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peak = [
        int(subprocess.run([sys.executable, "-c", code, n], check=True, capture_output=True).stdout)
        for n in ("100", "2000")
    ]
    assert peak[1] < 1.05 * peak[0], f"{peak} KiB"
