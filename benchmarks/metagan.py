# ruff: noqa: T201
"""Does MetaGAN help a ProtoNet that has few training classes? Paired over tasks of Omniglot's unseen characters.

    python benchmarks/metagan.py --data omniglot --out runs/metagan --minutes 5 --seeds 0 1

Both are trained on the same 100 characters for the same time; the classifier, its tasks and its start are the same.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

import upstairs
from upstairs.data.episodes import Episodes
from upstairs.data.open import open_splits
from upstairs.data.splits import Splits
from upstairs.engine.evaluate import frozen_seeds, score_tasks
from upstairs.statistics import interval

NAMES = ("protonet", "metagan")


@dataclass
class Options:
    data: str
    out: Path
    minutes: float = 5.0
    classes: int = 100
    seeds: tuple[int, ...] = (0,)
    tasks: int = 2000


def few(splits: Splits, classes: int, seed: int) -> Splits:
    """The same splits with so many training characters, upright ones, drawn by the seed."""
    upright = [i for i in range(len(splits.train)) if not splits.train.turns or not splits.train.turns[i]]
    order = torch.randperm(len(upright), generator=torch.Generator().manual_seed(seed))[:classes].tolist()
    return splits._replace(train=splits.train.subset([upright[i] for i in order]))


def main(options: Options) -> None:
    torch.set_num_threads(1)
    splits = open_splits({"data": options.data}, quiet=True)
    episodes = Episodes(splits.test, way=5, shot=1, query=15)
    rows = []
    for seed in options.seeds:
        own = few(splits, options.classes, seed)
        scores, steps = {}, {}
        for name in NAMES:
            out = options.out / f"{name}-{seed}"
            run = upstairs.train(name, out=out, data=own, way=20, minutes=options.minutes, seed=seed, quiet=True)
            scores[name] = score_tasks(run.learner, episodes, frozen_seeds(0, options.tasks))
            steps[name] = run.meta["progress"]["step"]
        rows.append(
            {"seed": seed, "steps": steps, **{n: interval(s) for n, s in scores.items()},
             "difference": interval(scores["metagan"] - scores["protonet"])}
        )  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
        np.savez(options.out / f"scores-{seed}.npz", **scores)
    (options.out / "result.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main(tyro.cli(Options))
