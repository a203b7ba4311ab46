# ruff: noqa: T201
"""Measure memory and time of one meta-gradient for 1 to 100 inner steps: python benchmarks/memory.py

The workload is W1 with one task and an inner learning rate of 0.01 (a hundred steps of 0.1 may diverge). Every
point is a separate process. The memory is the largest resident size during two steps, minus that before them; a
step of a tiny network comes first, so that code loaded by a first step is not counted. The results are written to
benchmarks/results/memory.json; `python benchmarks/write_results.py` draws them.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ours import make_learner, make_tasks
from peers import Step, Unsupported, gradients_of, learn2learn
from record import RESULTS, surroundings, write
from workloads import DOUBLE, W1, Workload, loop_gradients, relative_error

from upstairs.engine.meta_backward import meta_backward

STEPS = (1, 5, 20, 50, 100)
STATUS = Path("/proc/self/status")
WHICH = ("learn2learn", "upstairs, unrolled", "upstairs, recompute", "upstairs, first order")


def main() -> None:
    """All points, or the one that this process was started for."""
    parser = argparse.ArgumentParser(description="Measures memory over inner steps.")
    parser.add_argument("--steps", type=int, nargs="*", default=STEPS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--point", nargs=2, metavar=("ROW", "STEPS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not STATUS.exists():
        sys.exit("this benchmark reads the resident size from /proc, which this system does not have")
    if arguments.point:
        row, steps = arguments.point
        print(json.dumps(measure(row, workload(int(steps)))))
        return
    rows = {row: [point(row, steps) for steps in arguments.steps] for row in WHICH}
    reach = f"{min(arguments.steps)} to {max(arguments.steps)} inner steps"
    summary = f"{W1.summary.replace('5 inner steps', reach)}, 1 task"
    result = {"name": "memory", "summary": summary, "rows": rows, **surroundings()}
    print(f"written: {write('memory', result, arguments.out)}")


def workload(steps: int) -> Workload:
    return replace(W1, tasks=1, steps=steps, lr=0.01)


def point(row: str, steps: int) -> dict[str, Any]:
    """One measurement in a fresh process; the reason where there is none."""
    command = [sys.executable, __file__, "--point", row, str(steps)]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        lines = process.stderr.strip().splitlines()
        result = {"skipped": lines[-1] if lines else f"ended with status {process.returncode}"}
    else:
        result = json.loads(process.stdout.splitlines()[-1])
    shown = result.get("skipped") or "{mib:6.0f} MiB {seconds:7.2f} s  error {error}".format(**result)
    print(f"{row:24}{steps:4} steps  {shown}", flush=True)
    return {"steps": steps, **result}


def measure(row: str, w: Workload) -> dict[str, Any]:
    """Extra resident memory in MiB, seconds of the faster of two steps, and the gradient's error for up to 5 steps."""
    warnings.simplefilter("ignore")
    build(row, replace(w, shape=(1, 16, 16), width=4, query=1, steps=1))()
    step = build(row, w)
    before = resident()
    with Peak() as peak:
        seconds = min(timed(step), timed(step))
    error = None
    if w.steps <= 5:
        right = loop_gradients(w, w.net(DOUBLE), w.data(DOUBLE), first_order="first order" in row)
        error = f"{relative_error(step(), right):.0e}"
    return {"mib": (peak.largest - before) / 1024, "seconds": seconds, "error": error}


def build(row: str, w: Workload) -> Step:
    """The step of a row."""
    if row == "learn2learn":
        return learn2learn(w, w.data(), first_order=False)
    if row not in WHICH:
        raise Unsupported(f"there is no row '{row}': choose one of {', '.join(WHICH)}")
    net, tasks = w.net(), make_tasks(w.data())
    learner = make_learner(w, net, first_order=row == "upstairs, first order")

    def step() -> dict[str, Any]:
        learner.zero_grad()
        meta_backward(learner, tasks, recompute=row == "upstairs, recompute")
        return gradients_of(dict(net.named_parameters()))

    return step


def timed(step: Callable[[], Any]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def resident() -> int:
    """KiB of this process that are in memory now."""
    return next(
        int(line.split()[1]) for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith("VmRSS")
    )


class Peak:
    """The largest resident size within a `with` block, looked at every 2 ms from a thread."""

    def __enter__(self) -> "Peak":
        self.largest, self.stop = resident(), threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def watch(self) -> None:
        while not self.stop.wait(0.002):
            self.largest = max(self.largest, resident())

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()


if __name__ == "__main__":
    main()
