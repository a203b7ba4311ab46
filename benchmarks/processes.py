# ruff: noqa: T201
"""Neural processes beside the exact posterior of the Gaussian process that their tasks are drawn from.

    for name in cnp lnp anp; do upstairs train $name --data gp --minutes 6 --out runs/$name; done
    python benchmarks/processes.py runs/cnp runs/lnp runs/anp

The mean log-likelihood of a query for 1 to 20 support examples, 1,000 tasks each, and two tasks with what each learner
answers: to benchmarks/results/processes.json and .png.
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
from upstairs.evaluate import LIKELIHOOD, describe_score, frozen_seeds, score_tasks
from upstairs.learners import GaussianPosterior
from upstairs.tasks.episodes import Episodes
from upstairs.tasks.functions import GaussianProcess, function_source
from upstairs.tree import take

SHOTS, TASKS, QUERY = (1, 2, 5, 10, 20), 1000, 15


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("runs", nargs="+", type=Path)
    process = GaussianProcess()
    runs = [upstairs.load(path) for path in words.parse_args().runs]
    learners: dict[str, Learner] = {run.settings.learner: run.learner for run in runs}
    learners["exact posterior"] = GaussianPosterior(process)
    source, result = function_source(process), {"tasks": TASKS, "query": QUERY, "scores": {}}
    for shot in SHOTS:
        episodes, seeds = Episodes(source, way=0, shot=shot, query=QUERY), frozen_seeds(0, TASKS)
        for name, learner in learners.items():
            scores = score_tasks(learner, episodes, seeds, kind=LIKELIHOOD)
            result["scores"].setdefault(name, {})[shot] = found = describe_score(scores, LIKELIHOOD)
            print(f"{shot} examples, {name}: {found['likelihood']:.3f} ± {found['ci95']:.3f} nats", flush=True)
    (RESULTS / "processes.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(result["scores"], learners, Episodes(source, way=0, shot=5, query=QUERY))


def draw(scores: dict[str, Any], learners: dict[str, Learner], episodes: Episodes) -> None:
    figure = plt.figure(figsize=(3 * len(learners), 8), layout="constrained")
    grid = figure.add_gridspec(3, len(learners))
    axes = figure.add_subplot(grid[0, :])
    for name, row in scores.items():
        means, halves = ([row[s][key] for s in SHOTS] for key in ("likelihood", "ci95"))
        axes.errorbar(SHOTS, means, halves, marker="o", capsize=3, label=name)
    axes.set(xlabel="support examples", ylabel="log-likelihood of a query, nats", xscale="log", xticks=SHOTS)
    axes.set_xticks(SHOTS, [str(s) for s in SHOTS])
    axes.legend(frameon=False)
    x = torch.linspace(-2, 2, 200)[:, None]
    for line, seed in enumerate(frozen_seeds(0, 2)):
        support = take(episodes.batch([seed]), 0).support
        for column, (name, learner) in enumerate(learners.items()):
            with evaluating(learner):
                mean, log_scale = learner.predict(learner.adapt(support), x).T.numpy()
            axes = figure.add_subplot(grid[1 + line, column])
            axes.plot(x[:, 0], mean)
            axes.fill_between(x[:, 0], mean - 2 * np.exp(log_scale), mean + 2 * np.exp(log_scale), alpha=0.2)
            axes.plot(support.x[:, 0], support.y[:, 0], "k.")
            axes.set(title=name, ylim=(-3.5, 3.5))
    figure.savefig(RESULTS / "processes.png", dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    main()
