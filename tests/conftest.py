"""Fixtures shared by all tests: real data where it is at hand, a private cache directory, one thread."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from helpers import typecheck

typecheck.install()  # shapes and types are checked at run time, in tests only


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the real data sets; tests that need it skip where it is absent."""
    default = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
    path = Path(os.environ.get("UPSTAIRS_TEST_DATA", default)).resolve()
    if not path.is_dir():
        pytest.skip(
            "real data is not at hand: set UPSTAIRS_TEST_DATA to the folder that holds omniglot/ and cifar100-fewshot/"
        )
    return path


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tests never read or write the user's own cache. All workers share one: each data set is read once."""
    base = tmp_path_factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared_cache"
    path.mkdir(exist_ok=True)
    os.environ["UPSTAIRS_CACHE"] = str(path)
    return path


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeatable sums, here and in the processes that a test starts, and no fight for cores between xdist workers."""
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def foreground_signals() -> Iterator[None]:
    """Each test and the processes it starts have the signals of a command in the foreground.

    A suite in the background of a shell inherits that SIGINT is ignored.
    """
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the command line in this process: exit status, standard output, standard error."""

    from upstairs.cli.app import main  # after the import hook

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["upstairs", *map(str, words)])
        try:
            main()
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return run
