"""The search: finds, prunes, resumes, and starts from what earlier tasks found."""

import sys
import threading
import time
from functools import partial
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

    def test_a_resumed_search_tries_what_an_uninterrupted_one_tries(self, tmp_path: Path) -> None:
        tried: dict[str, list[dict[str, Any]]] = {"whole": [], "twice": []}

        def score(settings: dict[str, Any], report: Any, name: str) -> float:
            tried[name].append(settings)
            return bowl(settings, lambda *_: None)

        for name, lengths in (("whole", (14,)), ("twice", (5, 14))):
            for trials in lengths:
                search(partial(score, name=name), SPACE, trials=trials, storage=tmp_path / "s.journal", name=name)
        assert tried["whole"] == tried["twice"] and len({s["lr"] for s in tried["whole"]}) == 14

    def test_a_trial_that_a_dead_worker_left_fails_after_the_silence(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Also one without any sign of life: of an earlier version, or killed before its first sign."""
        import optuna

        def left(sign: str | None) -> None:
            journal = optuna.storages.journal.JournalFileBackend(str(tmp_path / "s.journal"))
            study = optuna.load_study(study_name="search", storage=optuna.storages.JournalStorage(journal))
            trial = study.ask()
            if sign:
                trial.set_user_attr("worker", sign)

        search(bowl, SPACE, trials=1, storage=tmp_path / "s.journal")
        left(None)
        left("elsewhere@7@another boot@0")
        found = search(bowl, SPACE, trials=3, storage=tmp_path / "s.journal", silence=0.3)
        assert found.trials == 3
        said = capsys.readouterr().err
        assert "waiting for trial 1 (another process), trial 2 (process 7 on elsewhere)" in said
        assert said.count("is dead: another takes its place") == 2

    def test_who_was_silent_for_too_long_loses_the_trial_and_goes_on(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Another worker has failed the first trial, since this process seemed dead to it."""
        import optuna

        calls = []

        def score(settings: dict[str, Any], report: Any) -> float:
            calls.append(settings)
            if len(calls) == 1:
                journal = optuna.storages.journal.JournalFileBackend(str(tmp_path / "s.journal"))
                other = optuna.load_study(study_name="search", storage=optuna.storages.JournalStorage(journal))
                other.tell(0, state=optuna.trial.TrialState.FAIL)
                for _ in range(2000):  # interrupted
                    time.sleep(0.01)
            return bowl(settings, lambda *_: None)

        started = time.monotonic()
        found = search(score, SPACE, trials=3, storage=tmp_path / "s.journal", silence=0.4)
        assert found.trials == 3 and len(calls) == 4 and time.monotonic() - started < 15
        assert "trial 0: another worker took it over" in capsys.readouterr().err

    def test_a_trial_that_others_asked_for_a_moment_earlier_is_theirs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Both workers have counted that one place is free, then both ask."""
        import optuna

        ask, told = optuna.Study.ask, []

        def late(self: Any) -> Any:
            if not told:
                told.append(ask(self))
                told[0].set_user_attr("worker", "elsewhere@7@another boot@0")
                threading.Timer(0.5, lambda: self.tell(told[0], 5.0)).start()
            return ask(self)

        monkeypatch.setattr(optuna.Study, "ask", late)
        found = search(lambda *_: 1.0, SPACE, trials=1, storage=tmp_path / "s.journal")
        assert found.trials == 1 and found.score == 5.0

    def test_workers_that_start_together_may_queue_the_same_earlier_settings(self, tmp_path: Path) -> None:
        import optuna

        tried: list[dict[str, Any]] = []

        def score(settings: dict[str, Any], report: Any) -> float:
            tried.append(settings)
            return bowl(settings, lambda *_: None)

        search(bowl, SPACE, trials=1, storage=tmp_path / "s.journal", name="old")
        journal = optuna.storages.journal.JournalFileBackend(str(tmp_path / "s.journal"))
        study = optuna.create_study(storage=optuna.storages.JournalStorage(journal), study_name="new")
        for number in (0, 1, 0, 1):
            study.enqueue_trial({"lr": 0.1 + number, "depth": 2, "kind": "round"}, user_attrs={"earlier": number})
        assert search(score, SPACE, trials=4, storage=tmp_path / "s.journal", name="new").trials == 4
        assert len(tried) == 4 and len({settings["lr"] for settings in tried}) == 4

    def test_the_kind_of_a_file_is_what_it_holds(self, tmp_path: Path) -> None:
        old, text = tmp_path / "search.db", tmp_path / "notes.txt"
        search(bowl, SPACE, trials=2, storage=f"sqlite:///{old}")
        assert search(bowl, SPACE, trials=3, storage=old).trials == 3, "a search of an earlier version goes on"
        search(bowl, SPACE, trials=2, storage=tmp_path / "new.db")
        assert (tmp_path / "new.db").read_bytes().startswith(b'{"op_code"')
        for content in ("my notes", '["op_code"]\n', '"op_code"', "3\n"):
            text.write_text(content)
            with pytest.raises(UpstairsError, match=r"notes\.txt cannot be opened as a search's file \(.+\): give a"):
                search(bowl, SPACE, trials=2, storage=text)
            assert text.read_text() == content

    def test_a_score_that_is_no_number_is_the_worst(self) -> None:
        calls = []

        def score(settings: dict[str, Any], report: Any) -> float:
            calls.append(settings)
            return float("nan") if len(calls) % 2 else 1.0

        found = search(score, SPACE, trials=6)
        assert found.trials == len(calls) == 6 and found.score == 1.0

    def test_a_driver_that_is_missing_and_a_server_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for driver in ("psycopg", "psycopg2"):
            monkeypatch.setitem(sys.modules, driver, None)
        with pytest.raises(UpstairsError, match=r"postgresql\+psycopg://me:\*\*\*@x/y .* pip install 'psycopg\[binary"):
            search(bowl, SPACE, trials=2, storage="postgresql+psycopg://me:secret@x/y")
