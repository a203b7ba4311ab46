# ruff: noqa: T201
"""Write benchmarks/results.md, and a picture of each table, from the json files of run.py and memory.py.

python benchmarks/write_results.py
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from record import HOME, RESULTS, milliseconds, ratios, spread
from run import WRONG
from workloads import WORKLOADS

Result = dict[str, Any]
OURS, OTHERS, WRONG_COLOR = "#1b6ca8", "#9aa5b1", "#c44536"
NAMES = [w.name for group in WORKLOADS.values() for w in group]
INTRODUCTION = f"""# Benchmarks

Made by `python benchmarks/write_results.py` from `benchmarks/results/*.json`. This page compares the time and
the memory of one meta-gradient with those of other libraries; `benchmarks/run.py` and `benchmarks/memory.py`
say at their top how they measure. A ratio above 1 is faster than the base. It is the median over interleaved
rounds, with the smallest and the largest value in brackets.

*Error* is the relative error of the gradient, computed in float64, against a plain loop in float64. A row above
{WRONG:.0e} is marked **wrong**: its time is that of another computation than the requested one.

*float32* is the relative error of the computation that is timed. It is not judged, since rounding can move an
input across the kink of a ReLU or the tie of a max-pool. The plain loop itself is then off by up to 3e-4 (W1,
12 seeds) or 2e-2 (W3, 8 seeds; two tasks). One value of that size does not show whether a row is right; how
often it occurs would, but is not measured here.
"""


def main() -> None:
    """Write all results that exist."""
    parser = argparse.ArgumentParser(description="Makes results.md and its images.")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="the folder of the json files and of the images")
    parser.add_argument("--out", type=Path, default=HOME / "results.md")
    arguments = parser.parse_args()
    found = [json.loads(path.read_text()) for path in arguments.folder.glob("*.json")]  # those of other benchmarks too
    results = sorted((r for r in found if r.get("name") == "memory" or workload(r) in NAMES), key=place)
    if not results:
        parser.error(f"{arguments.folder} has no json files: run python benchmarks/run.py")
    parts = [INTRODUCTION]
    for result in results:
        picture = arguments.folder / f"{result['name']}.png"
        draw, table = (draw_memory, memory_table) if result["name"] == "memory" else (draw_ratios, speed_table)
        draw(result, picture)
        link = os.path.relpath(picture, arguments.out.parent)
        head = f"## {result['name']}: {result['summary']}"
        parts.append(
            "\n".join([head, "", *table(result), "", f"![{result['name']}]({link})", "", surroundings(result)])
        )
    arguments.out.write_text("\n\n".join(part.strip() for part in parts) + "\n")
    print(f"written: {arguments.out}, {len(results)} tables")


def place(result: Result) -> tuple[int, str]:
    """The position of a table: in the order of the workloads, memory last."""
    name = workload(result)
    return (NAMES.index(name) if name in NAMES else len(NAMES), result["name"])


def workload(result: Result) -> str:
    """The name of the workload, first or second order; empty for the results of other benchmarks."""
    return result.get("name", "").removesuffix("-first-order")


def surroundings(result: Result) -> str:
    """One line with the commit, the machine and the versions of a result."""
    settings = " ".join(f"{k}={v}" for k, v in result["environment"].items()) or "no variables set"
    return (
        f"Commit {result['commit']}, {result['date']}. {result['machine']}; {result['system']}. "
        f"Python {result['python']}, torch {result['torch']}, {result['threads']} threads, {settings}."
    )


def speed_table(result: Result) -> list[str]:
    """Rows: library, version, ms, ratio, errors."""
    lines = [
        f"| library | version | ms | times as fast as {result['base']} | error | float32 |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in result["rows"].items():
        if "skipped" in row:
            lines.append(f"| {name} | | skipped: {row['skipped'].replace('|', '/')} | | | |")
            continue
        own = result["seconds"][name]
        ratio = spread(ratios(result["seconds"], name, result["base"]))
        error = f"{row['float64']:.0e}" + (" **wrong**" if row["wrong"] else "")
        lines.append(f"| {name} | {row['version']} | {milliseconds(own)} | {ratio} | {error} | {row['float32']:.0e} |")
    return lines


def memory_table(result: Result) -> list[str]:
    """Rows: number of steps; columns: MiB / seconds of each row."""
    rows = result["rows"]
    lines = [
        "| inner steps | " + " | ".join(f"{name}, MiB / s" for name in rows) + " |",
        "|---" * (len(rows) + 1) + "|",
    ]
    for points in zip(*rows.values(), strict=True):
        cells = [p.get("skipped") or f"{p['mib']:.0f} / {p['seconds']:.2f}" for p in points]
        lines.append(f"| {points[0]['steps']} | " + " | ".join(cells) + " |")
    return lines


def draw_ratios(result: Result, path: Path) -> None:
    """Bars of the ratio to the base, with the range over rounds."""
    names = [name for name in result["rows"] if name in result["seconds"]][::-1]
    values = {name: sorted(ratios(result["seconds"], name, result["base"])) for name in names}
    if not all(values.values()):  # the base could not run: nothing to compare with
        values = {name: sorted(1000 * s for s in result["seconds"][name]) for name in names}
        label = "ms (shorter is faster)"
    else:
        label = f"times as fast as {result['base']} (longer is faster)"
    figure, axes = plt.subplots(figsize=(7.5, 0.8 + 0.42 * len(names)), layout="constrained")
    for i, name in enumerate(names):
        v = values[name]
        middle = v[len(v) // 2] if len(v) % 2 else (v[len(v) // 2 - 1] + v[len(v) // 2]) / 2
        wrong = result["rows"][name]["wrong"]
        color = WRONG_COLOR if wrong else OURS if name.startswith("upstairs") else OTHERS
        axes.barh(i, middle, color=color, hatch="//" if wrong else None, edgecolor="white", height=0.7)
        axes.plot([v[0], v[-1]], [i, i], color="#333333", linewidth=1.2)
        axes.annotate(
            f"{middle:.2f}" + (" wrong gradient" if wrong else ""), (max(v[-1], middle), i), (5, 0),
            textcoords="offset points", va="center", fontsize=9,
        )  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(label)
    figure.suptitle(f"{result['name']}: {result['summary']}", fontsize=9)
    axes.margins(x=0.18)
    axes.set_xlim(left=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_memory(result: Result, path: Path) -> None:
    """Memory, and time, over inner steps."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name, points in result["rows"].items():
        points = [p for p in points if "mib" in p]
        for axes, key in zip(panels, ("mib", "seconds"), strict=True):
            axes.plot([p["steps"] for p in points], [p[key] for p in points], marker="o", markersize=4, label=name)
    for axes, label in zip(panels, ("extra resident memory, MiB", "seconds a meta-gradient"), strict=True):
        axes.set_xlabel("inner steps")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=9)
    figure.suptitle(result["summary"], fontsize=10)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
