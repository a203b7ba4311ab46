"""`upstairs report --all`: it is resumed, it measures nothing twice, and its kinds keep classes apart."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import upstairs
from helpers.runs import SMALL, Call, count_time, draw_folder
from upstairs.data.class_augmentation import turned
from upstairs.data.episodes import Episodes
from upstairs.data.images.datasets import open_data
from upstairs.data.source import Source
from upstairs.data.splits import split_by_ratio
from upstairs.engine.evaluate import frozen_seeds, score_tasks
from upstairs.errors import UpstairsError
from upstairs.experiments.report import cache
from upstairs.experiments.report.cache import Remembered, fingerprint
from upstairs.experiments.report.survey import survey
from upstairs.experiments.sweeps import all_kinds, class_counts, class_groups, variant
from upstairs.learners import nearest_centroid, scratch
from upstairs.nets import mlp


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("data") / "letters"
    for seed, kind in enumerate(("round", "square")):
        draw_folder(home / kind, classes=20, seed=seed, examples=4)
    return home


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    home = tmp_path_factory.mktemp("runs")
    small = {"width": 4, "way": 5, "query": 2, "shot": "1", "validations": 2, "validation_tasks": 2, "quiet": True}
    for name in ("protonet", "maml"):
        upstairs.train(name, data=data, out=home / name, steps=6, **small)
    return [home / "protonet", home / "maml"]


@pytest.fixture(autouse=True)
def counted_time(monkeypatch: pytest.MonkeyPatch) -> None:
    count_time(monkeypatch, 0.01)


def scores_of(page: Path) -> list[str]:
    return re.findall(r"<td>[^<]*\u00a0±[^<]*</td>", page.read_text(encoding="utf-8"))


def test_all_of_it_is_resumed_and_never_measured_twice(
    call: Call, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = runs[1]  # it has an inner loop
    words = ("report", own, "--all", "--minutes", 0.0005, "--tasks", 3, "--quiet")
    part, page = tmp_path / "part.html", tmp_path / "page.html"

    def stopping(*args: object, **options: object) -> object:
        if part.exists():  # what it has is on a page before all is there
            raise KeyboardInterrupt
        return score_tasks(*args, **options)

    monkeypatch.setattr(cache, "score_tasks", stopping)
    assert call(*words, "--out", part)[0] == 130
    begun = (own / "measured.jsonl").read_bytes()
    monkeypatch.setattr(cache, "score_tasks", score_tasks)
    assert call(*words, "--out", page)[0] == 0
    assert (own / "measured.jsonl").read_bytes().startswith(begun)
    text = page.read_text()
    for title in ("Overfitting: classes seen and new", "More training classes", "A longer inner loop", "More steps"):
        assert f"<h3>{title}" in text, title
    assert "<h3>maml trained on rows, tested on columns" in text and "maml on " in text
    first = (own / "measured.jsonl").read_bytes()
    trained = sorted((f, f.stat().st_mtime_ns) for f in (own / "sweeps").rglob("last.safetensors"))
    assert {f.parent.name for f, _ in trained} >= {
        "train-classes-25", "inner-steps-1", "inner-steps-3", "inner-steps-10", "kind-round", "kind-all",
    }  # fmt: skip

    def never(*args: object, **options: object) -> None:
        raise AssertionError("it is known")

    monkeypatch.setattr(cache, "score_tasks", never)
    assert call(*words, "--out", tmp_path / "again.html")[0] == 0
    assert scores_of(tmp_path / "again.html") == scores_of(page) != []
    assert (own / "measured.jsonl").read_bytes() == first
    assert trained == sorted((f, f.stat().st_mtime_ns) for f in (own / "sweeps").rglob("last.safetensors"))
    status, _, err = call(*words, "--minutes", 0)
    assert status == 2 and "--minutes above 0" in err and err.count("\n") == 1


def test_runs_on_other_data_are_rows_of_the_matrix(call: Call, runs: list[Path], tmp_path: Path) -> None:
    other = draw_folder(tmp_path / "other", classes=26, seed=9, examples=4)
    given = ("train", "protonet", "--data", other, *SMALL, "--steps", 2, "--out", tmp_path / "run", "--quiet")
    assert call(*given)[0] == 0
    page = survey([runs[0], tmp_path / "run"], out=tmp_path / "page.html", minutes=0.0005, tasks=4, quiet=True)
    text = page.read_text()
    assert "on letters" in text and "on other" in text and "mean of its own kinds" in text
    assert not (tmp_path / "run" / "sweeps").exists()


def test_what_is_remembered_is_what_would_be_measured(data: Path, tmp_path: Path) -> None:
    source = open_data(data).test
    episodes, seeds = Episodes(source, way=3, shot=1, query=2), frozen_seeds(0, 250)
    torch.manual_seed(0)
    learner = scratch(mlp(source.feature_shape, widths=(8,), out=3), way=3, steps=2)
    file = tmp_path / "measured.jsonl"
    found = Remembered(file)(learner, episodes, seeds)
    assert np.array_equal(found, score_tasks(learner, episodes, seeds))
    lines = file.read_bytes()
    assert len(lines.splitlines()) == 3  # blocks of 96 tasks
    file.write_bytes(lines[:-20])  # torn by a stop
    again = Remembered(file)
    assert len(again.known) == 2 and np.array_equal(again(learner, episodes, seeds), found)
    assert len(Remembered(file).known) == 3
    others = [learner.with_steps(3), scratch(mlp(source.feature_shape, widths=(8,), out=3), way=3, steps=2)]
    names = {fingerprint(one) for one in (learner, *others, nearest_centroid(way=3))}
    assert len(names) == 4, "other steps, other weights, another learner"
    assert fingerprint(learner.with_steps(2)) == fingerprint(learner)
    turned = replace(source, turns=(1,) * len(source))
    assert again.name_source(turned) != again.name_source(source) == Remembered(None).name_source(open_data(data).test)
    assert json.loads(lines.splitlines()[0])["scores"] == found[:96].tolist()


def test_kinds_keep_classes_apart_and_turns_together() -> None:
    x = np.random.default_rng(0).integers(0, 255, (60 * 4, 1, 16, 16), dtype=np.uint8)
    source = replace(Source.from_arrays(x, np.arange(60).repeat(4)), groups=("a",) * 30 + ("b",) * 20 + ("c",) * 10)
    kinds = class_groups(split_by_ratio(turned(source, rotate=True, mirror=False)), least=5)
    assert list(kinds) == ["a", "b"]  # of c's 10 only 3 would be held out
    for kind, splits in kinds.items():
        train, test = ({rows.tobytes() for rows in part.rows} for part in (splits.train, splits.test))
        assert not train & test and set(splits.train.groups) == {kind} == set(splits.test.groups)
        assert len(splits.train) == 4 * len(train) and len(splits.test) == 4 * len(test) and len(splits.val) == 0
    both = all_kinds(kinds)
    assert len(both.train) == sum(len(splits.train) for splits in kinds.values())
    assert not {rows.tobytes() for rows in both.train.rows} & {rows.tobytes() for rows in both.test.rows}
    assert class_groups(split_by_ratio(replace(source, groups=())), least=5) == {}


def test_a_folder_with_another_training_is_refused(runs: list[Path], tmp_path: Path) -> None:
    run = upstairs.load(runs[0])
    assert class_counts(run, 30) == [25, 30] and class_counts(run, 20) == [20]
    options = {"minutes": 0.0005, "what": "training", "quiet": True}
    first = variant(run, {"train_classes": 8}, tmp_path / "x", **options)
    assert first.settings.classes == 8
    minutes = first.meta["progress"]["seconds"] / 60 + 0.002
    longer = variant(run, {"train_classes": 8}, tmp_path / "x", **{**options, "minutes": minutes})
    assert longer.meta["progress"]["step"] > first.meta["progress"]["step"], "it goes on"
    with pytest.raises(UpstairsError, match="train-classes 8 and this one has 9"):
        variant(run, {"train_classes": 9}, tmp_path / "x", **options)


def test_a_variant_does_not_start_from_weights_that_may_know_its_test_classes(runs: list[Path], tmp_path: Path) -> None:
    small = {"width": 4, "way": 5, "query": 2, "shot": "1", "validations": 2, "validation_tasks": 2, "quiet": True}
    data = upstairs.load(runs[0]).settings.data
    run = upstairs.train("mtl", data=data, out=tmp_path / "run", steps=2, start_from=str(runs[0]), **small)
    assert run.settings.start_from and run.settings.pretrain == 0
    fresh = variant(run, {"train_classes": 8}, tmp_path / "x", minutes=0.0005, what="training", quiet=True).settings
    assert (
        fresh.validations == 2
        and fresh.start_from is None
        and fresh.pretrain == 0.6
        and (tmp_path / "x" / "pretrain").exists()
    )
