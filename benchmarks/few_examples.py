# ruff: noqa: T201
"""Models from a few examples, without meta-training: Upstairs beside adaptshot (photos) and SetFit (texts).

    python benchmarks/few_examples.py draw CIFAR_FOLDER TASKS --tasks 40       # tasks of photos, as files
    python benchmarks/few_examples.py draw CLINC_FOLDER TASKS --tasks 5        # tasks of texts, as tables
    python benchmarks/few_examples.py upstairs TASKS --encoder efficientnet_lite0
    python benchmarks/few_examples.py adaptshot TASKS                          # in an environment with adaptshot
    python benchmarks/few_examples.py setfit TASKS --encoder FOLDER            # in an environment with setfit

Each contestant reads the same tasks: accuracy with its 95% interval over tasks, seconds to adapt, and milliseconds for
a prediction of one input at a time. Loading the encoder is not counted.
"""

import argparse
import csv
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Examples = list[tuple[Any, str]]  # (input, label)


def draw(data: Path, out: Path, *, tasks: int, way: int, shot: int, query: int, size: int) -> None:
    """Writes tasks of test classes: part/label/number.jpg for photos, part.tsv for texts."""
    import numpy as np
    import torch
    from PIL import Image

    from upstairs.data.open import open_splits
    from upstairs.settings import DataOptions

    source = open_splits(DataOptions(data=str(data)), quiet=True).test
    for number in range(tasks):
        rng = np.random.default_rng([0, number])
        for k in rng.choice(len(source), min(way, len(source)), replace=False):
            for place, row in enumerate(rng.permutation(source.rows[k])[: shot + query]):
                part = out / f"task{number:02}" / ("support" if place < shot else "query")
                if source.texts:
                    part.parent.mkdir(parents=True, exist_ok=True)
                    with part.with_suffix(".tsv").open("a", encoding="utf-8", newline="") as stream:
                        csv.writer(stream, delimiter="\t").writerow([source.texts[row], source.labels[k]])
                    continue
                pixels = (source.gather(torch.tensor([row]))[0].permute(1, 2, 0) * 255).byte().numpy()
                folder = part / source.labels[k]
                folder.mkdir(parents=True, exist_ok=True)
                picture = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
                picture.save(folder / f"{place}.jpg", quality=92)


def read(part: Path) -> Examples:
    if part.is_dir():
        return [(str(file), file.parent.name) for file in sorted(part.glob("*/*"))]
    with part.with_suffix(".tsv").open(encoding="utf-8", newline="") as stream:
        return [(text, label) for text, label in csv.reader(stream, delimiter="\t")]


def upstairs(encoder: str) -> Callable[[Examples], Callable[[Any], str]]:
    import upstairs as up

    opened = up.encoder(encoder)

    def adapt(support: Examples) -> Callable[[Any], str]:
        items, labels = zip(*support, strict=True)
        model = up.adapt((list(items), list(labels)), encoder=opened)
        return lambda item: model.predict([item])[0]

    return adapt


def adaptshot(_: str) -> Callable[[Examples], Callable[[Any], str]]:
    from adaptshot import FewShotLearner

    def adapt(support: Examples) -> Callable[[Any], str]:
        items, labels = zip(*support, strict=True)
        learner = FewShotLearner()
        learner.load_support_images(list(items), list(labels))
        return lambda item: str(learner.predict(item).prediction)

    return adapt


def setfit(encoder: str) -> Callable[[Examples], Callable[[Any], str]]:
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    def adapt(support: Examples) -> Callable[[Any], str]:
        items, labels = zip(*support, strict=True)
        model = SetFitModel.from_pretrained(encoder, labels=sorted(set(labels)))
        arguments = TrainingArguments(save_strategy="no", report_to="none", show_progress_bar=False)
        data = Dataset.from_dict({"text": list(items), "label": list(labels)})
        Trainer(model=model, args=arguments, train_dataset=data).train()
        return lambda item: str(model.predict([item])[0])

    return adapt


def measure(make: Callable[[Examples], Callable[[Any], str]], tasks: list[Path]) -> dict[str, Any]:
    scores, adapting, asking = [], [], []
    make(read(tasks[0] / "support"))  # what is loaded once
    for task in tasks:
        started = time.perf_counter()
        ask = make(read(task / "support"))
        adapting.append(time.perf_counter() - started)
        query = read(task / "query")
        started = time.perf_counter()
        right = [ask(item) == label for item, label in query]
        asking.append((time.perf_counter() - started) / len(query))
        scores.append(sum(right) / len(right))
    half = 1.96 * statistics.stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else math.nan
    return {
        "accuracy": statistics.mean(scores), "ci95": half, "tasks": len(scores),
        "adapt_seconds": statistics.median(adapting), "predict_ms": 1e3 * statistics.median(asking),
    }  # fmt: skip


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("what", choices=("draw", "upstairs", "adaptshot", "setfit"))
    words.add_argument("data", type=Path)
    words.add_argument("out", type=Path, nargs="?")
    words.add_argument("--encoder", default="efficientnet_lite0")
    words.add_argument("--tasks", type=int, default=40)
    words.add_argument("--way", type=int, default=10)
    words.add_argument("--shot", type=int, default=5)
    words.add_argument("--query", type=int, default=10)
    words.add_argument("--size", type=int, default=224, help="pixels along each side of a photo")
    asked = words.parse_args()
    if asked.what == "draw":
        shape = {name: getattr(asked, name) for name in ("tasks", "way", "shot", "query", "size")}
        draw(asked.data, asked.out, **shape)
        return
    make = {"upstairs": upstairs, "adaptshot": adaptshot, "setfit": setfit}[asked.what](asked.encoder)
    tasks = sorted(asked.data.glob("task*"))[: asked.tasks]
    named = {"contestant": asked.what, "encoder": "its own" if asked.what == "adaptshot" else Path(asked.encoder).name}
    print(json.dumps(named | measure(make, tasks)), flush=True)


if __name__ == "__main__":
    main()
