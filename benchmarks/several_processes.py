# ruff: noqa: T201
"""Several processes on one run: kills at random moments, and speed side by side.

    python benchmarks/several_processes.py kills --times 20       # `kill -9` of a random process at a random moment
    python benchmarks/several_processes.py speed --rounds 3   # of a prototypical network, and of MAML on a sinusoid

`kills` compares the last checkpoint with that of one process that nobody disturbed, and prints the seconds from the
kill to the next checkpoint. `speed` prints the time of a step of the same run in several ways, and ratios.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

UPSTAIRS = [sys.executable, "-m", "upstairs"]
SINUSOID = ["train", "maml", "--data", "sinusoid", "--tasks", "8", "--shot", "5", "--query", "5"]
CONV = ["train", "protonet", "--width", "32", "--tasks", "8", "--way", "5", "--query", "5"]
CONV += ["--validations", "1", "--validation-tasks", "20"]


def digest(run: Path) -> str:
    from upstairs.storage import load_tensors

    tensors, _ = load_tensors(run / "last.safetensors", kind="run")
    return hashlib.sha256(b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))).hexdigest()[:16]


def workers(parent: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True).stdout.split()
    return [int(pid) for pid in found]


def kills(home: Path, times: int, steps: int) -> dict[str, Any]:
    common = [*UPSTAIRS, *SINUSOID, "--shards", "2", "--steps", str(steps), "--validations", "5", "--out"]
    subprocess.run([*common, str(home / "alone"), "--quiet"], check=True)
    right, wrong, back = digest(home / "alone"), 0, []
    dice = random.Random(0)
    for number in range(times):
        out = home / str(number)
        with subprocess.Popen([*common, str(out), "--processes", "2"], stderr=subprocess.PIPE, text=True) as process:
            while not (out / "last.safetensors").exists():
                time.sleep(0.05)
            time.sleep(dice.uniform(0, 6))
            children = workers(process.pid)
            if children:
                os.kill(dice.choice(children), signal.SIGKILL)
            killed, seen = time.monotonic(), (out / "last.safetensors").stat().st_mtime_ns
            while process.poll() is None and (out / "last.safetensors").stat().st_mtime_ns == seen:
                time.sleep(0.05)
            back.append(time.monotonic() - killed)
            process.communicate()
        same = process.returncode == 0 and digest(out) == right
        wrong += not same
        print(
            f"{number}: {'the same' if same else f'DIFFERENT (status {process.returncode})'}, {back[-1]:.1f} s",
            flush=True,
        )
    return {
        "kills": times,
        "wrong": wrong,
        "seconds_to_next_checkpoint": [min(back), statistics.median(back), max(back)],
    }


def speed(home: Path, rounds: int, steps: int) -> dict[str, Any]:
    ways = {
        "1 process, 1 shard": "--shards 1 --threads 1",
        "1 process, 1 shard, 2 threads": "--shards 1 --threads 2",
        "1 process": "--shards 4 --threads 1",
        "1 process, 2 threads": "--shards 4 --threads 2",
        "2 processes": "--shards 4 --threads 1 --processes 2",
    }
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(rounds):
        for name, run in (("conv4-32", CONV), ("sinusoid", SINUSOID)):
            for way, words in ways.items():
                out = home / f"{name} {way} {number}"
                count = steps if name == "conv4-32" else 10 * steps
                command = [*UPSTAIRS, *run, *words.split(), "--steps", str(count), "--out", str(out), "--quiet"]
                subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": words.split()[3]})
                progress = _progress(out)
                found.setdefault(name, {}).setdefault(way, []).append(1e3 * progress["seconds"] / count)
    for name, by_way in found.items():
        print(f"{name}: ms a step, and speed relative to 1 process of 1 thread with 1 shard")
        for way, values in by_way.items():
            ratios = sorted(a / b for a, b in zip(by_way["1 process, 1 shard"], values, strict=True))
            spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
            print(f"  {way:32} {statistics.median(values):8.1f}   {spread}")
    return found


def _progress(run: Path) -> dict[str, Any]:
    from upstairs.storage import load_tensors

    return load_tensors(run / "last.safetensors", kind="run")[1]["progress"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kills", "speed"))
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=0, help="steps of a run: by default 600 for kills, 60 for speed")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        if asked.what == "kills":
            print(json.dumps(kills(Path(home), asked.times, asked.steps or 600)))
        else:
            speed(Path(home), asked.rounds, asked.steps or 60)


if __name__ == "__main__":
    main()
