# ruff: noqa: T201
"""Score generators on unseen classes: recognition and variety by a judge, bounds by shots, and a sheet of images.

    python benchmarks/generation.py OMNIGLOT --judge runs/protonet --runs runs/redrawing --out results/ --bounds
    python benchmarks/generation.py --judge runs/glyph-protonet --runs runs/glyph-redrawing --out results/

The judge is a run of `protonet` on the same training classes. Use `--part val` to choose settings.
"""

import argparse
import json
from itertools import pairwise
from pathlib import Path

import torch

from upstairs.console import counting
from upstairs.core import Examples, evaluating
from upstairs.data.open import open_splits
from upstairs.engine.allocator import keep_freed_memory
from upstairs.experiments.generate import make_sheet
from upstairs.experiments.generator_quality import CONTROLS, bounds_by_shots, judge_generators
from upstairs.experiments.report.figures import to_png
from upstairs.learners import NeuralStatistician
from upstairs.settings import DataOptions
from upstairs.statistics import interval, paired_interval
from upstairs.training.run import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default="glyphs", help="glyphs, or the path of a data set")
    parser.add_argument("--judge", type=Path)
    parser.add_argument("--runs", type=Path, nargs="+", default=[])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", default="test")
    parser.add_argument("--tasks", type=int, default=600)
    parser.add_argument("--controls", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--bounds", action="store_true", help="also the bounds by shots")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    source = getattr(open_splits(DataOptions(data=asked.data), quiet=False), asked.part)
    generators = {path.name: load(path).learner for path in asked.runs}
    asked.out.mkdir(parents=True, exist_ok=True)
    for name, learner in generators.items():
        (asked.out / f"{name}.png").write_bytes(to_png(sheet(learner, source)))
    if asked.judge:
        draws = (CONTROLS if asked.controls else {}) | generators
        with counting("judging", quiet=False) as progress:
            found = judge_generators(load(asked.judge).learner, source, draws, tasks=asked.tasks, progress=progress)
        write(asked.out / "judged.json", found)
        for name, row in found.items():
            print(
                f"| {name} | {100 * row['recognised']:.1f} ± {100 * row['recognised_ci95']:.1f} "
                f"| {100 * row['variety']:.0f} ± {100 * row['variety_ci95']:.1f} |"
            )
    smallest = min(len(rows) for rows in source.rows)
    for name, learner in generators.items() if asked.bounds else ():
        shots = [shot for shot in (1, 2, 5, 10) if shot + 3 <= smallest]  # and 3 queries
        shots = [0, *shots] if isinstance(learner, NeuralStatistician) else shots  # 0: unconditioned
        own = bounds_by_shots(learner, source, shots=shots, tasks=asked.tasks)
        rows = {f"{shot} shots": interval(values) for shot, values in own.items()}
        rows |= {f"{b} less {a}": paired_interval(own[b], own[a]) for a, b in pairwise(shots)}
        write(asked.out / f"{name}-bounds.json", {k: list(v) for k, v in rows.items()})
        for what, (mean, half) in rows.items():
            print(f"| {name} | {what} | {mean:.2f} ± {half:.2f} |")


def sheet(learner, source):
    """12 classes, spread over those there are: the example, and 10 drawn after it."""
    rows = {}
    for c in range(0, len(source), len(source) // 12):
        x = source.subset([c])
        first = x.gather(torch.tensor(x.rows[0][:1]), torch.tensor(x.turns) if x.turns else None)
        shown = Examples(first, torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.bool))
        with evaluating(learner):
            made = learner.sample(learner.adapt(shown), 10, seeded(c))
        rows[source.labels[c]] = (list(first.numpy()), list(made.numpy()))
    return make_sheet(rows)


def seeded(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def write(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


if __name__ == "__main__":
    keep_freed_memory()
    main()
