# ruff: noqa: T201
"""Train every learner at an equal budget on Omniglot's Vinyals split, and write the table of docs/learners.md.

    python benchmarks/learners.py OMNIGLOT --out runs/table --jobs 2    # two at a time, each on one core
    python benchmarks/learners.py OMNIGLOT --out runs/table --only maml protonet

OMNIGLOT is the folder with the two zips and `splits/vinyals`. Each learner trains for 5 minutes in a separate
process with its default settings; then all are scored on the same 600 test tasks, 5-way 1-shot with 15 queries per
class. Finished trainings are not repeated, and a stopped command continues.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import upstairs
from upstairs.learners import LEARNERS

DOCS = Path(__file__).parents[1] / "docs" / "learners.md"
BEGIN, END = "<!-- begin: benchmarks/learners.py -->", "<!-- end -->"


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("data", type=Path)
    words.add_argument("--out", type=Path, default=Path("runs/table"))
    words.add_argument("--minutes", type=float, default=5.0)
    words.add_argument("--jobs", type=int, default=1, help="trainings at a time; with more than one, each has one core")
    words.add_argument("--only", nargs="+", default=[n for n, e in LEARNERS.items() if e.defaults is not None])
    words.add_argument("--table-only", action="store_true", help="only compare the trained runs")
    chosen = words.parse_args()

    def train(name: str) -> None:
        print(f"{name}: {chosen.minutes:g} minutes", flush=True)
        command = ["train", name, "--data", chosen.data, "--split", "vinyals", "--minutes", chosen.minutes]
        command += ["--out", chosen.out / name, "--resume", "--quiet"]
        threads = {"OMP_NUM_THREADS": "1"} if chosen.jobs > 1 else {}
        subprocess.run([sys.executable, "-m", "upstairs", *map(str, command)], check=True, env=os.environ | threads)

    with ThreadPoolExecutor(chosen.jobs) as pool:
        list(pool.map(train, [] if chosen.table_only else chosen.only))
    runs = [chosen.out / name for name in LEARNERS if (chosen.out / name / "best.safetensors").exists()]
    result = upstairs.compare(runs, way=5, shot=1, query=15, tasks=600)
    (chosen.out / "learners.json").write_text(json.dumps(result, indent=1))
    text = DOCS.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    DOCS.write_text(f"{before}{BEGIN}\n{write_table(result)}{END}{after}")


def write_table(result: dict[str, Any]) -> str:
    """Return Markdown: a row for each learner and baseline, the best first, and both results of transductive ones."""
    scores = {row["name"]: row for row in result["scores"]}
    alone = ", one query at a time"
    rows = ["| learner | % correct | each query alone | meta-steps |", "|---|---|---|---|"]
    for row in result["scores"]:
        name = row["name"]
        if name.endswith(alone):
            continue
        other = scores.get(name + alone)
        number, mark = write(row), " †" if row["transductive"] else ""
        label = f"*{name.replace('_', ' ')}*" if row["baseline"] else f"[`{name}`](learners/{name}.md)"
        steps = "" if row["baseline"] else steps_of(Path(next(r for r in result["runs"] if Path(r).name == name)))
        rows.append(f"| {label} | {number}{mark} | {write(other) if other else ''} | {steps} |")
    return "\n".join([*rows, ""])


def write(row: dict[str, Any]) -> str:
    return f"{100 * row['accuracy']:.1f} ± {100 * row['ci95']:.1f}"


def steps_of(run: Path) -> str:
    own = upstairs.load(run)
    first = own.path / "pretrain"
    before = f"{upstairs.load(first).meta['progress']['step']:,} + " if first.exists() else ""
    return f"{before}{own.meta['progress']['step']:,}"


if __name__ == "__main__":
    main()
