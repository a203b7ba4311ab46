"""Trains several learners in the folder that is named, with 4 shards; started as one or as several processes."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import upstairs
from upstairs.core import cross_entropy
from upstairs.data.source import Source
from upstairs.data.splits import split_by_ratio
from upstairs.engine import distributed

rng = np.random.default_rng(0)
pictures = np.clip(np.repeat(rng.uniform(0, 255, (24, 1, 16, 16)), 8, 0) + rng.normal(0, 20, (192, 1, 16, 16)), 0, 255)
SMALL = {
    "data": "own",
    "tasks": 4,
    "shot": 1,
    "query": 2,
    "way": 3,
    "width": 8,
    "validations": 2,
    "validation_tasks": 6,
}
RUNS = {
    "maml": {"data": "sinusoid", "tasks": 4, "steps": 12, "shot": 5, "query": 5},
    "protonet": SMALL | {"steps": 6},  # population statistics
    "r2d2": SMALL | {"steps": 4},
    "reptile": SMALL | {"steps": 4},
    "es_maml": {"data": "sinusoid", "tasks": 4, "steps": 6, "shot": 5, "query": 5, "pairs": 2},
    "film": SMALL | {"steps": 4},
    "dagan": {"data": "own", "tasks": 4, "shot": 1, "query": 2, "width": 8, "steps": 6},  # two players
    "dropout": SMALL | {"steps": 4, "learner": "protonet", "dropout": 0.2},
    "hard": SMALL | {"steps": 6, "learner": "protonet", "hard": 0.5},
    "batch_norm": SMALL | {"steps": 4},  # of torch, whose running statistics a step writes
    "large": {"data": "sinusoid", "learner": "maml", "tasks": 4, "steps": 12, "shot": 5, "query": 5},
}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())


def nan_on_the_second_process(prediction: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(prediction, y) * (float("nan") if upstairs.distributed.rank() == 1 else 1.0)


def train_all(out: Path, names: list[str]) -> None:
    splits = split_by_ratio(Source.from_arrays(pictures.astype(np.uint8), np.repeat(np.arange(24), 8)))
    with upstairs.distributed.process_group():
        for name in names:
            own = dict(RUNS.get(name, SMALL | {"steps": 4}))
            learner = own.pop("learner", name)
            data = splits if own["data"] == "own" else own["data"]
            del own["data"]
            if name in ("batch_norm", "nan"):
                learner = upstairs.protonet(net(), way=3)
                del own["width"]
            if name == "nan":
                learner.loss_fn = nan_on_the_second_process
            distributed.LARGE = 1 if name == "large" else 10_000_000
            upstairs.train(learner, data=data, out=out / name, shards=4, threads=1, quiet=True, seed=1, **own)


if __name__ == "__main__":
    train_all(Path(sys.argv[1]), sys.argv[2:])
