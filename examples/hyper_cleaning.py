# ruff: noqa: T201
"""Data hyper-cleaning: half of the training labels are wrong, and a weight is learned for each example.

    inner(phi, lambda) = sum_i sigmoid(lambda_i) loss_i(phi) / n,   outer(phi) = the loss on a clean validation set

(Maclaurin et al. 2015; Franceschi et al. 2017, section 5.2; Shaban et al. 2019.) An example whose gradient does harm to
the validation loss loses its weight. A third split judges: training on all, on the clean half, and on the learned
weights. Digits of scikit-learn unless a folder of Omniglot or CIFAR-100 is given:

    python examples/hyper_cleaning.py [DATA] [--classes 20] [--seeds 3]
"""

import argparse
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from upstairs.bilevel import SGD, Problem, Recomputed, train
from upstairs.statistics import interval

Part = tuple[Tensor, Tensor]


def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return torch.as_tensor(x / 16, dtype=torch.float32), torch.as_tensor(y)


def classes_of(path: str, count: int) -> tuple[Tensor, Tensor]:
    """The classes of a data set with the most examples, halved in size and flat."""
    from upstairs.tasks.datasets import open_data

    source = open_data(path).train
    upright = [k for k in range(len(source)) if not source.turns or source.turns[k] == 0]
    chosen = sorted(upright, key=lambda k: -len(source.rows[k]))[:count]
    rows = [source.rows[k] for k in chosen]
    x = source.gather(torch.as_tensor(np.concatenate(rows)))
    y = torch.cat([torch.full((len(r),), k) for k, r in enumerate(rows)])
    return F.avg_pool2d(x, 2).flatten(1), y


def split(x: Tensor, y: Tensor, seed: int) -> tuple[Part, Part, Part]:
    """A half to train on, a fifth to validate on, the rest to judge by; standardised by the training half."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    first, second = len(x) // 2, len(x) * 7 // 10
    mean, scale = x[order[:first]].mean(0), x[order[:first]].std(0).mean()
    parts = (order[:first], order[first:second], order[second:])
    train_part, validation, test = (((x[p] - mean) / scale, y[p]) for p in parts)
    return train_part, validation, test


def spoil(y: Tensor, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Half of the labels replaced by another class; which ones."""
    g = torch.Generator().manual_seed(seed)
    wrong = torch.zeros(len(y), dtype=torch.bool)
    wrong[torch.randperm(len(y), generator=g)[: len(y) // 2]] = True
    other = (y + torch.randint(1, classes, y.shape, generator=g)) % classes
    return torch.where(wrong, other, y), wrong


def linear(params: dict[str, Tensor], x: Tensor) -> Tensor:
    return x @ params["weight"] + params["bias"]


def clean(data: tuple[Tensor, Tensor], *, seed: int, outer_steps: int = 15, steps: int = 25) -> dict[str, float]:
    """Accuracy on the third split by each way to train, and the area under the curve for finding wrong labels."""
    classes = int(data[1].max()) + 1
    (x, right), validation, test = split(*data, seed)
    y, wrong = spoil(right, classes, seed)
    start = {"weight": torch.zeros(x.shape[1], classes), "bias": torch.zeros(classes)}

    def inner(params: dict[str, Tensor], meta: dict[str, Tensor], batch: None) -> Tensor:
        losses = F.cross_entropy(linear(params, x), y, reduction="none")
        return (meta["weights"].sigmoid() * losses).mean() + 1e-3 * params["weight"].square().sum()

    def outer(params: dict[str, Tensor], meta: dict[str, Tensor], batch: Part) -> Tensor:
        return F.cross_entropy(linear(params, batch[0]), batch[1])

    problem = Problem(
        inner, outer, start=start, rule=SGD(0.5, momentum=0.9), steps=steps, outer_batch=lambda k: validation
    )
    judged = Problem(inner, outer, start=start, rule=problem.rule, steps=steps, outer_batch=lambda k: test)
    done = train(
        problem, {"weights": torch.zeros(len(x))}, test=judged, method=Recomputed(), outer_steps=outer_steps,
        optimizer=partial(torch.optim.SGD, lr=5.0 * len(x), momentum=0.5),  # Adam would blow up what says little
    )  # fmt: skip
    print(done)
    learned = done.meta_parameters["weights"]

    def accuracy(weights: Tensor) -> float:
        """Of training anew with these weights, as the inner loop does."""
        params = {n: p.clone().requires_grad_() for n, p in start.items()}
        optimizer = torch.optim.SGD(params.values(), lr=0.5, momentum=0.9)
        for _ in range(steps):
            optimizer.zero_grad()
            losses = F.cross_entropy(linear(params, x), y, reduction="none")
            ((weights * losses).mean() + 1e-3 * params["weight"].square().sum()).backward()
            optimizer.step()
        return float((linear(params, test[0]).argmax(1) == test[1]).float().mean())

    ranks = torch.empty(len(x)).scatter(0, learned.argsort(), torch.arange(1.0, len(x) + 1))
    bad, good = int(wrong.sum()), int((~wrong).sum())
    auc = float((ranks[~wrong].sum() - good * (good + 1) / 2) / (bad * good))  # Mann and Whitney
    ways = {"all": torch.full((len(x),), 0.5), "clean": (~wrong).float(), "learned": learned.sigmoid()}
    found = {name: accuracy(weights) for name, weights in ways.items()}
    recovered = (found["learned"] - found["all"]) / (found["clean"] - found["all"])
    return {**found, "recovered": recovered, "auc": auc}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Learn which training labels are wrong.")
    parser.add_argument("data", nargs="?", help="a folder of Omniglot or CIFAR-100; left out: digits of scikit-learn")
    parser.add_argument("--classes", type=int, default=20, help="of such a folder")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    data = classes_of(arguments.data, arguments.classes) if arguments.data else digits()
    rows = [clean(data, seed=seed) for seed in range(arguments.seeds)]
    for name in rows[0]:
        mean, half = interval([row[name] for row in rows])
        print(f"{name:>10} {mean:.3f} ± {half:.3f}")
