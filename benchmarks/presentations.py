# ruff: noqa: T201
"""Measure accuracy by the number of earlier presentations of a class, with labels one step late (Santoro's curve).

    upstairs train memory --data OMNIGLOT --split vinyals --minutes 5 --out runs/memory
    upstairs train lstm --data OMNIGLOT --split vinyals --minutes 5 --out runs/lstm
    python benchmarks/presentations.py runs/memory runs/lstm

A stream has 5 test classes with random labels and 10 examples each, in random order. The network predicts each
example and receives its label with the next one (Santoro et al. 2016, section 4.1). The results are written to
benchmarks/results/presentations.json and .png; curves of other runs in these files are kept.
"""

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np
import torch

import upstairs
from upstairs.core import Examples, evaluating
from upstairs.data.episodes import Episodes
from upstairs.data.source import Source
from upstairs.engine.evaluate import frozen_seeds
from upstairs.experiments.evaluate import choose_source
from upstairs.learners.metric.protonet import members
from upstairs.learners.model_based.recurrent import StreamLearner

WAY, EACH = 5, 10
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("runs", type=Path, nargs="+")
    words.add_argument("--streams", type=int, default=600)
    words.add_argument("--out", type=Path, default=RESULTS)
    chosen = words.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    file = chosen.out / "presentations.json"
    result = json.loads(file.read_text()) if file.exists() else {}
    result |= {"name": "presentations", "way": WAY, "examples of a class": EACH}
    for path in chosen.runs:
        run = upstairs.load(path)
        right = measure(run.learner, choose_source(run, None, "test", quiet=False)[0], chosen.streams)
        mean, half = right.mean(0), 1.96 * right.std(0, ddof=1) / len(right) ** 0.5
        curve = {"streams": len(right), "accuracy": mean.tolist(), "ci95": half.tolist()}
        result.setdefault("curves", {})[run.settings.learner] = curve
        shown = (f"{100 * m:.1f} ± {100 * h:.1f}" for m, h in zip(mean, half, strict=True))
        print(f"{run.settings.learner}, presentation 1 to {EACH}: {', '.join(shown)}", flush=True)
    file.write_text(json.dumps(result, indent=1) + "\n")
    draw(result["curves"], chosen.out / "presentations.png")


def measure(learner: StreamLearner, source: Source, streams: int) -> np.ndarray:
    """Return the share of classes predicted correctly at the 1st, 2nd, ... presentation: [stream, EACH]."""
    episodes = Episodes(source, way=WAY, shot=1, query=EACH - 1)
    result = np.zeros((streams, EACH))
    with evaluating(learner):
        for i, seed in enumerate(frozen_seeds(0, streams)):
            task = episodes.batch([seed])
            x, y = (torch.cat([a[0], b[0]]) for a, b in zip(task.support[:2], task.query[:2], strict=True))
            order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
            x, y = x[order], y[order]
            mask = torch.ones(len(y), dtype=torch.bool)
            tokens = learner.tokens(x)
            _, prediction = learner.stream(tokens, members(Examples(x, y, mask), learner.most, tokens), mask)
            for label in range(WAY):
                places = y == label
                result[i] += (prediction[places].argmax(-1) == label).numpy() / WAY
    return result


def draw(curves: dict[str, dict[str, list[float]]], path: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    places = np.arange(1, EACH + 1)
    for name, curve in curves.items():
        mean, half = (100 * np.array(curve[key]) for key in ("accuracy", "ci95"))
        axes.errorbar(places, mean, half, marker="o", capsize=3, label=name)
    axes.axhline(100 / WAY, color="grey", linestyle=":", label="chance")
    axes.set(xlabel="presentation of a class", ylabel="% correct", ylim=(0, 100), xticks=places)
    axes.set_title("labels one step late (Omniglot test classes)")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
