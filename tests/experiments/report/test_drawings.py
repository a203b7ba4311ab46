"""The report on a learner that generates: its drawings, the way between two classes, both players' curves."""

from pathlib import Path

import pytest
import torch

import upstairs
from helpers.runs import draw_folder, settings_of
from upstairs.data.episodes import Episodes
from upstairs.data.open import open_splits
from upstairs.data.source import Source
from upstairs.errors import UpstairsError
from upstairs.experiments.report.drawings import CLASSES, COUNT, measure_drawings, mix
from upstairs.experiments.report.page import render
from upstairs.experiments.report.survey import report_runs
from upstairs.learners import make_learner
from upstairs.tree import index


def test_a_run_that_draws(tmp_path: Path) -> None:
    data = str(draw_folder(tmp_path / "pictures", classes=20))
    run = upstairs.train(
        "dagan", data=data, out=tmp_path / "run", width=4, steps=4, validations=2, validation_tasks=2, quiet=True
    )
    splits = open_splits(run.settings, quiet=True)
    report = measure_drawings([run], splits)
    (drawings,) = report["drawings"]
    rows, between = drawings["rows"], drawings["between"]
    assert len(rows) == min(CLASSES, len(splits.test)) and len(between) == len(rows) // 2
    assert {row["label"] for row in rows} <= set(splits.test.labels)
    assert all(len(row["made"]) == COUNT and row["made"][0].shape == row["support"].shape for row in rows)
    assert render(report)
    page = report_runs([run.path], out=tmp_path / "page.html", tasks=2, seed=0, quiet=True, command="").read_text()
    assert "What it makes" in page and "Between two classes" in page and "The players of dagan" in page
    assert page.count("made: ") == COUNT * (len(rows) + len(between))


def test_a_run_that_names_is_refused_beside_one_that_draws(tmp_path: Path) -> None:
    data = str(draw_folder(tmp_path / "pictures", classes=12))
    options = {"data": data, "width": 4, "steps": 1, "validations": 1, "validation_tasks": 2, "quiet": True}
    paths = [upstairs.train(name, out=tmp_path / name, **options).path for name in ("protonet", "dagan")]
    with pytest.raises(UpstairsError, match="'protonet', which makes nothing"):
        report_runs(paths, out=tmp_path / "page.html", tasks=2, seed=0, quiet=True, command="")


def test_the_way_between_two_states_ends_at_both() -> None:
    learner = make_learner(settings_of(learner="dagan", way=1, width=4, norm="none"), (1, 16, 16), 1)
    assert learner.noise_size
    x = torch.rand(12, 1, 16, 16)
    source = Source.from_arrays(x, torch.arange(3).repeat_interleave(4))
    tasks = Episodes(source, way=1, shot=1, query=1).batch([1, 2])
    first, second = (learner.adapt(index(tasks, k).support) for k in (0, 1))
    torch.testing.assert_close(mix(first, second, 0.0), first)
    torch.testing.assert_close(mix(first, second, 1.0), second)
    torch.testing.assert_close(mix(first, second, 0.25).x, 0.75 * first.x + 0.25 * second.x)
