# ruff: noqa: T201
"""Time the meta-gradient of this library and of other libraries side by side.

    python benchmarks/install_peers.py      once: installs each of the other libraries into a separate place
    python benchmarks/run.py                all workloads, into benchmarks/results/NAME.json

Then `python benchmarks/memory.py` measures memory over inner steps, and `python benchmarks/write_results.py` makes
benchmarks/results.md and its images from the json files.

    python benchmarks/run.py W1 one --rounds 5 --first-order no     some workloads
    python benchmarks/run.py W3 --skip jax                          JAX needs half a minute per step there on one core
    python benchmarks/run.py W4 --quick                             a test: two tasks, two rounds, nothing written

Before the timing, each row's gradient is compared, in float64, with a plain loop; a row that differs is called
wrong. Then all rows take turns in one process, round after round (JAX in a separate process, but in the same
turns), so that a slower machine slows down all of them. A ratio is the median over rounds of the ratio to the base
within the round, with its smallest and largest value. A turn is one step or, if steps are shorter, a tenth of a
second of steps. Nothing is tuned: torch's default threads, the system's malloc.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jax_peer import JAX, JaxStep
from ours import OURS, PLAIN_LOOP
from peers import PEERS, Peer, Step, Unsupported
from record import RESULTS, milliseconds, ratios, spread, surroundings, write
from workloads import WORKLOADS, Data, Gradients, Workload, loop_gradients, protonet_gradients, relative_error

WRONG = 1e-5  # relative error in float64; the right ones are below 1e-6 (a learning rate kept as float32)
SETTLE = 0.3  # seconds after a turn of JAX, whose process would slow the next row down
TURN = 0.1  # seconds of a row in a round, where a step is shorter
# A float32 error is shown and not judged: rounding can carry an input across the kink of a ReLU or the tie of a
# max-pool, and then the plain loop itself is off by up to 3e-4 (W1, 12 seeds) or 2e-2 (W3, 8 seeds; two tasks).


def main() -> None:
    """Run what the arguments name."""
    arguments = parse()
    warnings.simplefilter("ignore")  # the other libraries' own deprecations
    failed = []
    for name in arguments.workloads or WORKLOADS:
        for workload in WORKLOADS[name]:
            if arguments.quick:
                workload = replace(workload, tasks=min(2, workload.tasks))
            for first_order in orders(workload, arguments.first_order):
                rounds = 2 if arguments.quick else arguments.rounds
                result = compare(workload, first_order, rounds, skip=arguments.skip)
                print_table(result)
                failed += [f"{result['name']}: {row}" for row in broken_rows_of_ours(result)]
                if arguments.out or not arguments.quick:
                    print(f"written: {write(result['name'], result, arguments.out or RESULTS)}\n", flush=True)
    if failed:
        sys.exit("a row of this library is wrong or failed: " + ", ".join(failed))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Times this library side by side with others.")
    parser.add_argument(
        "workloads", nargs="*", metavar="NAME", help=f"workloads among {', '.join(WORKLOADS)}; all if none is named"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--first-order", choices=["both", "yes", "no"], default="both")
    parser.add_argument("--skip", nargs="*", default=[], metavar="ROW", help="rows to leave out, such as jax")
    parser.add_argument("--quick", action="store_true", help="two tasks, two rounds, nothing written without --out")
    parser.add_argument("--out", type=Path, help=f"folder of the json files ({RESULTS.name})")
    arguments = parser.parse_args()
    if unknown := set(arguments.workloads) - set(WORKLOADS):
        parser.error(f"there is no workload {', '.join(unknown)}: choose from {', '.join(WORKLOADS)}")
    return arguments


def orders(w: Workload, choice: str) -> list[bool]:
    """The values of first_order to run."""
    return [order for order in (False, True) if choice in ("both", "yes" if order else "no") and order <= w.first_order]


def rows_of(w: Workload) -> dict[str, Peer]:
    """Every row of the workload's table, the base first."""
    if w.base == "plain loop":
        rows = {"plain loop": PLAIN_LOOP, "learn2learn": PEERS["learn2learn"], **OURS}
    else:
        rows = {**PEERS, "jax": JAX, **OURS}
    return {name: peer for name, peer in rows.items() if peer.has(w)}


def compare(w: Workload, first_order: bool, rounds: int, *, skip: list[str]) -> dict[str, Any]:
    """Check, warm up and time every row."""
    name = w.name + ("-first-order" if first_order else "")
    order = "" if w.method == "protonet" else ", first order" if first_order else ", second order"
    summary = f"{w.summary}, {w.tasks} task{'s' * (w.tasks > 1)}{order}"
    print(f"{name}: {summary}", flush=True)
    rows, steps = {}, {}
    try:
        for row, peer in rows_of(w).items():
            if row in skip:
                rows[row] = {"skipped": "left out of this run (--skip)"}
                continue
            progress(f"{name}: checking {row}")
            rows[row], step = prepare(w, peer, first_order)
            if step is not None:
                steps[row] = step
        seconds = interleave(steps, rounds, lambda done: progress(f"{name}: {done}"))
    finally:
        close(*steps.values())
    progress("")
    return {
        "name": name, "summary": summary, "base": w.base, "rows": rows, "seconds": seconds,
        **surroundings(),
    }  # fmt: skip


def prepare(w: Workload, peer: Peer, first_order: bool) -> tuple[dict[str, Any], Step | None]:
    """A row's version and errors, and its step, warmed up; the reason and no step where it cannot run."""
    few = replace(w, tasks=min(2, w.tasks))
    try:
        error = error_of(peer, few, few.data(torch.float64), first_order)[0]
        error32, step = error_of(peer, w, w.data(), first_order)
        step()
        return {"version": peer.version(), "float64": error, "float32": error32, "wrong": error > WRONG}, step
    except Unsupported as reason:
        return {"skipped": str(reason)}, None
    except Exception as failure:  # a library that breaks is a result: the others go on
        return {"skipped": f"{type(failure).__name__}: {failure}".splitlines()[0], "failed": True}, None


def error_of(peer: Peer, w: Workload, data: Data, first_order: bool) -> tuple[float, Step]:
    """The relative error of the row's gradient; a step in float64 is closed again."""
    step = peer.build(w, data, first_order)
    error = relative_error(step(), reference(w, first_order, peer.squared, peer.joint))
    if data.support_x.dtype == torch.float64:
        close(step)
    return error, step


@cache
def reference(w: Workload, first_order: bool, squared: bool, joint: bool) -> Gradients:
    """The right gradient, in float64."""
    net, data = w.net(torch.float64), Data(*(t.double() if t.is_floating_point() else t for t in w.data()))
    if w.method == "protonet":
        return protonet_gradients(w, net, data, squared=squared, joint=joint)
    return loop_gradients(w, net, data, first_order=first_order)


def interleave(steps: dict[str, Step], rounds: int, report: Callable[[str], None]) -> dict[str, list[float]]:
    """Seconds a step, of every row in every round; each round starts with another row."""
    seconds: dict[str, list[float]] = {row: [] for row in steps}
    names = list(steps)
    repeats = {row: max(1, round(TURN / time_of(step, 1))) for row, step in steps.items()}
    for i in range(rounds):
        for row in names[i % len(names) :] + names[: i % len(names)]:
            report(f"round {i + 1} of {rounds}, {row}")
            seconds[row].append(time_of(steps[row], repeats[row]))
    return seconds


def time_of(step: Step, repeats: int) -> float:
    """Seconds a step."""
    if isinstance(step, JaxStep):
        seconds = step.time(repeats)
        time.sleep(SETTLE)
        return seconds
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    return (time.perf_counter() - start) / repeats


def close(*steps: Step) -> None:
    """End the processes of the JAX rows."""
    for step in steps:
        if isinstance(step, JaxStep):
            step.close()


def broken_rows_of_ours(result: dict[str, Any]) -> list[str]:
    return [row for row in OURS if row in (r := result["rows"]) and (r[row].get("wrong") or r[row].get("failed"))]


def print_table(result: dict[str, Any]) -> None:
    """To the terminal: ms, ratio to the base, and the two errors."""
    print(f"{'':30}{'ms':>24}{'x ' + result['base']:>24}{'error f64':>12}{'f32':>10}")
    for name, row in result["rows"].items():
        if "skipped" in row:
            print(f"{name:30}  skipped: {row['skipped']}")
            continue
        seconds, ratio = result["seconds"][name], ratios(result["seconds"], name, result["base"])
        mark = "  WRONG" if row["wrong"] else ""
        errors = f"{row['float64']:>12.0e}{row['float32']:>10.0e}"
        print(f"{name:30}{milliseconds(seconds):>24}{spread(ratio):>24}{errors}{mark}")


def progress(text: str) -> None:
    """One line that is written over, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
