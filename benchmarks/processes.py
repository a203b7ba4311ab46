# ruff: noqa: T201
"""Compare neural processes with the exact posterior of the Gaussian process that their tasks are drawn from.

    for name in cnp lnp anp; do upstairs train $name --data gp --minutes 6 --out runs/$name; done
    python benchmarks/processes.py runs/cnp runs/lnp runs/anp

It measures the mean log-likelihood of a query for 1 to 20 support examples, on 1,000 tasks each, and draws two
tasks with the prediction of each learner. The results are written to benchmarks/results/processes.json and .png;
results of other runs in these files are kept.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from record import RESULTS

import upstairs
from upstairs.core import Learner, evaluating
from upstairs.data.episodes import Episodes
from upstairs.data.regression.functions import GaussianProcess
from upstairs.data.source import function_source
from upstairs.engine.evaluate import describe_score, frozen_seeds, score_tasks
from upstairs.engine.metrics import LIKELIHOOD, SQUARED_ERROR
from upstairs.learners import GaussianPosterior
from upstairs.tree import index

SHOTS, TASKS, QUERY = (1, 2, 5, 10, 20), 1000, 15
GRID = np.linspace(-2, 2, 100, dtype=np.float32)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("runs", nargs="+", type=Path)
    process = GaussianProcess()
    runs = [upstairs.load(path) for path in words.parse_args().runs]
    learners: dict[str, Learner] = {run.settings.learner: run.learner for run in runs}
    learners["exact posterior"] = GaussianPosterior(process)
    source, file = function_source(process), RESULTS / "processes.json"
    result = json.loads(file.read_text()) if file.exists() else {}
    result |= {"tasks": TASKS, "query": QUERY}
    for name, learner in learners.items():
        result.setdefault("scores", {})[name] = {}
        for shot in SHOTS:
            episodes, seeds = Episodes(source, shot=shot, query=QUERY), frozen_seeds(0, TASKS)
            found = describe_score(score_tasks(learner, episodes, seeds, kind=LIKELIHOOD), LIKELIHOOD)
            found |= {"mse": describe_score(score_tasks(learner, episodes, seeds), SQUARED_ERROR)}
            result["scores"][name][str(shot)] = found
            print(f"{shot} examples, {name}: {found['likelihood']:.3f} ± {found['ci95']:.3f} nats,", end=" ")
            print(f"mse {found['mse']['mse']:.3f} ± {found['mse']['ci95']:.3f}", flush=True)
        result.setdefault("shown", {})[name] = shown(learner, Episodes(source, shot=5, query=QUERY))
    file.write_text(json.dumps(result, indent=1) + "\n")
    draw(result)


def shown(learner: Learner, episodes: Episodes) -> list[dict[str, Any]]:
    """Return the support sets of two tasks and the learner's predictions on a grid."""
    found = []
    for seed in frozen_seeds(0, 2):
        support = index(episodes.batch([seed]), 0).support
        with evaluating(learner):
            mean, log_scale = learner.predict(learner.adapt(support), torch.tensor(GRID)[:, None]).T
        numbers = {"x": support.x, "y": support.y, "mean": mean, "scale": log_scale.exp()}
        found.append({key: [round(v, 4) for v in value.flatten().tolist()] for key, value in numbers.items()})
    return found


def draw(result: dict[str, Any]) -> None:
    shown = result["shown"]
    figure = plt.figure(figsize=(3 * max(3, len(shown)), 8), layout="constrained")
    grid = figure.add_gridspec(3, len(shown))
    axes = figure.add_subplot(grid[0, :])
    for name, row in result["scores"].items():
        means, halves = ([row[str(s)][key] for s in SHOTS] for key in ("likelihood", "ci95"))
        axes.errorbar(SHOTS, means, halves, marker="o", capsize=3, label=name)
    axes.set(xlabel="support examples", ylabel="log-likelihood of a query, nats", xscale="log", xticks=SHOTS)
    axes.set_xticks(SHOTS, [str(s) for s in SHOTS])
    axes.legend(frameon=False)
    for column, (name, tasks) in enumerate(shown.items()):
        for line, task in enumerate(tasks):
            mean, scale = np.array(task["mean"]), np.array(task["scale"])
            axes = figure.add_subplot(grid[1 + line, column])
            axes.plot(GRID, mean)
            axes.fill_between(GRID, mean - 2 * scale, mean + 2 * scale, alpha=0.2)
            axes.plot(task["x"], task["y"], "k.")
            axes.set(title=name, ylim=(-3.5, 3.5))
    figure.savefig(RESULTS / "processes.png", dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    main()
