# ruff: noqa: T201
"""Compare learned structure with a fixed network of the same size: paired differences on the same 600 tasks.

    OMP_NUM_THREADS=1 python benchmarks/structure.py OMNIGLOT --out runs/structure --minutes 5
    OMP_NUM_THREADS=1 python benchmarks/structure.py glyphs --out runs/structure_glyphs --only metanas
    OMP_NUM_THREADS=1 python benchmarks/structure.py OMNIGLOT --out runs/structure --only early_exit --compare-only

Both of a pair have the same training time, one after another (the fixed network of early_exit the same number of
meta-steps). Finished trainings are not repeated, and a stopped command continues. The script writes
structure-DATA.json, and for early_exit a figure of accuracy against cost, to benchmarks/results.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from record import RESULTS, surroundings
from torch import Tensor, nn

import upstairs
from upstairs.core import Examples, evaluating
from upstairs.data.episodes import Episodes
from upstairs.engine.evaluate import enough_seeds, score_tasks
from upstairs.experiments.evaluate import choose_episodes
from upstairs.functional.batching import vectorize
from upstairs.learners import LEARNERS, Entry, ProtoNet
from upstairs.learners.building import scale
from upstairs.learners.entries import METRIC
from upstairs.learners.metric.early_exit import EarlyExit, solve_early
from upstairs.learners.options import ScaleOptions
from upstairs.nets import chain, embedding_size
from upstairs.nets.cells import Exit
from upstairs.statistics import interval, paired_interval
from upstairs.training.run import Run
from upstairs.tree import index


def full_depth(settings: Any, shape: tuple[int, ...], way: int) -> ProtoNet:
    """early_exit's network without exits, under ProtoNet's loss."""
    net = nn.Sequential(chain(shape, width=settings.width, norm=settings.norm), Exit())
    return ProtoNet(net, way=way, scale=scale(settings, embedding_size(net, shape)))


LEARNERS["full_depth"] = Entry(
    full_depth, "early_exit's network, always whole", ScaleOptions, METRIC | {"way": 20, "tasks": 3}
)
FIXED: dict[str, tuple[str, dict[str, Any]]] = {
    "sparse_maml": ("maml", {}),
    "t_net": ("maml", {"width": 34}),  # 31,965 parameters, t_net has 32,478
    "early_exit": ("full_depth", {}),
    "metanas": ("protonet", {"way": 20}),  # and the width of as many parameters as were found
}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("data")
    words.add_argument("--out", type=Path, default=Path("runs/structure"))
    words.add_argument("--minutes", type=float, default=5.0)
    words.add_argument("--tasks", type=int, default=600)
    words.add_argument("--only", nargs="+", default=list(FIXED), choices=list(FIXED))
    words.add_argument("--compare-only", action="store_true", help="only compare pairs of which both are trained")
    chosen = words.parse_args()
    split = {} if chosen.data == "glyphs" else {"split": "vinyals"}
    file = RESULTS / f"structure-{Path(chosen.data).name}.json"
    results = json.loads(file.read_text()) if file.exists() else {}

    def trained(name: str, out: Path, options: dict[str, Any]) -> Run | None:
        options = options if "steps" in options else options | {"minutes": chosen.minutes}
        if not chosen.compare_only:
            print(f"{out.name}: {options}", flush=True)
            return upstairs.train(name, out=out, data=chosen.data, quiet=True, **split, **options)
        return upstairs.load(out) if (out / "best.safetensors").exists() else None

    for name in chosen.only:
        own = trained(name, chosen.out / name, {})
        if own is None:
            continue
        other, options = FIXED[name]
        if name == "metanas":
            options = options | {"width": width_of(parameters(own))}
        label = "-".join([other, *(f"{k}{v}" for k, v in options.items())])
        if name == "early_exit":  # a step is as much work for both, and a core that is shared must not decide
            options = {"steps": own.meta["progress"]["step"]}
        fixed_network = trained(other, chosen.out / label, options)
        usual = tasks_of(own, fixed_network)
        kinds = {"": usual}
        if name == "early_exit":
            kinds["1 to 10 shots"] = Episodes(usual.source, way=5, shot=(1, 10), query=10)
        for kind, episodes in kinds.items():
            key = f"{name}, {kind}" if kind else name
            results[key] = {"fixed_network": label}
            if fixed_network is not None:
                results[key] |= paired(own, fixed_network, episodes, chosen.tasks)
            if name == "early_exit":
                results[key] |= by_depth(own, episodes, chosen.tasks)
            print(key, json.dumps(results[key]), flush=True)
        if name == "early_exit":
            draw(
                {kind or "1 shot": results[f"{name}, {kind}" if kind else name] for kind in kinds},
                file.with_suffix(".png"),
            )
        file.write_text(json.dumps(results | {"surroundings": surroundings()}, indent=1))


def parameters(run: Run) -> int:
    """Count the parameters of the network that predicts, without pruned operations, masks and learning rates."""
    learner = run.learner
    if hasattr(learner, "found"):
        learner = learner.found()
    return sum(p.numel() for name, p in learner.named_parameters() if not name.startswith("rule."))


def width_of(count: int) -> int:
    """Return the width of the Conv4 encoder for one channel with this number of parameters: 27 w^2 + 17 w."""
    return round((math.sqrt(17**2 + 4 * 27 * count) - 17) / (2 * 27))


def tasks_of(own: Run, other: Run | None) -> Episodes:
    runs = [own] if other is None else [own, other]
    return choose_episodes(runs, data=None, split=None, way=5, shot=1, query=15, quiet=True)[0]


def paired(own: Run, other: Run, episodes: Episodes, tasks: int) -> dict[str, Any]:
    """Accuracies of both on the same tasks, each query alone where a learner is transductive, and the difference."""
    seeds = enough_seeds(0, tasks)
    rows: dict[str, Any] = {"parameters": [parameters(own), parameters(other)]}
    rows["steps"] = [run.meta["progress"]["step"] for run in (own, other)]
    for alone in (False, True) if own.learner.transductive else (False,):
        scores = [score_tasks(run.learner, episodes, seeds, inductive=alone) for run in (own, other)]
        kind = "alone" if alone else "accuracy"
        rows[kind] = [interval(s)._asdict() for s in scores]
        rows[f"{kind}_difference"] = paired_interval(*scores)._asdict()
    return rows


def by_depth(own: Run, episodes: Episodes, count: int) -> dict[str, Any]:
    """Accuracy and mean cost of a query where all end after the same stage, and where each ends as its gate says; the
    gates' biases are shifted to trace the curve (0: as trained). `with_support` counts the work on the support set too,
    which goes as deep as the deepest query; `tasks` are the mean costs of the cheapest and the dearest 5% of tasks;
    `seconds` a task takes by `solve_early`, and without exits."""
    learner = own.learner
    assert isinstance(learner, EarlyExit)
    depths, costs = range(len(learner.costs)), torch.tensor(learner.costs)

    def answers(support: Examples, x: Tensor) -> tuple[Tensor, Tensor]:
        found = learner.answers(learner.adapt(support), learner.embeddings(x))
        return torch.stack(found.logits), torch.stack(found.gates)

    right, gates, supports, seconds = [], [], [], []
    with evaluating(learner):
        for seed in enough_seeds(0, count):
            tasks = episodes.batch([seed])
            logits, gate = vectorize(answers, (tasks.support, tasks.query.x), owner=learner, name="answers")
            right.append((logits[0].argmax(-1) == tasks.query.y[0]).double())
            gates.append(gate[0])
            supports.append(tasks.support.mask.sum())
            task, begun = index(tasks, 0), time.perf_counter()
            solve_early(learner, task.support, task.query.x)
            between = time.perf_counter()
            learner.predict(learner.adapt(task.support), task.query.x)
            seconds.append([between - begun, time.perf_counter() - between])

    def scored(ends: Tensor) -> dict[str, Any]:
        """From the depth at which each query of each task ends."""
        scores = torch.stack(right).gather(1, ends[:, None])[:, 0].mean(1)
        each = costs[ends].double()
        tasks, size = each.mean(1), torch.tensor(supports)
        whole = (each.sum(1) + size * costs[ends.amax(1)]) / (ends.shape[1] + size)
        share = [float((ends == d).double().mean()) for d in depths]
        return interval(scores.numpy())._asdict() | {
            "cost": float(each.mean()), "with_support": float(whole.mean()), "ends": share,
            "tasks": [float(tasks.quantile(q)) for q in (0.05, 0.95)],
        }  # fmt: skip

    opened = 0.1 * torch.stack(gates).logit(eps=1e-7)
    opened[:, -1] = torch.inf
    return {
        "costs": learner.costs,
        "seconds": torch.tensor(seconds).median(0).values.tolist(),
        "fixed": [scored(torch.full((count, opened.shape[2]), d)) for d in depths],
        "gated": [
            {"shift": shift} | scored((opened + shift > 0).int().argmax(1))
            for shift in (-0.4, -0.2, -0.1, 0.0, 0.1, 0.2, 0.4)
        ],
    }


def draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    figure, panels = plt.subplots(1, len(results), figsize=(5 * len(results), 4), layout="constrained", sharey=True)
    for axes, (kind, result) in zip(panels, results.items(), strict=True):
        for key, label in (("fixed", "all queries after the same stage"), ("gated", "each query after its own")):
            rows = sorted(result[key], key=lambda row: row["cost"])
            numbers = ([row["cost"] for row in rows], *([100 * row[k] for row in rows] for k in ("mean", "ci95")))
            axes.errorbar(*numbers, marker="o", label=label)
        if "accuracy" in result:
            other = result["accuracy"][1]
            axes.errorbar(1, 100 * other["mean"], 100 * other["ci95"], marker="s", label="trained without exits")
        axes.set(xlabel="mean cost of a query, share of the whole network", title=f"Omniglot, 5-way, {kind}")
    panels[0].set_ylabel("% correct")
    panels[0].legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
