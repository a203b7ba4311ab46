# ruff: noqa: T201
"""Learn a loss for training sets in which some labels are wrong.

    l(p) = -c_0 log p + sum_i c_i (1 - p)^i,   p the probability of the label,   i = 1 .. 6,   c = softplus(meta)

The first term is cross-entropy, the others are its own Taylor terms with separate weights (PolyLoss: Leng et al.
2022; learned ones: Gonzalez and Miikkulainen 2021). The first Taylor term alone is the mean absolute error, which
tolerates wrong labels but learns slowly. In each task 40% of the labels are wrong, and the outer loss uses clean
labels. The loss is learned on digits 0 to 4. Tasks of digits 5 to 9 compare it with cross-entropy at its best
learning rate.

    python examples/learned_loss.py [--outer-steps 300]
"""

import argparse
from functools import partial

import torch
import torch.nn.functional as F
from hyper_cleaning import digits
from torch import Tensor, nn

from upstairs.bilevel import SGD, Problem, Recomputed, optimize, pure
from upstairs.statistics import interval, paired_interval

SHOT, WRONG, STEPS, TERMS = 20, 0.4, 60, 7
Meta = dict[str, Tensor]


def learned(logits: Tensor, y: Tensor, meta: Meta) -> Tensor:
    log_p = logits.log_softmax(-1).gather(1, y[:, None])[:, 0]
    powers = torch.stack([-log_p, *((1 - log_p.exp()) ** i for i in range(1, TERMS))])
    return F.softplus(meta["terms"]) @ powers.mean(1)


def only_cross_entropy(lr: float) -> Meta:
    """Return the meta-parameters of cross-entropy, l(p) = -log p, and of the learning rate."""
    one = torch.tensor(1.0).expm1().log()  # softplus of it is 1
    return {"terms": torch.cat([one[None], torch.full((TERMS - 1,), -4.0)]), "log_rate": torch.tensor(lr).log()}


def make_net(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))


def task(data: tuple[Tensor, Tensor], classes: range, seed: int) -> tuple[Problem, tuple[Tensor, Tensor]]:
    """Return a problem of digits of five classes, 40% of their labels wrong, and other digits with clean labels."""
    g = torch.Generator().manual_seed(seed)
    parts = [[], []]
    for k in classes:
        rows = (data[1] == k).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=g)]
        for part, chosen in zip(parts, (rows[:SHOT], rows[SHOT : SHOT + 40]), strict=True):
            part.append((data[0][chosen], torch.full((len(chosen),), k - classes[0])))
    (x, right), clean = (tuple(torch.cat(t) for t in zip(*part, strict=True)) for part in parts)
    wrong = torch.rand(len(x), generator=g) < WRONG
    y = torch.where(wrong, (right + torch.randint(1, 5, right.shape, generator=g)) % 5, right)
    net = pure(make_net(seed))

    def inner(params: Meta, meta: Meta, batch: None) -> Tensor:
        return learned(net(params, x), y, meta)

    def outer(params: Meta, meta: Meta, batch: None) -> Tensor:
        return F.cross_entropy(net(params, clean[0]), clean[1])

    rule = lambda meta: SGD(meta["log_rate"].exp(), momentum=0.9)  # noqa: E731
    return Problem(inner, outer, start=net.parameters, rule=rule, steps=STEPS), clean


def accuracy(data: tuple[Tensor, Tensor], classes: range, meta: Meta, seed: int) -> float:
    """Return the accuracy on the clean digits after training with torch.optim."""
    problem, clean = task(data, classes, seed)
    net = pure(make_net(seed))
    params = {n: p.clone().requires_grad_() for n, p in net.parameters.items()}
    optimizer = torch.optim.SGD(params.values(), lr=float(meta["log_rate"].exp()), momentum=0.9)
    for _ in range(STEPS):
        optimizer.zero_grad()
        problem.inner(params, meta, None).backward()
        optimizer.step()
    with torch.no_grad():
        return float((net(params, clean[0]).argmax(1) == clean[1]).float().mean())


def learn(outer_steps: int = 300, unseen: int = 100, tried: int = 20) -> tuple[list[float], list[float], Meta]:
    """Return the accuracy on tasks of unseen digits: cross-entropy at its best learning rate on `tried` tasks, and the
    learned loss."""
    data, seen, new = digits(), range(5), range(5, 10)
    rates = (0.003, 0.01, 0.03, 0.1)
    tried = {r: sum(accuracy(data, seen, only_cross_entropy(r), k) for k in range(tried)) for r in rates}
    best = only_cross_entropy(max(tried, key=lambda lr: tried[lr]))
    places = range(10**6, 10**6 + unseen)
    done = optimize(
        lambda step: task(data, seen, step)[0], best, test=[task(data, new, k)[0] for k in places],
        method=Recomputed(), outer_steps=outer_steps, optimizer=partial(torch.optim.Adam, lr=0.05),
    )  # fmt: skip
    print(done)
    meta = done.meta_parameters
    return [accuracy(data, new, best, k) for k in places], [accuracy(data, new, meta, k) for k in places], meta


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Learn a loss for training sets with wrong labels.")
    parser.add_argument("--outer-steps", type=int, default=300)
    plain, better, meta = learn(parser.parse_args().outer_steps)
    print("terms", [round(v, 3) for v in F.softplus(meta["terms"]).tolist()], f"lr {meta['log_rate'].exp():.4f}")
    print(f"accuracy, cross-entropy {interval(plain)}, learned loss {interval(better)}")
    print(f"learned minus cross-entropy: {paired_interval(better, plain)}")
