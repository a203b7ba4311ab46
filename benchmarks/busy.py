# ruff: noqa: T201
"""A training alone, and beside processes that compute: seconds of a step, for ways in which idle threads wait.

    python benchmarks/busy.py                 # all ways, 5 rounds
    python benchmarks/busy.py --ways default passive --rounds 3 --busy 1

Rounds are interleaved (every way alone, then every way beside the busy processes, again and again), since a machine's
mood changes within minutes. Of each round the median step counts; the table has the median and the range over rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAYS: dict[str, dict[str, str]] = {
    "default": {},
    "spinning": {"GOMP_SPINCOUNT": "300000"},  # what OpenMP does by itself
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 1000": {"GOMP_SPINCOUNT": "1000"},
    "spin 10000": {"GOMP_SPINCOUNT": "10000"},
    "spin 100000": {"GOMP_SPINCOUNT": "100000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
SET = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
RUNS = {
    "protonet": {"learner": "demo_protonet", "steps": 500},  # 60-way, Conv4-48
    "maml": {"learner": "demo_maml", "steps": 500},  # 5-way, Conv4-16, one inner step
    "sinusoid": {"learner": "maml", "data": "sinusoid", "steps": 500},
}


def measure(name: str, seconds: float) -> None:
    """Prints the median seconds of a step, measured for so long."""
    from upstairs.data.open import open_splits
    from upstairs.engine.allocator import keep_freed_memory
    from upstairs.training.defaults import fit_settings, request_run
    from upstairs.training.trainer import Trainer, take_step

    keep_freed_memory()
    request = request_run(**RUNS[name])
    splits = open_splits(request.settings, quiet=True)
    run = Trainer(fit_settings(request, splits.train), splits, Path(tempfile.gettempdir()) / "unused")
    for _ in range(3):
        take_step(run)
    taken, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken) < 5:
        start = time.perf_counter()
        take_step(run)
        taken.append(time.perf_counter() - start)
    print(statistics.median(taken))


def child(name: str, way: str, seconds: float) -> float:
    environment = {key: value for key, value in os.environ.items() if key not in SET} | WAYS[way]
    words = [sys.executable, __file__, "--measure", name, "--seconds", str(seconds)]
    done = subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--busy", type=int, default=1, help="processes that compute beside the training")
    parser.add_argument("--out", type=Path, help="a JSON file for all numbers")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        measure(asked.measure, asked.seconds)
        return
    seen: dict[str, dict[str, dict[str, list[float]]]] = {
        name: {way: {"idle": [], "busy": []} for way in asked.ways} for name in asked.runs
    }
    for number in range(asked.rounds):
        for load in ("idle", "busy"):
            count = asked.busy if load == "busy" else 0
            others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
            try:
                for name in asked.runs:
                    for way in asked.ways:
                        seen[name][way][load].append(child(name, way, asked.seconds))
            finally:
                for other in others:
                    other.kill()
                    other.wait()
        print(f"round {number + 1} of {asked.rounds}", file=sys.stderr, flush=True)
    print(f"{'ms a step':<24}{'alone':>24}{'busy':>24}{'busy/alone':>12}{'alone/default':>15}")
    for name, ways in seen.items():
        usual = statistics.median(next(iter(ways.values()))["idle"])
        for way, found in ways.items():
            cells = [
                f"{1e3 * statistics.median(times):.1f} ({1e3 * min(times):.1f}-{1e3 * max(times):.1f})"
                for times in found.values()
            ]
            against = statistics.median(found["idle"]) / usual
            ratio = statistics.median(b / i for i, b in zip(found["idle"], found["busy"], strict=True))
            print(f"{name + ', ' + way:<24}{cells[0]:>24}{cells[1]:>24}{ratio:>12.2f}{against:>15.2f}")
    if asked.out:
        asked.out.write_text(json.dumps(seen, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
