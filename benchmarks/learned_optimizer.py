# ruff: noqa: T201
"""Compare a learned optimiser with SGD with momentum and Adam (constant and cosine) on unseen networks and data.

    python benchmarks/learned_optimizer.py --out runs/learned_optimizer --minutes 14

It needs one core and a C++ compiler. The rule is learned on twelve quick trainings (small digits and random
teachers; one or two hidden layers of 16 to 48; ReLU or tanh), 500 steps each, by evolution strategies through all
steps. The baselines' learning rates are tuned on the same trainings. The comparison is on other trainings, after
500 steps: the loss on all training examples, and the accuracy on held-out examples. Finished parts are not
repeated, and a stopped command continues.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from optimizer_tasks import Task, held_out, trainings
from torch import Tensor, nn

from upstairs.learners import MLPRule
from upstairs.learners.learned_optimizer.meta_train import NetworkTraining, PersistentEvolution, Windows, mean_log
from upstairs.learners.learned_optimizer.optimizer import LearnedOptimizer, load_rule, save_rule
from upstairs.statistics import paired_interval

RESULTS = Path(__file__).parent / "results"
STEPS, BATCH, EVERY, SEEDS, TUNING_SEEDS = 500, 32, 25, range(100, 105), (0, 1)
FLOOR = 1e-3  # added to losses before their logarithm: below it they are all as good as zero
SGD_RATES = [10 ** (k / 4) for k in range(-10, 2)]
ADAM_RATES = [10 ** (k / 4) for k in range(-13, -2)]
RATES = {"sgd, momentum": SGD_RATES, "adam": ADAM_RATES, "adam, cosine": ADAM_RATES}
Optimize = Callable[[nn.Module], torch.optim.Optimizer]


def ordinary(name: str, lr: float, net: nn.Module) -> torch.optim.Optimizer:
    if name == "sgd, momentum":
        return torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    return torch.optim.Adam(net.parameters(), lr=lr)


def train(task: Task, optimize: Optimize, seed: int, *, cosine: bool) -> dict[str, Any]:
    """Return the loss on all training examples, at first and after every 25 steps, and the final test accuracy."""
    (x, y, other_x, other_y), make = task
    training, net = NetworkTraining(make, x, y, batch=BATCH), make()
    net.load_state_dict(training.start(seed))
    optimizer = optimize(net)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS) if cosine else None
    curve = []
    for step, (a, b) in enumerate(training.minibatches(seed, 0, STEPS)):
        if step % EVERY == 0:
            curve.append(whole(net, x, y))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(a), b).backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
    with torch.no_grad():
        right = (net(other_x).argmax(1) == other_y).float().mean().item()
    return {"loss": [*curve, whole(net, x, y)], "accuracy": right}


def whole(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """The loss on all examples; that of a network which diverged is 1000."""
    with torch.no_grad():
        return min(1e3, float(nn.functional.cross_entropy(net(x), y).nan_to_num(1e3)))


def tune(tasks: list[Task], name: str) -> dict[float, float]:
    """For each rate the mean logarithm of the last loss."""
    found = {}
    for rate in RATES[name]:
        ends = [
            train(t, partial(ordinary, name, rate), s, cosine="cosine" in name)["loss"][-1]
            for t in tasks
            for s in TUNING_SEEDS
        ]
        found[rate] = float(np.log(np.array(ends) + FLOOR).mean())
    return found


def score(losses: Tensor) -> Tensor:
    """Half for the whole loop, ten windows that count alike, and half for the last of them."""
    windows = torch.stack([mean_log(window) for window in losses.chunk(10)])
    return (windows.mean() + windows[-1]) / 2


def meta_train(out: Path, minutes: float) -> None:
    """ES through 500 steps, 16 pairs of particles, one training a meta-step; Adam whose rate falls on a cosine."""
    torch.manual_seed(0)
    rule, path = MLPRule(lr=0.01, hidden=8, horizon=STEPS), out / "meta.pt"
    groups = [[NetworkTraining(make, d[0], d[1], batch=BATCH) for d, make in group] for group in trainings()]
    loops = [Windows(own, horizon=STEPS, window=STEPS, seed=1000 * k) for k, own in enumerate(groups)]
    estimators = [
        PersistentEvolution(rule, windows, pairs=16, sigma=0.05, seed=1000 * k, score=score, compile=True)
        for k, windows in enumerate(loops)
    ]
    outer = torch.optim.Adam(rule.parameters(), lr=0.02, betas=(0.9, 0.99))
    spent, step, log = 0.0, 0, []
    if path.exists():
        saved = torch.load(path)
        rule.load_state_dict(saved["rule"]), outer.load_state_dict(saved["outer"])
        spent, step, log = saved["spent"], saved["step"], saved["log"]
        for own, (seed, dice) in zip(estimators, saved["loops"], strict=True):
            own.windows.seed = seed
            own.dice.set_state(dice)
    begun = time.perf_counter() - spent
    while spent < 60 * minutes:
        outer.param_groups[0]["lr"] = 0.01 * min(1, (step + 1) / 20) * (1 + math.cos(math.pi * spent / 60 / minutes))
        outer.zero_grad()
        log.append(float(estimators[step % len(estimators)].backward()))
        nn.utils.clip_grad_norm_(rule.parameters(), 1.0)
        outer.step()
        step, spent = step + 1, time.perf_counter() - begun
        if step % 20 == 0 or spent >= 60 * minutes:
            state = [(own.windows.seed, own.dice.get_state()) for own in estimators]
            values = {"rule": rule.state_dict(), "outer": outer.state_dict(), "loops": state, "log": log}
            torch.save(values | {"spent": spent, "step": step}, path)
            print(f"meta-step {step}, {spent:.0f} s: {np.mean(log[-20:]):.3f}", flush=True)
    save_rule(rule, out / "rule.safetensors")


def once(path: Path, make: Callable[[], Any]) -> Any:
    """Load an earlier result, or compute and save it."""
    if not path.exists():
        path.write_text(json.dumps(make(), indent=1), encoding="utf-8")
        print(path.name, flush=True)
    return json.loads(path.read_text(encoding="utf-8"))


def judge(task: Task, contestants: dict[str, Optimize]) -> dict[str, list[dict[str, Any]]]:
    return {n: [train(task, o, s, cosine="cosine" in n) for s in SEEDS] for n, o in contestants.items()}


def best(rates: dict[str, float]) -> float:
    return float(min(rates, key=lambda lr: rates[lr]))


def ratio(runs: dict[str, Any], name: str) -> dict[str, float]:
    """The learned optimiser's last loss over another's: geometric mean over seeds, 95% interval (Student, paired)."""
    ends = {n: np.log([run["loss"][-1] + FLOOR for run in runs[n]]) for n in ("learned", name)}
    mean, half = paired_interval(ends["learned"], ends[name])
    return {"ratio": math.exp(mean), "low": math.exp(mean - half), "high": math.exp(mean + half)}


def draw(results: dict[str, Any], path: Path) -> None:
    """Learning curves on each held-out training: the geometric mean over seeds."""
    figure, axes = plt.subplots(2, 4, figsize=(15, 6.5), sharex=True, layout="constrained")
    for axis, (title, own) in zip(axes.flat, results.items(), strict=True):
        for name, runs in own["runs"].items():
            curve = np.exp(np.log(np.array([run["loss"] for run in runs]) + FLOOR).mean(0))
            style = {"lw": 2.5, "color": "C3"} if name == "learned" else {"ls": "--" if "own" in name else "-"}
            axis.semilogy(range(0, STEPS + 1, EVERY), curve, label=name, **style)
        worst = max(own["ratios"][n]["low"] for n in ("sgd, momentum", "adam"))
        least = max(own["ratios"][n]["high"] for n in ("sgd, momentum", "adam"))
        verdict = "better than both" if least < 1 else "worse than one of them" if worst > 1 else "no clear difference"
        axis.set_title(f"{title}\n{verdict}", fontsize=10, color="k" if least < 1 else "C3")
    axes[0, 0].legend(fontsize=8)
    figure.supxlabel("step"), figure.supylabel("loss on all training examples + 0.001")
    figure.savefig(path, dpi=110)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--out", type=Path, default=Path("runs/learned_optimizer"))
    words.add_argument("--minutes", type=float, default=14.0, help="minutes of meta-training")
    out, minutes = (chosen := words.parse_args()).out, chosen.minutes
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    tasks = [task for group in trainings() for task in group]
    tuned = {name: once(out / f"tuned {name}.json", partial(tune, tasks, name)) for name in RATES}
    if not (out / "rule.safetensors").exists():
        meta_train(out, minutes)
    rule, results = load_rule(out / "rule.safetensors"), {}
    known: dict[str, Optimize] = {n: partial(ordinary, n, best(rates)) for n, rates in tuned.items()}
    for name, task in held_out().items():
        file = name.replace(":", "").replace(",", "")
        own = {k: best(once(out / f"own {k} {file}.json", partial(tune, [task], k))) for k in ("adam", "adam, cosine")}
        here: dict[str, Optimize] = {f"{k}, own rate": partial(ordinary, k, rate) for k, rate in own.items()}
        here = {"learned": lambda net: LearnedOptimizer(net.parameters(), rule)} | known | here
        runs = once(out / f"judged {file}.json", partial(judge, task, here))
        results[name] = {"own rates": own, "ratios": {n: ratio(runs, n) for n in here if n != "learned"}, "runs": runs}
        for n, r in results[name]["ratios"].items():
            print(f"{name}: {r['ratio']:.2f} ({r['low']:.2f} to {r['high']:.2f}) of {n}", flush=True)
    write(out, results, tuned)


def write(out: Path, results: dict[str, Any], tuned: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    save_rule(load_rule(out / "rule.safetensors"), RESULTS / "learned_optimizer.safetensors")
    values = {"steps": STEPS, "batch": BATCH, "seeds": len(SEEDS), "tuned": tuned, "held out": results}
    (RESULTS / "learned_optimizer.json").write_text(json.dumps(values))
    draw(results, RESULTS / "learned_optimizer.png")


if __name__ == "__main__":
    main()
