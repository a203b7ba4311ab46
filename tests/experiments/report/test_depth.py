"""The panels of depth and breadth: their sentences stay true when numbers turn out badly."""

import re
from typing import Any

import pytest

from upstairs.experiments.report.page import render
from upstairs.experiments.report.panels import find_wait
from upstairs.experiments.report.values import Score, Series

HEAD = {"title": "Depth", "command": "upstairs report --all", "versions": {}}


def read_text(report: dict[str, Any]) -> str:
    """What is read on the page, on one line, with plain spaces."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", render({**HEAD, **report}))).replace("\u00a0", " ")


def entry(learner: str, key: str, points: dict[Any, float], ci95: float = 0.01, **more: Any) -> dict[str, Any]:
    found = [{key: at, "accuracy": accuracy, "ci95": ci95} for at, accuracy in points.items()]
    return {"learner": learner, "way": 5, "shot": 1, "points": found, **more}


PARTS = ("training classes", "validation classes", "test classes")


def test_the_gap_is_told_beside_that_of_no_training() -> None:
    gap = [
        entry("nearest_centroid", "group", dict(zip(PARTS, (0.5, 0.46, 0.45), strict=True))),
        entry("protonet", "group", dict(zip(PARTS, (0.99, 0.95, 0.9), strict=True))),
    ]
    text = read_text({"depth_gap": gap})
    assert "protonet has 99.0% ± 1.0 on tasks of the classes it was trained on and 90.0% ± 1.0 on those of new" in text
    assert "a gap of +9.0 ± 1.4 points. nearest centroid, which is not trained, has one of +5.0 ± 1.4 points" in text
    assert text.index("training classes") < text.index("validation classes") < text.index("test classes")


@pytest.mark.parametrize(
    ("scores", "says"),
    [((0.7, 0.9), "more classes help"), ((0.9, 0.905), "more classes make no clear difference"),
     ((0.9, 0.7), "more classes do not help")],
)  # fmt: skip
def test_more_classes(scores: tuple[float, float], says: str) -> None:
    own = {"trained": entry("maml", "classes", {25: 1.0, 1000: 0.95})["points"], "minutes": 0.5}
    text = read_text(
        {"depth_classes": [entry("maml", "classes", dict(zip((25, 1000), scores, strict=True)), **own)]}
    )  # fmt: skip
    assert f"Trained for 30 s on 25 classes maml has {100 * scores[0]:.1f}% ± 1.0 on new ones" in text
    assert f"on 1,000 classes {100 * scores[1]:.1f}% ± 1.0: {says}. Its gap" in text
    assert f"goes from {100 - 100 * scores[0]:+.1f} ± 1.4 points to {95 - 100 * scores[1]:+.1f} ± 1.4 points" in text
    alone = read_text({"depth_classes": [entry("maml", "classes", {25: 0.6})]})
    assert "Trained on 25 classes, maml has 60.0% ± 1.0 on new ones." in alone


def test_a_longer_inner_loop() -> None:
    text = read_text({"depth_length": [entry("maml", "length", {1: 0.9, 3: 0.905, 10: 0.6}, minutes=2.0)]})
    assert "Trained for 2 min and tested with as many inner steps, maml is best with 3, at 90.5% ± 1.0" in text
    assert "; 1 is not clearly worse; lowest with 10, 60.0% ± 1.0." in text


def curve(learner: str, accuracies: list[float]) -> dict[str, Any]:
    points = [{"seconds": 10.0 * (k + 1), "step": k, "accuracy": a, "ci95": 0.04} for k, a in enumerate(accuracies)]
    return {"learner": learner, "steps": 9, "seconds": 90.0, "parameters": 9, "settings": {}, "history": points}


def test_the_time_to_an_accuracy_and_its_interval() -> None:
    runs = [curve("protonet", [0.55, 0.78, 0.88, 0.93, 0.935]), curve("maml", [0.3, 0.4, 0.5, 0.55, 0.6])]
    text = read_text({"runs": runs, "times": {"scratch": {"accuracy": 0.7, "ci95": 0.02}}})
    assert (
        "scratch has 70.0% ± 2.0 on the validation tasks with no meta-training; protonet passes it within 20 s" in text
    )
    assert "and has 80% after 30 s and 90% after 40 s; 95% it does not reach." in text
    assert "the first of them after 10 s" in text
    assert "30 s (20 s to 30 s)" in text and "40 s (30 s to the end)" in text
    slow = read_text({"runs": runs[1:], "times": {"scratch": {"accuracy": 0.7, "ci95": 0.02}}})
    assert "maml does not pass it" in slow
    assert "Time to an accuracy" not in read_text({"runs": [curve("protonet", [0.99, 0.99])]}), "nothing to tell"


def test_a_wait_is_that_of_the_first_validation_there() -> None:
    series = Series(
        "a", "a", {1.0: Score(0.5, 0.1), 2.0: Score(0.58, 0.1), 3.0: Score(0.62, 0.1), 4.0: Score(0.8, 0.1)}
    )
    assert find_wait(series, 0.6) == (3.0, 1.0, 4.0)
    assert find_wait(series, 0.75) == (4.0, 4.0, None)
    assert find_wait(series, 0.85) is None


def row(name: str, cells: list[float], **more: Any) -> dict[str, Any]:
    found = [{"accuracy": a, "ci95": 0.01} for a in cells]
    means = {"mean": sum(cells) / len(cells), "worst": min(cells), "transductive": False}
    return {"name": name, "cells": found, **means, "own": None, "other": None, **more}


def test_matrices_tell_what_another_kind_costs() -> None:
    rows = [
        row("protonet", [0.9, 0.7], trained_on="Latin", own=0.9, other=0.7),
        row("protonet", [0.6, 0.95], trained_on="Greek", own=0.95, other=0.6),
        row("nearest centroid", [0.4, 0.4], trained_on=""),
    ]
    matrix = {"data": ["Latin", "Greek"], "way": 5, "shot": 1, "tasks": 600, "rows": rows}
    text = read_text({"matrices": [matrix, matrix]})
    assert text.count("Highest mean: protonet on Latin, 80.0%; its worst is 70.0%.") == 2
    assert "Rows trained on one kind have 92.5% in the mean on new classes of it and 65.0% on other kinds." in text
    assert "Trained for 30 s each." in read_text({"matrices": [{**matrix, "minutes": 0.5}]}) and "each." not in text
    page = render({**HEAD, "matrices": [matrix, matrix]})
    ids = re.findall(r'<[a-z][^>]* id="([^"]+)"', page)
    assert len(ids) == len(set(ids)), "two figures share no id"
