# ruff: noqa: T201
"""Test an in-context transformer, trained on synthetic tables only, on 50 tasks from scikit-learn's data sets.

    python benchmarks/tabular.py --minutes 15          # trains (a stopped command continues), measures, draws

The prior (a small version of TabPFN, Hollmann et al. 2023): inputs are Gaussian, mixed by a random matrix; a random
network of one to three layers reads some of the features; its noisy output is cut at random places into 2 to 5
classes, whose numbers are shuffled. Training uses no real table.

A held-out task is drawn from its seed: one of iris, wine, breast cancer and digits in turn; 2 to 5 of its classes,
2 to 30 of its features, 20 to 100 support rows with every class among them, up to 100 other rows as queries.
Features are standardised by the support rows. The baselines are k-nearest neighbours and logistic regression (k and
C by 3-fold cross-validation on the support rows) and gradient boosting (scikit-learn's defaults). The in-context
predictions are averaged over 8 orders of classes and features. The results are written to
benchmarks/results/tabular.json and .png: accuracies, mean ranks, Friedman's test, and the critical difference of
Nemenyi (Demsar 2006).
"""

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from scipy.stats import friedmanchisquare, rankdata
from torch import Tensor, nn

from upstairs.core import Examples, Learner, Task, evaluating
from upstairs.learners import in_context

FEATURES, WAY, QUERIES, BATCH = 30, 5, 50, 16
RESULTS = Path(__file__).parent / "results"
NEMENYI = 2.569  # studentised range over sqrt(2) for 4 methods at 5% (Demsar 2006, table 5)


def synthetic(seed: int, rows: int) -> tuple[Tensor, Tensor]:
    """One table of the prior: x [rows, d] and y [rows], a pure function of the seed."""
    g = torch.Generator().manual_seed(seed)

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=g))

    d, classes, layers, width = integer(2, 20), integer(2, WAY), integer(1, 3), integer(4, 32)
    x = torch.randn(rows, d, generator=g)
    x = x + float(torch.rand((), generator=g)) * x @ torch.randn(d, d, generator=g) / d**0.5
    used = torch.rand(d, generator=g) < 0.3 + 0.7 * torch.rand((), generator=g)
    h = x * used
    act = (torch.tanh, torch.relu, torch.sin)[integer(0, 2)]
    for _ in range(layers - 1):
        h = act(h @ torch.randn(h.shape[1], width, generator=g) * 1.5 / h.shape[1] ** 0.5)
    if integer(0, 1):  # ordered classes: one number, cut at random places
        score = h @ torch.randn(h.shape[1], generator=g)
        score = score + 0.2 * torch.rand((), generator=g) * score.std() * torch.randn(rows, generator=g)
        y = (score[:, None] > score[torch.randperm(rows, generator=g)[: classes - 1]]).sum(1)
    else:  # classes with a score each
        score = h @ torch.randn(h.shape[1], classes, generator=g)
        score = (score - score.mean(0)) / score.std(0).clamp(min=1e-6)
        y = (score + 0.2 * torch.rand((), generator=g) * torch.randn(score.shape, generator=g)).argmax(1)
    return x, torch.randperm(WAY, generator=g)[y]


def standard(x: Tensor, n: int) -> Tensor:
    """Features by the mean and deviation of the first n rows, padded with zeros to FEATURES."""
    x = (x - x[:n].mean(0)) / x[:n].std(0).clamp(min=1e-4)
    return nn.functional.pad(x.clamp(-6, 6), (0, FEATURES - x.shape[1]))


def batch(step: int) -> Task:
    n = int(torch.randint(10, 101, (), generator=torch.Generator().manual_seed(step)))
    tables = [synthetic(step * BATCH + i, n + QUERIES) for i in range(BATCH)]
    x, y = torch.stack([standard(t[0], n) for t in tables]), torch.stack([t[1] for t in tables])
    real = torch.ones(y.shape, dtype=torch.bool)
    for i in range(BATCH):  # a query of a class that the support set lacks has no answer
        real[i, n:] = torch.isin(y[i, n:], y[i, :n])
    return Task(Examples(x[:, :n], y[:, :n], real[:, :n]), Examples(x[:, n:], y[:, n:], real[:, n:]))


def train(learner: Learner, minutes: float, out: Path) -> int:
    """Train with AdamW on a cosine over the budget; continue from `out` after a stop."""
    optimiser = torch.optim.AdamW(learner.parameters(), lr=1e-3, weight_decay=0.0)
    step, spent = 0, 0.0
    if out.exists():
        saved = torch.load(out)
        learner.load_state_dict(saved["learner"]), optimiser.load_state_dict(saved["optimiser"])
        step, spent = saved["step"], saved["spent"]
    while spent < 60 * minutes:
        begin = time.monotonic()
        share = spent / (60 * minutes)
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 100) * 0.5 * (1 + np.cos(np.pi * share))
        optimiser.zero_grad()
        loss = learner(batch(step))[0].mean()
        loss.backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimiser.step()
        step, spent = step + 1, spent + time.monotonic() - begin
        if step % 100 == 0 or spent >= 60 * minutes:
            print(f"step {step}, {spent:.0f} s, loss {float(loss):.3f}", flush=True)
            out.parent.mkdir(parents=True, exist_ok=True)
            state = {"learner": learner.state_dict(), "optimiser": optimiser.state_dict()}
            torch.save(state | {"step": step, "spent": spent}, out)
    return step


def held_out(seed: int) -> tuple[str, Tensor, Tensor, int]:
    """Name, features (support rows first), labels 0, 1, ... and the number of support rows."""
    from sklearn import datasets

    g = np.random.default_rng(seed)
    name = ("iris", "wine", "breast_cancer", "digits")[seed % 4]
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    classes = g.permutation(len(np.unique(y)))[: g.integers(2, min(WAY, len(np.unique(y))) + 1)]
    features = g.permutation(x.shape[1])[: g.integers(2, min(FEATURES, x.shape[1]) + 1)]
    rows = [g.permutation(np.flatnonzero(y == c)) for c in classes]
    first = np.concatenate([r[:3] for r in rows])  # every class at least three times, for the cross-validation
    rest = g.permutation(np.concatenate([r[3:] for r in rows]))
    n = int(min(g.integers(20, 101), (len(first) + len(rest)) // 2))
    order = np.concatenate([first, rest])[: n + 100]
    label = {int(c): k for k, c in enumerate(classes)}
    return name, torch.tensor(x[order][:, features]).float(), torch.tensor([label[int(c)] for c in y[order]]), n


def baselines() -> dict[str, Any]:
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.neighbors import KNeighborsClassifier

    return {
        "nearest neighbours": GridSearchCV(KNeighborsClassifier(), {"n_neighbors": [1, 3, 5, 9]}, cv=3),
        "logistic regression": GridSearchCV(LogisticRegression(max_iter=1000), {"C": [0.01, 0.1, 1, 10]}, cv=3),
        "gradient boosting": GradientBoostingClassifier(random_state=0),
    }


def score(learner: Learner, seed: int) -> dict[str, Any]:
    """The accuracy of each method on one held-out task."""
    name, x, y, n = held_out(seed)
    z = standard(x, n)
    total, real = torch.zeros(len(y) - n, WAY), torch.ones(n, dtype=torch.bool)
    with evaluating(learner):
        for k in range(8):
            g = torch.Generator().manual_seed(k)
            labels, columns = torch.randperm(WAY, generator=g), torch.randperm(FEATURES, generator=g)
            support = Examples(z[:n, columns], labels[y[:n]], real)
            total += learner.predict(learner.adapt(support), z[n:, columns]).softmax(-1)[:, labels]
    accuracy = {"in context": float((total.argmax(1) == y[n:]).float().mean())}
    used = z[:, : x.shape[1]].numpy()
    for method, model in baselines().items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            accuracy[method] = float(model.fit(used[:n], y[:n]).score(used[n:], y[n:]))
    shape = {"classes": len(y.unique()), "features": x.shape[1], "support": n, "query": len(y) - n}
    return {"data": name, **shape, "accuracy": accuracy}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--minutes", type=float, default=15.0)
    words.add_argument("--tasks", type=int, default=50)
    words.add_argument("--run", type=Path, default=Path("runs/tabular/last.pt"))
    words.add_argument("--out", type=Path, default=RESULTS)
    chosen = words.parse_args()
    torch.manual_seed(0)
    learner = in_context(nn.Linear(FEATURES, 64), 64, way=WAY)
    steps = train(learner, chosen.minutes, chosen.run)
    rows = [score(learner, seed) for seed in range(chosen.tasks)]
    methods = list(rows[0]["accuracy"])
    table = np.array([[row["accuracy"][m] for m in methods] for row in rows])
    ranks = np.array([rankdata(-row) for row in table])
    difference = NEMENYI * (len(methods) * (len(methods) + 1) / (6 * len(rows))) ** 0.5
    result = {
        "name": "tabular", "minutes": chosen.minutes, "steps": steps, "methods": methods,
        "accuracy": table.mean(0).tolist(), "ci95": (1.96 * table.std(0, ddof=1) / len(rows) ** 0.5).tolist(),
        "mean rank": ranks.mean(0).tolist(), "critical difference": difference,
        "friedman p": float(friedmanchisquare(*table.T).pvalue), "tasks": rows,
    }  # fmt: skip
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "tabular.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(dict(zip(methods, ranks.mean(0), strict=True)), difference, chosen.out / "tabular.png")
    print(json.dumps({k: v for k, v in result.items() if k != "tasks"}, indent=1))


def draw(ranks: dict[str, float], difference: float, path: Path) -> None:
    """Draw Demsar's diagram: mean ranks on a line; a bar joins methods without a significant difference."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    order = sorted(ranks, key=ranks.__getitem__)
    figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
    for i, name in enumerate(order):
        axes.plot([ranks[name]] * 2, [0, -1 - i], color="grey", linewidth=1)
        axes.text(ranks[name] + 0.03, -1 - i, f"{name} ({ranks[name]:.2f})", va="center")
    for i, a in enumerate(order):
        b = [name for name in order if ranks[name] - ranks[a] <= difference][-1]
        if b != a:
            axes.plot([ranks[a], ranks[b]], [-0.2 - 0.2 * i] * 2, color="black", linewidth=3)
    axes.plot([1, 1 + difference], [0.8, 0.8], color="black")
    axes.text(1, 1.0, f"critical difference {difference:.2f} (Nemenyi, 5%)")
    axes.set(xlim=(1, len(order) + 0.6), ylim=(-1.8 - len(order), 1.8), yticks=[], xlabel="mean rank (1 is best)")
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
