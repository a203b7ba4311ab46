# ruff: noqa: T201
"""Stops real trainings by SIGTERM and SIGINT, and kills some by SIGKILL, at random moments, and resumes each.

    python benchmarks/stops.py --stops 200 --kills 100

Every resumed run must be the uninterrupted one: weights, optimiser, history (but for its seconds) and best score. Each
stopped process must end with status 130 and name the step that it saved; a kill leaves a checkpoint that loads. The
same run is stopped again and again, each time in a new process, until it is done; then a new one begins.
"""

import argparse
import hashlib
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # no thread may exist where a process forks

import numpy as np
from PIL import Image

from upstairs import training
from upstairs.cli import main
from upstairs.storage import load_tensors

SMALL = "--width 4 --way 3 --query 2 --tasks 2 --validation-tasks 8 --quiet"
EARLY = 99
RUNS = {
    "maml on sinusoid": "maml --data sinusoid --steps 150 --validations 8 --validation-tasks 50 --quiet",
    "pictures": f"protonet --data pictures --steps 120 --validations 10 {SMALL}",
    "two players": "dagan --data pictures --steps 40 --validations 6 --width 4 --query 2 --validation-tasks 8 --quiet",
    "hard classes": f"protonet --data pictures --hard 0.25 --steps 120 --validations 10 {SMALL}",
    "validations": f"protonet --data pictures --steps 40 --validations 40 {SMALL.replace('tasks 8', 'tasks 60')}",
    "patience": f"maml --data pictures --steps 100 --validations 40 --patience 20 {SMALL}",
    "pretraining": f"mtl --data pictures --pretrain 0.5 --steps 100 --validations 6 {SMALL}",
}


def draw(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for c in range(12):
        (folder / f"class{c:02}").mkdir(parents=True)
        pattern = rng.uniform(0, 255, (5, 5)).repeat(4, 0).repeat(4, 1)
        for e in range(8):
            noisy = np.clip(pattern + rng.normal(0, 20, pattern.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / f"class{c:02}" / f"{e}.png")


def digest(out: Path) -> str:
    """Returns a hash of everything in a run's checkpoints but seconds and versions."""
    found = hashlib.sha256()
    for file in sorted(out.rglob("*.safetensors")):
        tensors, meta = load_tensors(file, kind="run")
        progress = meta["progress"] | {"seconds": 0}
        progress["history"] = [point | {"seconds": 0} for point in progress["history"]]
        found.update(json.dumps([file.name, progress, meta["optimizer"]], sort_keys=True).encode())
        for name in sorted(tensors):
            found.update(name.encode() + tensors[name].numpy().tobytes())
    return found.hexdigest()[:16]


def start(words: str, out: Path, home: Path) -> int:
    """Starts the command in a forked process, which has everything imported already, and returns its number."""
    child = os.fork()
    if child:
        return child
    status = EARLY
    try:
        os.chdir(home)
        os.dup2(os.open(f"{out}.said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        sys.argv = ["upstairs", "train", *words.split(), "--out", str(out), "--resume"]
        main()
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    finally:
        os._exit(status)


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def stop_and_resume() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it, and so would children
    for name in ("train", "trainer", "pretrain"):  # imported once, for all
        import_module(f"{training.__name__}.{name}")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=int, default=200)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng, wrong, counts = random.Random(asked.seed), 0, {"stops": 0, "kills": 0, "too late": 0, "runs": 0}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        draw(home / "pictures")
        whole = {}
        for place, name in enumerate(asked.runs):
            started = time.monotonic()
            assert wait(start(RUNS[name], home / f"whole{place}", home)) == 0
            whole[name] = digest(home / f"whole{place}"), time.monotonic() - started
        while counts["stops"] < asked.stops or counts["kills"] < asked.kills:
            name = asked.runs[counts["runs"] % len(asked.runs)]
            out, (right, seconds) = home / f"run{counts['runs']}", whole[name]
            while True:
                child = start(RUNS[name], out, home)
                todo = [signal.SIGTERM, signal.SIGINT] * (counts["stops"] < asked.stops)
                number = rng.choice(todo + [signal.SIGKILL] * (counts["kills"] < asked.kills) or [None])
                if number is not None:
                    time.sleep(rng.uniform(0.02, 0.4) * seconds)
                    os.kill(child, number)
                status, said = wait(child), Path(f"{out}.said").read_text(encoding="utf-8")
                if status == 0:
                    counts["too late"] += number is not None
                    break
                if number == signal.SIGKILL and status == -signal.SIGKILL:
                    counts["kills"] += 1
                elif status == 130 and re.search(r"step \d+ of .* is saved|stopped$", said.strip()):
                    counts["stops"] += 1
                elif status == EARLY and not said:  # before the command had begun
                    continue
                else:
                    wrong += 1
                    print(f"{name}: status {status} after {number!r}: {said}", flush=True)
            counts["runs"] += 1
            if digest(out) != right:
                wrong += 1
                print(f"{name}: the resumed run is {digest(out)}, the uninterrupted one {right}", flush=True)
            print(f"{name}: {'same' if digest(out) == right else 'DIFFERENT'}; {counts}", flush=True)
    print(f"{counts['stops']} stops, {counts['kills']} kills in {counts['runs']} runs: {wrong} wrong")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    stop_and_resume()
