"""A cache file is whole or absent, whatever happens to the process that writes it."""

import os
import subprocess
import sys
import textwrap
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from upstairs.data.cache import ABANDONED, cache_directory, memory_mapped
from upstairs.errors import UpstairsError

SHAPE = (50, 3, 4)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UPSTAIRS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def expected() -> np.ndarray:
    return np.arange(600, dtype=np.int64).astype(np.uint8).reshape(SHAPE)


def never() -> Iterator[np.ndarray]:
    raise AssertionError("built again")


def test_built_once_and_read_again(cache: Path) -> None:
    built = memory_mapped("key", lambda: iter(expected()), SHAPE)
    again = memory_mapped("key", never, SHAPE)
    for array in (built, again):
        assert array.dtype == np.uint8 and type(array) is np.ndarray
        np.testing.assert_array_equal(array, expected())
    (file,) = cache.iterdir()
    np.testing.assert_array_equal(np.load(file), expected())  # a plain .npy for everyone else


def test_writing_to_the_array_changes_no_file(cache: Path) -> None:
    array = memory_mapped("key", lambda: iter(expected()), SHAPE)
    torch.from_numpy(array).zero_()  # a read-only array would warn here
    np.testing.assert_array_equal(memory_mapped("key", never, SHAPE), expected())


def test_another_key_or_shape_is_another_file(cache: Path) -> None:
    memory_mapped("key", lambda: iter(expected()), SHAPE)
    other = memory_mapped("other", lambda: iter(expected() + 1), SHAPE)
    flat = memory_mapped("key", lambda: iter(expected().reshape(50, 12)), (50, 12))
    assert other[0, 0, 0] == 1 and flat.shape == (50, 12) and len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("damage", ["short", "empty", "long", "flipped", "header", "zeros"])
def test_a_damaged_file_is_made_again(cache: Path, damage: str) -> None:
    memory_mapped("key", lambda: iter(expected()), SHAPE)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    middle = len(whole) - 300
    file.unlink()  # the maps above keep the old one
    file.write_bytes(
        {
            "short": whole[:-100],
            "empty": b"",
            "long": whole + b"more",
            "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            "header": b"PK" + whole[2:],
            "zeros": bytes(len(whole)),
        }[damage]
    )
    np.testing.assert_array_equal(memory_mapped("key", lambda: iter(expected()), SHAPE), expected())
    assert file.read_bytes() == whole


def test_progress_ends_at_the_whole(cache: Path) -> None:
    seen: list[tuple[int, int]] = []
    memory_mapped("key", lambda: iter(np.zeros((1000, 1), np.uint8)), (1000, 1), progress=lambda *x: seen.append(x))
    assert seen[-1] == (1000, 1000) and 50 <= len(seen) <= 200 and seen == sorted(seen)


def test_an_error_while_building_leaves_nothing(cache: Path) -> None:
    def rows() -> Iterator[np.ndarray]:
        yield expected()[0]
        raise UpstairsError("bad.png is broken")

    with pytest.raises(UpstairsError, match=r"bad\.png"):
        memory_mapped("key", rows, SHAPE)
    assert list(cache.iterdir()) == []


def test_rows_that_do_not_fit_the_shape(cache: Path) -> None:
    for rows in (expected()[:10], expected()[:, :2], expected().astype(np.float32)):
        with pytest.raises(ValueError, match="row"):
            memory_mapped("key", lambda rows=rows: iter(rows), SHAPE)
    assert list(cache.iterdir()) == []


def test_memory_stays_bounded(cache: Path) -> None:
    count = 64
    tracemalloc.start()
    try:
        big = memory_mapped("big", lambda: (np.full(2**20, i, np.uint8) for i in range(count)), (count, 2**20))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert big[:, 5].tolist() == list(range(count))
    assert peak < 8 * 2**20


def test_a_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("UPSTAIRS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UpstairsError, match="set UPSTAIRS_CACHE to a folder that can be written"):
        memory_mapped("key", lambda: iter(expected()), SHAPE)


def test_more_than_the_disk_holds(cache: Path) -> None:
    with pytest.raises(UpstairsError, match="no space left"):
        memory_mapped("key", never, (2**31, 2**31))
    assert list(cache.iterdir()) == []


SCRIPT = """
import os, resource, signal, sys, time, numpy as np
from upstairs.data.cache import memory_mapped
pause, limit, last = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # writes beyond it fail, as on a full disk
def rows():
    for i in range(20):
        if i == last:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(pause)
        yield np.full(100_000, i, np.uint8)
print("sum", memory_mapped("shared", rows, (20, 100_000)).sum(dtype=np.int64))
"""
SUM = sum(range(20)) * 100_000


def start(cache: Path, pause: float, limit: int = 0, last: int = -1) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(pause), str(limit), str(last)],
        env={**os.environ, "UPSTAIRS_CACHE": str(cache)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_two_processes_at_once(cache: Path) -> None:
    processes = [start(cache, 0.02) for _ in range(2)]
    for process in processes:
        out, error = process.communicate(timeout=120)
        assert f"sum {SUM}" in out, error
    assert [file.suffix for file in cache.iterdir()] == [".npy"]


def test_a_process_killed_in_the_middle(cache: Path) -> None:
    start(cache, 0, last=10).communicate(timeout=120)
    (left,) = cache.iterdir()
    assert left.suffix == ".partial" and left.stat().st_size > 500_000
    out, error = start(cache, 0).communicate(timeout=120)
    assert f"sum {SUM}" in out, error
    assert left.exists()  # for all that anyone knows, its process still writes it
    long_ago = time.time() - ABANDONED - 60
    os.utime(left, (long_ago, long_ago))
    memory_mapped("key", lambda: iter(expected()), SHAPE)
    assert not left.exists()


def test_a_disk_that_fills_up(cache: Path) -> None:
    out, error = start(cache, 0, limit=1_000_000).communicate(timeout=120)
    assert "UpstairsError: the cache folder" in error and "set UPSTAIRS_CACHE" in error and "sum" not in out
    assert list(cache.iterdir()) == []


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UPSTAIRS_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path
    monkeypatch.delenv("UPSTAIRS_CACHE")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for platform, variable, expected in (
        ("linux", "XDG_CACHE_HOME", tmp_path / ".cache" / "upstairs"),
        ("darwin", "", tmp_path / "Library" / "Caches" / "upstairs"),
        ("win32", "LOCALAPPDATA", tmp_path / "AppData" / "Local" / "upstairs"),
    ):
        monkeypatch.setattr(sys, "platform", platform)
        if variable:
            monkeypatch.delenv(variable, raising=False)
        assert cache_directory() == expected
        if variable:
            monkeypatch.setenv(variable, str(tmp_path / "chosen"))
            assert cache_directory() == tmp_path / "chosen" / "upstairs"
