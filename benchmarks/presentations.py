# ruff: noqa: T201
"""Santoro's curve: accuracy by how often a class was presented before, labels told one step late.

    upstairs train memory --data OMNIGLOT --split vinyals --minutes 5 --out runs/memory
    python benchmarks/presentations.py runs/memory

A stream is 5 test classes with random labels and 10 examples each, in random order; the network predicts each example
and is told its label with the next (Santoro et al. 2016, section 4.1). Written to benchmarks/results/presentations.json
and .png.
"""

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np
import torch

import upstairs
from upstairs.core import Examples, evaluating
from upstairs.evaluate import frozen_seeds
from upstairs.learners import MemoryLearner
from upstairs.learners.metric import members
from upstairs.opening import choose_source
from upstairs.tasks.episodes import Episodes
from upstairs.tasks.sources import Source

WAY, EACH = 5, 10
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("run", type=Path)
    words.add_argument("--streams", type=int, default=600)
    words.add_argument("--out", type=Path, default=RESULTS)
    chosen = words.parse_args()
    run = upstairs.load(chosen.run)
    right = measure(run.learner, choose_source(run, None, "test", quiet=False)[0], chosen.streams)
    mean, half = right.mean(0), 1.96 * right.std(0, ddof=1) / len(right) ** 0.5
    result = {
        "name": "presentations", "streams": len(right), "way": WAY, "examples of a class": EACH,
        "accuracy": mean.tolist(), "ci95": half.tolist(),
    }  # fmt: skip
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "presentations.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(mean, half, chosen.out / "presentations.png")
    for k in range(EACH):
        print(f"presentation {k + 1}: {100 * mean[k]:.1f} ± {100 * half[k]:.1f}")


def measure(learner: MemoryLearner, source: Source, streams: int) -> np.ndarray:
    """Of each stream, the share of its classes that were right at the 1st, 2nd, ... presentation: [stream, EACH]."""
    episodes = Episodes(source, way=WAY, shot=1, query=EACH - 1)
    result = np.zeros((streams, EACH))
    with evaluating(learner):
        for i, seed in enumerate(frozen_seeds(0, streams)):
            task = episodes.batch([seed])
            x, y = (torch.cat([a[0], b[0]]) for a, b in zip(task.support[:2], task.query[:2], strict=True))
            order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
            x, y = x[order], y[order]
            mask = torch.ones(len(y), dtype=torch.bool)
            z = learner.encoder(x)
            _, prediction = learner.stream(z, members(Examples(x, y, mask), learner.most, z), mask)
            for label in range(WAY):
                places = y == label
                result[i] += (prediction[places].argmax(-1) == label).numpy() / WAY
    return result


def draw(mean: np.ndarray, half: np.ndarray, path: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    places = np.arange(1, len(mean) + 1)
    axes.errorbar(places, 100 * mean, 100 * half, marker="o", capsize=3)
    axes.axhline(100 / WAY, color="grey", linestyle=":", label="chance")
    axes.set(xlabel="presentation of a class", ylabel="% correct", ylim=(0, 100), xticks=places)
    axes.set_title("memory: labels told one step late (Omniglot test classes)")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
