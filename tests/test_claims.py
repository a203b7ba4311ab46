"""Claims: one worker has a job, one of several takes over what a dead one left, and who was silent learns of it."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import upstairs.claims as room
from upstairs.claims import Watch, claim, each_once, is_gone, name_worker, worker
from upstairs.errors import UpstairsError

STRANGER = "elsewhere@7@another boot@0"


def left_by(owner: str, lock: Path, *, ago: float) -> Path:
    """A claim of this owner, with a sign of life so many seconds ago."""
    lock.mkdir()
    (lock / owner).write_bytes(b"")
    then = time.time() - ago
    os.utime(lock / owner, (then, then))
    return lock


def test_one_worker_has_a_job_and_others_learn_who(tmp_path: Path) -> None:
    with claim(tmp_path / "job.lock") as mine:
        assert mine.mine
        with claim(tmp_path / "job.lock") as other:
            assert not other.mine and name_worker(other.owner).startswith(f"process {os.getpid()} on ")
    with claim(tmp_path / "job.lock") as again:
        assert again.mine and not again.owner
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("ago", "mine"), [(50.0, False), (70.0, True)])
def test_a_claim_without_a_sign_of_life_for_a_minute_is_taken_over(tmp_path: Path, ago: float, mine: bool) -> None:
    with claim(left_by(STRANGER, tmp_path / "job.lock", ago=ago)) as taken:
        assert taken.mine == mine and taken.owner == STRANGER
    assert (tmp_path / "job.lock").exists() != mine


def test_a_process_of_this_machine_that_has_ended_is_dead_at_once(tmp_path: Path) -> None:
    code = "from upstairs.claims import worker; print(worker())"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    if not ended.split("@")[2]:
        pytest.skip("this system does not tell its boots apart")
    assert is_gone(ended) and not is_gone(worker()) and not is_gone(STRANGER) and not is_gone("")
    with claim(left_by(ended, tmp_path / "job.lock", ago=0)) as taken:
        assert taken.mine and taken.owner == ended


def test_of_several_takers_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them have found the claim silent before the first of them takes it."""
    judged, utime = threading.Barrier(8), os.utime

    def late(path: Path, times: tuple[float, float] | None = None) -> None:
        if times is None and path.name == STRANGER:
            judged.wait(timeout=20)
        utime(path, times)

    monkeypatch.setattr(os, "utime", late)
    for number in range(20):
        lock, won, over = left_by(STRANGER, tmp_path / f"{number}.lock", ago=70), [], threading.Barrier(8)

        def take(lock: Path = lock, won: list = won, over: threading.Barrier = over) -> None:
            with claim(lock) as taken:
                won.append(taken.mine)
                over.wait(timeout=20)

        takers = [threading.Thread(target=take) for _ in range(8)]
        for taker in takers:
            taker.start()
        for taker in takers:
            taker.join()
        assert sorted(won) == [False] * 7 + [True]
    assert list(tmp_path.iterdir()) == []


def test_who_was_silent_is_interrupted_and_leaves_the_new_owner_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The claim is taken over during the first try; the job is then waited for, until the other has done it."""
    lock, tries = tmp_path / "job.lock", []

    def job() -> str:
        tries.append(1)
        if len(tries) == 1:
            (mine,) = lock.iterdir()
            mine.rename(lock / STRANGER)
            os.utime(lock / STRANGER, (time.time() + 100,) * 2)  # alive, for the length of this test
            threading.Timer(1.0, lambda: ((lock / STRANGER).unlink(), lock.rmdir())).start()
            for _ in range(3000):  # interrupted
                time.sleep(0.01)
        return "done"

    started = time.monotonic()
    assert each_once({lock: job}, silence=0.4) == ["done"] and time.monotonic() - started < 20
    said = capsys.readouterr().err
    assert "job: given up, another worker took it over, since this process gave no sign of life for 0.4 s" in said
    assert "waiting for job (process 7 on elsewhere)" in said and len(tries) == 2


def test_the_claim_of_one_who_works_stays_fresh_and_an_interruption_is_passed_on(tmp_path: Path) -> None:
    lock = tmp_path / "job.lock"
    with pytest.raises(KeyboardInterrupt), claim(lock, silence=0.4):
        for _ in range(10):
            time.sleep(0.1)
            with claim(lock, silence=0.4) as other:
                assert not other.mine
        raise KeyboardInterrupt
    assert not lock.exists()


def test_a_release_that_was_cut_short_and_files_of_a_network_file_system(tmp_path: Path) -> None:
    (tmp_path / "job.lock").mkdir()
    with claim(tmp_path / "job.lock") as taken:
        assert taken.mine
        (tmp_path / "job.lock" / ".nfs0001").touch()
    with claim(tmp_path / "job.lock") as taken:
        assert not taken.mine
    (tmp_path / "job.lock" / ".nfs0001").unlink()
    with claim(tmp_path / "job.lock") as taken:
        assert taken.mine


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UpstairsError, match=r"a claim could not be made in .*file \(.*\): choose another `out`"),
        claim(tmp_path / "file" / "job.lock"),
    ):
        pass


def test_a_watch_needs_no_common_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(room.time, "monotonic", lambda: now[0])
    watch = Watch(60)
    assert not watch.silent(1, "a")
    now[0] += 50
    assert not watch.silent(1, "b") and not watch.silent(2, "a")
    now[0] += 61
    assert watch.silent(1, "b") and not watch.silent(2, "c")
