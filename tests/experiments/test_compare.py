"""Runs compared on the same tasks: from Python and from the command line, against scipy, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import upstairs
from helpers.runs import SMALL, Call, draw_folder
from upstairs.data.episodes import Episodes
from upstairs.data.images.datasets import open_data
from upstairs.data.source import Source
from upstairs.data.splits import split_by_ratio
from upstairs.engine.evaluate import frozen_seeds, score_tasks
from upstairs.experiments.report.measure import name_runs


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("data") / "pictures", classes=20)


@pytest.fixture(scope="module")
def runs(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """ProtoNet and MAML, trained for some steps on the same pictures."""
    home = tmp_path_factory.mktemp("runs")
    small = {"width": 4, "way": 3, "query": 2, "shot": "1", "validations": 2, "validation_tasks": 4, "quiet": True}
    for name, steps in (("protonet", 30), ("maml", 5)):
        upstairs.train(name, data=pictures, out=home / name, steps=steps, **small)
    return [home / "protonet", home / "maml"]


def test_differences_equal_scipys_on_the_same_tasks(runs: list[Path], pictures: Path) -> None:
    result = upstairs.compare(runs, way=3, shot=1, query=4, tasks=30, seed=3, quiet=True)
    episodes = Episodes(open_data(pictures).test, way=3, shot=1, query=4)
    seeds = frozen_seeds(3, 30)
    learners = [upstairs.load(run).learner for run in runs]
    expected = {
        "protonet": score_tasks(learners[0], episodes, seeds),
        "maml": score_tasks(learners[1], episodes, seeds),
        "maml, one query at a time": score_tasks(learners[1], episodes, seeds, inductive=True),
    }
    rows = {row["name"]: row for row in result["scores"]}
    assert set(rows) == {*expected, "nearest_centroid", "scratch"}
    assert [r["accuracy"] for r in result["scores"]] == sorted((r["accuracy"] for r in result["scores"]), reverse=True)
    assert rows["maml"]["transductive"] and not rows["protonet"]["transductive"] and rows["scratch"]["baseline"]
    pairs = [pair for pair in result["differences"] if {pair["first"], pair["second"]} <= set(expected)]
    assert len(pairs) == 3 and len(result["differences"]) == 3 + 2 * 3
    for pair in pairs:
        low, high = stats.ttest_rel(expected[pair["first"]], expected[pair["second"]]).confidence_interval(0.95)
        found = [pair["difference"] - pair["ci95"], pair["difference"] + pair["ci95"]]
        np.testing.assert_allclose(found, [low, high], atol=1e-9)
        assert pair["clear"] == (low > 0)
    alone = upstairs.compare(runs, way=3, tasks=10, baselines=False, quiet=True)
    assert set(expected) == {row["name"] for row in alone["scores"]}


def test_the_command_prints_and_writes(call: Call, runs: list[Path], tmp_path: Path) -> None:
    words = ("compare", *runs, "--way", 3, "--tasks", 20, "--no-baselines")
    status, out, err = call(*words, "--json", "--out", tmp_path / "new" / "result.json")
    assert status == 0 and err == ""
    result = json.loads(out)
    assert json.loads((tmp_path / "new" / "result.json").read_text()) == result
    assert result["tasks"] == 20 and result["runs"] == list(map(str, runs))
    status, out, _ = call(*words)
    assert status == 0
    first = result["differences"][0]
    for text in (first["first"], "paired differences", f"{100 * first['difference']:+.1f} ± {100 * first['ci95']:.1f}"):
        assert text in out, out
    assert call("compare", "--help")[0] == 0


def test_the_report_holds_the_differences(call: Call, runs: list[Path], tmp_path: Path) -> None:
    assert call("report", *runs, "--tasks", 8, "--out", tmp_path / "page.html", "--quiet")[0] == 0
    page = (tmp_path / "page.html").read_text()
    assert 'id="differences"' in page and "On the same tasks, " in page and "nearest centroid" in page


def test_runs_that_cannot_be_compared_are_refused(call: Call, runs: list[Path], pictures: Path, tmp_path: Path) -> None:
    other = draw_folder(tmp_path / "pictures", classes=12, seed=1)
    assert (
        call("train", "protonet", "--data", other, "--out", tmp_path / "other", "--quiet", *SMALL, "--steps", 1)[0] == 0
    )
    split = ("--split-seed", 1, "--out", tmp_path / "split", "--quiet", *SMALL, "--steps", 1)
    assert call("train", "protonet", "--data", pictures, *split)[0] == 0
    arrays = Source.from_arrays(np.random.default_rng(0).normal(size=(60, 6)), np.arange(12).repeat(5))
    upstairs.train("protonet", data=split_by_ratio(arrays), out=tmp_path / "arrays", way=2, steps=1, quiet=True)
    cases = [
        ((runs[0],), "1 run was given"),
        ((runs[0], runs[0]), "was given twice"),
        ((runs[0], tmp_path / "nowhere"), "there is no run"),
        ((runs[0], tmp_path / "other"), "was trained with --data"),
        ((runs[0], tmp_path / "split"), "--split-seed 0 and"),
        ((*runs, "--way", 4), "trained to tell 3 classes apart and was given 4"),
        ((*runs, "--tasks", 1), "--tasks is 1"),
        ((runs[0], tmp_path / "arrays", "--data", other), "takes inputs of shape"),
    ]
    for words, needed in cases:
        status, out, err = call("compare", *words)
        assert status == 2 and needed in err.splitlines()[-1] and out == "", f"{words}: {err}"  # after what was read
    status, _, err = call("report", runs[0], tmp_path / "split")
    assert status == 2 and "--split-seed" in err
    foreign = draw_folder(tmp_path / "foreign", classes=5, seed=4)
    status, out, _ = call("compare", runs[0], tmp_path / "split", "--data", foreign, "--way", 3, "--tasks", 8, "--json")
    assert status == 0 and json.loads(out)["split"] == "all"


def test_each_run_has_a_name_of_its_own(runs: list[Path]) -> None:
    protonet, maml = map(upstairs.load, runs)
    alike = [replace(protonet, path=Path(path)) for path in ("a/run", "b/run", "b/other")]
    assert name_runs([*alike, maml]) == ["protonet a/run", "protonet b/run", "protonet other", "maml"]
