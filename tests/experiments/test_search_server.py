"""A search on a PostgreSQL server, with four workers, one of which is killed."""

import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.workers import run_workers
from upstairs.errors import UpstairsError
from upstairs.experiments.search import Range, search

SPACE = {"lr": Range(1e-4, 1.0, log=True)}
WORK = """
from upstairs.experiments.search import Range, search

def work(number):
    def score(settings, report):
        log(number, settings["lr"])
        die("killed") if number == 1 else wait_for("killed")
        report(1, settings["lr"])
        return settings["lr"]

    found = search(score, {"lr": Range(1e-4, 1.0, log=True)}, trials=12, storage=URL, name="shared")
    print(found.trials, found.score)

import optuna, psycopg, sqlalchemy.orm
import optuna.storages._rdb.storage
four("workers", work)
trials = [t for t in optuna.load_study(study_name="shared", storage=URL).trials if t.params]
Path("trials").write_text(json.dumps([(t.state.name, t.value) for t in trials]))
"""


@pytest.fixture
def server() -> Iterator[str]:
    """The URL of a server of this test's own, which listens at a socket in a folder; it does not run as root."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = programs[-1] if programs else shutil.which("initdb")
    if found is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("its driver is not installed: pip install 'psycopg[binary]'")
    pytest.importorskip("optuna", reason="Optuna is not installed (extra [search])")
    folder, who = Path(tempfile.mkdtemp(prefix="postgres")), {}
    if os.geteuid() == 0:
        who = {"user": "nobody"}
        shutil.chown(folder, "nobody")

    def run(program: str, *words: str) -> None:
        command = [Path(found).with_name(program), "-D", folder / "data", *words]
        with (folder / "log").open("w") as log:  # a pipe would be kept open by the server
            done = subprocess.run(command, stdout=log, stderr=log, cwd=folder, timeout=120, **who)
        assert done.returncode == 0, (folder / "log").read_text()

    try:
        run("initdb", "--auth=trust", "--username=me", "--no-sync", "--locale=C", "--encoding=UTF8")
        run("pg_ctl", "start", "-w", "-l", str(folder / "server.log"), "-o", f"-F -k {folder} -c listen_addresses=''")
        yield f"postgresql+psycopg://me@/postgres?host={folder}"
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            run("pg_ctl", "stop", "-m", "immediate")
        shutil.rmtree(folder)


def test_four_workers_share_a_search_on_a_server(server: str, tmp_path: Path) -> None:
    run_workers(f"URL = {server!r}\n{WORK}", tmp_path)
    folder = tmp_path / "workers"
    said = "".join((folder / f"err-{n}").read_text() for n in range(4))
    assert json.loads((folder / "statuses").read_text()) == [0, -9, 0, 0], said
    trials = json.loads((tmp_path / "trials").read_text())
    states = Counter(state for state, _ in trials)
    assert states["COMPLETE"] + states["PRUNED"] == 12 and states["FAIL"] == 1, states
    started = (folder / "log").read_text().splitlines()
    assert len(started) == 13 == len({line.split()[1] for line in started}), "one twice, or too many"
    best = min(value for state, value in trials if state == "COMPLETE")
    assert [(folder / f"out-{n}").read_text() for n in (0, 2, 3)] == [f"12 {best}\n"] * 3


@pytest.mark.filterwarnings("ignore")  # of Optuna's own libraries
def test_a_server_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="Optuna is not installed (extra [search])")
    pytest.importorskip("psycopg", reason="its driver is not installed: pip install 'psycopg[binary]'")
    url = f"postgresql+psycopg://me:secret@/postgres?host={tmp_path}"

    def score(settings: dict[str, Any], report: Any) -> float:
        return 1.0

    with pytest.raises(UpstairsError, match=r"me:\*\*\*@/postgres.* cannot be reached \(.+\): check its URL") as raised:
        search(score, SPACE, trials=1, storage=url)
    assert "secret" not in str(raised.value)
