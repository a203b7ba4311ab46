"""Several workers at once: one process that imports and warms up, then forks them, and waits for each."""

import os
import subprocess
import sys
from pathlib import Path

FORK = """
import json, os, signal, sys, time, traceback, warnings
from pathlib import Path
import torch
torch.set_num_threads(1)
warnings.simplefilter("ignore")

def log(*words):
    "Appends a line to the log that all workers share."
    file = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, (" ".join(map(str, words)) + "\\n").encode())
    os.close(file)

def wait_for(path):
    while not Path(path).exists():
        time.sleep(0.02)

def die(mark):
    Path(mark).touch()
    os.kill(os.getpid(), signal.SIGKILL)

def command(*words):
    from upstairs.cli.app import main
    sys.argv = ["upstairs", *map(str, words)]
    main()


def start(number, work):
    if child := os.fork():
        return child
    status = 1
    try:
        sys.stdout, sys.stderr = (open(f"{name}-{number}", "w") for name in ("out", "err"))
        work(number)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def four(folder, work):
    Path(folder).mkdir()
    os.chdir(folder)
    children = {start(number, work): number for number in range(4)}
    statuses = [None] * 4
    for _ in range(4):
        child, status = os.wait()
        statuses[children[child]] = os.waitstatus_to_exitcode(status)
    Path("statuses").write_text(json.dumps(statuses))
    os.chdir("..")
"""


def run_workers(code: str, folder: Path) -> None:
    """Runs code in a process, in a folder. There `four(name, work)` runs `work(number)` in four processes at once.

    What worker N prints is in NAME/out-N and NAME/err-N, their exit statuses in NAME/statuses.
    """
    source = Path(__file__).resolve().parents[2] / "src"
    path = os.pathsep.join([str(source), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", FORK + code], cwd=folder, capture_output=True, text=True, timeout=300,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
