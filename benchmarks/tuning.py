# ruff: noqa: T201
"""What training an encoder further adds to its frozen features: protonet, 5-way 1-shot, each part that `--tune` names.

    OMP_NUM_THREADS=1 python benchmarks/tuning.py FOLDER --encoder mobilenet_v2 --tune last norms --out tuning-photos

FOLDER holds pictures as `upstairs train --data` reads them. Training tasks are of the training classes, `--steps` of
them, the last weights are kept. Frozen and trained networks then meet the same tasks of the test classes (or, with
`--part val`, of the validation classes: to choose a learning rate), whose first `--each` pictures are used.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from record import RESULTS, surroundings

import upstairs as up
from upstairs.core import evaluating
from upstairs.data.open import open_splits
from upstairs.engine.evaluate import frozen_seeds, score_tasks
from upstairs.engine.precompute import embedded
from upstairs.nets import pretrained_body
from upstairs.statistics import interval, paired_interval


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("folder")
    words.add_argument("--encoder", default="mobilenet_v2")
    words.add_argument("--tune", nargs="+", default=["last", "norms"], help="such as norms, or norms:1e-4 with its lr")
    words.add_argument("--steps", type=int, default=120)
    words.add_argument("--shots", type=int, nargs="+", default=[1])
    words.add_argument("--tasks", type=int, default=600)
    words.add_argument("--each", type=int, default=50)
    words.add_argument("--part", default="test", choices=["val", "test"])
    words.add_argument("--out", help="name of the file in benchmarks/results")
    chosen = words.parse_args()
    found: dict[str, Any] = {
        **vars(chosen),
        "folder": Path(chosen.folder).name,
        "surroundings": surroundings(),
        "rows": [],
    }
    plain: dict[int, Float[np.ndarray, " task"]] = {}
    for place, named in enumerate(chosen.tune):
        how, _, lr = named.partition(":")
        options: dict[str, Any] = {"data": chosen.folder, "encoder": chosen.encoder, "net": "pretrained", "tune": how}
        options |= {"lr": float(lr)} if lr else {}
        with tempfile.TemporaryDirectory() as folder:
            run = up.train(
                "protonet", out=Path(folder) / "run", steps=chosen.steps, validations=1, validation_tasks=1, quiet=True,
                **options,
            )  # fmt: skip
        source = getattr(open_splits(run.settings, quiet=True), chosen.part)
        source = replace(source, rows=tuple(rows[: chosen.each] for rows in source.rows))
        if place == 0:
            body = pretrained_body(chosen.encoder, source.feature_shape, tuned=None)
            plain = scores(up.protonet(body, way=5), source, chosen)
            print("frozen", {shot: interval(own) for shot, own in plain.items()}, flush=True)
        for shot, own in scores(run.learner, source, chosen).items():
            row = {
                "tune": how, "lr": run.settings.lr, "shot": shot, "frozen": interval(plain[shot]),
                "trained": interval(own), "difference": paired_interval(own, plain[shot]),
                "seconds": run.meta["progress"]["seconds"], "cpu": time.process_time(),
            }  # fmt: skip
            found["rows"].append(row)
            print(row, flush=True)
    if chosen.out:
        (RESULTS / f"{chosen.out}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def scores(learner: up.Learner, source: up.Source, chosen: argparse.Namespace) -> dict[int, Float[np.ndarray, " task"]]:
    """Returns the accuracy of each task by shot; each picture is embedded once."""
    found = {}
    with evaluating(learner):
        head, tasks = embedded(learner, up.Episodes(source, way=5, shot=1, query=15), tasks=chosen.tasks)
        for shot in chosen.shots:
            own = up.Episodes(tasks.source, way=5, shot=shot, query=15)
            found[shot] = score_tasks(head, own, frozen_seeds(0, chosen.tasks))
    return found


if __name__ == "__main__":
    main()
