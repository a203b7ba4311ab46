"""Windows and macOS lack calls that Linux has: everything works without them."""

import os
import subprocess
import sys
from pathlib import Path

from helpers.runs import SMALL, draw_folder

LACKING = """
import ctypes, os, signal, sys
from pathlib import Path
import numpy, scipy.special, torch, rich.console, matplotlib.pyplot  # they know their platform
for name in ("sysconf", "sched_getaffinity", "sched_setaffinity", "nice", "fork", "getloadavg", "getuid", "geteuid",
             "uname", "killpg", "getpgid", "setsid", "mkfifo", "posix_fadvise", "posix_fallocate", "pread"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGTERM", "SIGKILL", "SIGALRM", "SIGHUP", "SIGUSR1", "SIGXFSZ", "alarm", "setitimer", "pthread_sigmask"):
    if hasattr(signal, name):
        delattr(signal, name)
for name in ("resource", "fcntl", "pwd", "grp", "termios", "tty"):
    sys.modules[name] = None
def no_library(name, *rest, **more):
    raise FileNotFoundError(name)
ctypes.CDLL = ctypes.cdll.LoadLibrary = no_library
is_file, exists = Path.is_file, Path.exists
Path.is_file = lambda self: not str(self).startswith("/proc") and is_file(self)
Path.exists = lambda self, **more: not str(self).startswith("/proc") and exists(self, **more)
from upstairs.cli import main
for words in sys.argv[1].split("|"):
    sys.argv = ["upstairs", *words.split()]
    main()
"""


def test_a_terminal_that_lacks_a_character_is_no_error(tmp_path: Path) -> None:
    """On Windows a pipe has the encoding of the country."""
    draw_folder(tmp_path / "data")
    for k, folder in enumerate(sorted((tmp_path / "data").iterdir())):
        folder.rename(tmp_path / "data" / f"字{k}")
    env = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    for words in (
        [*["train", "protonet", "--data", "data", "--steps", "2", "--out", "run"], *SMALL],
        ["evaluate", "run", "--tasks", "5", "--data", "data"],
        ["adapt", "run", "--support", "data", "--out", "model.safetensors"],
        ["predict", "model.safetensors", "data/字1/0.png"],
    ):
        code = [sys.executable, "-m", "upstairs", *words]
        done = subprocess.run(code, cwd=tmp_path, env=env, capture_output=True, encoding="cp1252")
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "\\u5b571" in done.stdout


def test_nothing_needs_the_calls_of_one_platform(tmp_path: Path) -> None:
    draw_folder(tmp_path / "data")
    draw_folder(tmp_path / "support", classes=3)
    small = " ".join([*SMALL, "--steps 2 --quiet"])
    commands = [
        f"train maml --data data {small} --out maml",
        f"train protonet --data data {small} --out protonet",
        "train protonet --out protonet --resume --steps 4 --quiet",
        "evaluate protonet --tasks 5 --quiet",
        "adapt maml --support support --out model.safetensors",
        "predict model.safetensors support/class00/0.png",
        "report protonet --tasks 5 --quiet",
    ]
    code = [sys.executable, "-c", LACKING, "|".join(commands)]
    done = subprocess.run(code, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert "support/class00/0.png\tclass00" in done.stdout and (tmp_path / "protonet" / "report.html").is_file()
