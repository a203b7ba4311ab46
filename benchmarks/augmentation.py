# ruff: noqa: T201
"""A classifier with and without what a generator draws, on the same tasks of unseen classes.

    upstairs train protonet --data OMNIGLOT --train-classes 100 --way 20 --minutes 5 --out runs/few
    upstairs train redrawing --data OMNIGLOT --train-classes 100 --minutes 5 --out runs/more
    python benchmarks/augmentation.py runs/few runs/more --tasks 2000

How many are drawn is chosen by `--part val`. Training meets the same classes where both runs have one --split-seed.
"""

import argparse
from pathlib import Path

import torch

from upstairs.data.episodes import Episodes
from upstairs.data.open import open_splits
from upstairs.engine.allocator import keep_freed_memory
from upstairs.engine.evaluate import frozen_seeds, score_tasks
from upstairs.learners import Augmented
from upstairs.statistics import interval, paired_interval
from upstairs.training.run import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classifier", type=Path)
    parser.add_argument("generator", type=Path)
    parser.add_argument("--data", help="where it is, if not where the classifier's was")
    parser.add_argument("--part", default="test")
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--counts", type=int, nargs="+", default=[5])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    run, more = load(asked.classifier), load(asked.generator).generator()
    source = getattr(open_splits({"data": asked.data or run.settings.data}, quiet=False), asked.part)
    episodes, seeds = Episodes(source, way=5, shot=1, query=5), frozen_seeds(0, asked.tasks)
    plain = score_tasks(run.learner, episodes, seeds)
    print(f"without: {interval(plain)}")
    for count in asked.counts:
        grown = score_tasks(Augmented(run.learner, more, count=count), episodes, seeds)
        print(f"with {count} of each class: {interval(grown)}, difference {paired_interval(grown, plain)}", flush=True)


if __name__ == "__main__":
    keep_freed_memory()
    main()
