"""The search: finds, prunes, resumes, and starts from what earlier tasks found."""

import sys
from pathlib import Path
from typing import Any

import pytest

from upstairs.errors import UpstairsError
from upstairs.experiments.search import Range, search

SPACE = {"lr": Range(1e-4, 1.0, log=True), "depth": Range(1, 6), "kind": ["round", "square"]}


def bowl(settings: dict[str, Any], report: Any) -> float:
    """Best at a rate of 0.03, depth 4, square."""
    import math

    miss = (math.log10(settings["lr"]) + 1.5) ** 2 + (settings["depth"] - 4) ** 2 + (settings["kind"] == "round")
    for step in range(3):
        report(step, miss + 3 - step)
    return miss


def test_without_optuna_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UpstairsError, match=r"pip install 'upstairs\[search\]'"):
        search(bowl, SPACE, trials=1)


def test_a_range_that_cannot_be_is_refused() -> None:
    with pytest.raises(UpstairsError, match="low above 0"):
        Range(0.0, 1.0, log=True)
    with pytest.raises(UpstairsError, match="from 3 to 2"):
        Range(3, 2)


@pytest.mark.filterwarnings("ignore")  # of Optuna's own libraries
class TestWithOptuna:
    @pytest.fixture(autouse=True)
    def installed(self) -> None:
        pytest.importorskip("optuna", reason="Optuna is not installed (extra [search])")

    def test_it_finds_the_best_and_prunes(self) -> None:
        found = search(bowl, SPACE, trials=40)
        assert found.score < 0.6 and found.settings["depth"] == 4 and found.settings["kind"] == "square"
        assert isinstance(found.settings["depth"], int) and found.trials == 40 and found.pruned > 3

    def test_it_is_resumed_and_counts_what_there_was(self, tmp_path: Path) -> None:
        calls = []

        def score(settings: dict[str, Any], report: Any) -> float:
            calls.append(settings)
            return -bowl(settings, lambda *_: None)

        first = search(score, SPACE, trials=5, storage=tmp_path / "s.db", maximise=True)
        again = search(score, SPACE, trials=8, storage=tmp_path / "s.db", maximise=True)
        assert len(calls) == 8 and again.trials == 8 and again.score >= first.score
        assert again.score == max(-bowl(s, lambda *_: None) for s in calls)

    def test_the_best_of_earlier_tasks_is_tried_first(self, tmp_path: Path) -> None:
        old = search(bowl, SPACE, trials=20, storage=tmp_path / "s.db", name="old")
        narrow = {**SPACE, "depth": Range(1, 3)}
        for space in (SPACE, narrow):
            tried: list[dict[str, Any]] = []

            def score(settings: dict[str, Any], report: Any, tried: list[dict[str, Any]] = tried) -> float:
                tried.append(settings)
                return bowl(settings, lambda *_: None)

            search(score, space, trials=3, storage=tmp_path / "s.db", name=f"new {space is narrow}", earlier=["old"])
            assert tried[0]["lr"] == old.settings["lr"] and tried[0]["kind"] == old.settings["kind"]
            assert tried[0]["depth"] == old.settings["depth"] if space is SPACE else tried[0]["depth"] <= 3
        with pytest.raises(UpstairsError, match="no search 'none'"):
            search(bowl, SPACE, trials=3, storage=tmp_path / "s.db", name="other", earlier=["none"])
        with pytest.raises(UpstairsError, match="read from a storage"):
            search(bowl, SPACE, trials=3, earlier=["old"])

    def test_what_is_wrong_in_a_trial_is_raised_and_not_counted_as_bad_settings(self) -> None:
        def broken(settings: dict[str, Any], report: Any) -> float:
            raise ValueError("mine")

        with pytest.raises(ValueError, match="mine"):
            search(broken, SPACE, trials=3)
        with pytest.raises(UpstairsError, match="the space is"):
            search(bowl, {"kind": []}, trials=3)
