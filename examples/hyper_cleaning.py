# ruff: noqa: T201
"""Data hyper-cleaning: half of the training labels are wrong, and a weight is learned for each example.

    inner(phi, lambda) = sum_i sigmoid(lambda_i) loss_i(phi) / n,   outer(phi) = the loss on a clean validation set

(Maclaurin et al. 2015; Franceschi et al. 2017, section 5.2; Shaban et al. 2019.) An example whose gradient does harm to
the validation loss loses its weight. A strong penalty in the inner loop keeps it from learning wrong labels by heart,
which would hide them. A third split judges: training on all, on the clean half, and on the learned weights, each with
the penalty that the validation split prefers; and on the validation split alone. A linear network on the digits of
scikit-learn, or on what a meta-trained run makes of characters that it never saw:

    python examples/hyper_cleaning.py [RUN] [--classes 50] [--seeds 5]
"""

import argparse
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from upstairs.bilevel import SGD, Problem, Recomputed, train
from upstairs.learners.open_set import auroc
from upstairs.statistics import interval

Part = tuple[Tensor, Tensor]
DECAYS = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2)


def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return torch.as_tensor(x / 16, dtype=torch.float32), torch.as_tensor(y)


def classes_of(path: str, count: int) -> tuple[Tensor, Tensor]:
    """The classes of a data set with the most examples, halved in size and flat."""
    from upstairs.data.images.datasets import open_data

    source = open_data(path).train
    upright = [k for k in range(len(source)) if not source.turns or source.turns[k] == 0]
    chosen = sorted(upright, key=lambda k: -len(source.rows[k]))[:count]
    rows = [source.rows[k] for k in chosen]
    x = source.gather(torch.as_tensor(np.concatenate(rows)))
    y = torch.cat([torch.full((len(r),), k) for k, r in enumerate(rows)])
    return F.avg_pool2d(x, 2).flatten(1), y


def features_of(path: str, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """What the encoder of a run makes of some of its test classes."""
    import upstairs
    from upstairs.data.open import open_splits

    run = upstairs.load(path)
    source = open_splits(run.settings, quiet=False).test
    upright = [k for k in range(len(source)) if not source.turns or source.turns[k] == 0]
    chosen = torch.randperm(len(upright), generator=torch.Generator().manual_seed(seed))[:count].tolist()
    rows = [source.rows[upright[k]] for k in chosen]
    x = source.gather(torch.as_tensor(np.concatenate(rows)))
    with torch.no_grad():
        z = torch.cat([run.learner.embed(part) for part in x.split(256)])
    return z, torch.cat([torch.full((len(r),), k) for k, r in enumerate(rows)])


def split(
    x: Tensor, y: Tensor, seed: int, *, validation: float = 0.2, training: float = 0.5
) -> tuple[Part, Part, Part]:
    """Shares to train on and to validate on, the rest to judge by; standardised by the training part."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    first, second = round(len(x) * training), round(len(x) * (training + validation))
    mean, scale = x[order[:first]].mean(0), x[order[:first]].std(0).mean()
    parts = (order[:first], order[first:second], order[second:])
    train_part, validated, test = (((x[p] - mean) / scale, y[p]) for p in parts)
    return train_part, validated, test


def spoil(y: Tensor, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Half of the labels replaced by another class; which ones."""
    g = torch.Generator().manual_seed(seed)
    wrong = torch.zeros(len(y), dtype=torch.bool)
    wrong[torch.randperm(len(y), generator=g)[: len(y) // 2]] = True
    other = (y + torch.randint(1, classes, y.shape, generator=g)) % classes
    return torch.where(wrong, other, y), wrong


def linear(params: dict[str, Tensor], x: Tensor) -> Tensor:
    return x @ params["weight"] + params["bias"]


def fit(part: Part, weights: Tensor, classes: int, *, decay: float, steps: int = 40) -> dict[str, Tensor]:
    """A linear network trained from nothing, by torch.optim."""
    x, y = part
    params = {"weight": torch.zeros(x.shape[1], classes), "bias": torch.zeros(classes)}
    optimizer = torch.optim.SGD([p.requires_grad_() for p in params.values()], lr=0.5, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        losses = F.cross_entropy(linear(params, x), y, reduction="none")
        ((weights * losses).sum() / weights.sum() + decay * params["weight"].square().sum()).backward()
        optimizer.step()
    return {n: p.detach() for n, p in params.items()}


def accuracy(params: dict[str, Tensor], part: Part) -> float:
    return float((linear(params, part[0]).argmax(1) == part[1]).float().mean())


def clean(
    data: tuple[Tensor, Tensor], *, seed: int, outer_steps: int = 60, steps: int = 40, decay: float = 0.03,
    validation: float = 0.2, training: float = 0.5,
) -> dict[str, float]:  # fmt: skip
    """Accuracy on the third split by each way to train, and the area under the curve for finding wrong labels."""
    classes = int(data[1].max()) + 1
    (x, right), valid, test = split(*data, seed, validation=validation, training=training)
    y, wrong = spoil(right, classes, seed)
    start = {"weight": torch.zeros(x.shape[1], classes), "bias": torch.zeros(classes)}

    def inner(params: dict[str, Tensor], meta: dict[str, Tensor], batch: None) -> Tensor:
        losses = F.cross_entropy(linear(params, x), y, reduction="none")
        return (meta["weights"].sigmoid() * losses).mean() + decay * params["weight"].square().sum()

    def outer(params: dict[str, Tensor], meta: dict[str, Tensor], batch: Part) -> Tensor:
        return F.cross_entropy(linear(params, batch[0]), batch[1])

    problem = Problem(inner, outer, start=start, rule=SGD(0.5, momentum=0.9), steps=steps, outer_batch=lambda k: valid)
    judged = replace(problem, outer_batch=lambda k: test)
    done = train(
        problem, {"weights": torch.zeros(len(x))}, test=judged, method=Recomputed(), outer_steps=outer_steps,
        optimizer=partial(torch.optim.SGD, lr=5.0 * len(x), momentum=0.5),  # Adam would blow up what says little
    )  # fmt: skip
    print(done)
    learned = done.meta_parameters["weights"]

    def judge(weights: Tensor, part: Part) -> float:
        fits = [fit(part, weights, classes, decay=d) for d in DECAYS]
        return accuracy(max(fits, key=lambda params: accuracy(params, valid)), test)

    found = {
        "all": judge(torch.ones(len(x)), (x, y)),
        "clean": judge((~wrong).float(), (x, y)),
        "learned": judge(learned.sigmoid(), (x, y)),
        "validation": accuracy(fit(valid, torch.ones(len(valid[1])), classes, decay=1e-3), test),
    }
    recovered = (found["learned"] - found["all"]) / (found["clean"] - found["all"])
    auc = auroc(learned[~wrong].double().numpy(), learned[wrong].double().numpy())
    return {**found, "recovered": recovered, "auc": auc, "overfit": done.overfit}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Learn which training labels are wrong.")
    parser.add_argument("run", nargs="?", help="a run whose features to use; left out: digits of scikit-learn")
    parser.add_argument("--classes", type=int, default=50, help="of the run's test classes")
    parser.add_argument("--validation", type=float, default=0.4, help="share of the examples")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    rows = []
    for seed in range(arguments.seeds):
        data = features_of(arguments.run, arguments.classes, seed) if arguments.run else digits()
        rows.append(clean(data, seed=seed, validation=arguments.validation, training=0.4))
    for name in rows[0]:
        mean, half = interval([row[name] for row in rows])
        print(f"{name:>10} {mean:.3f} ± {half:.3f}")
