# ruff: noqa: T201
"""Learn a learning rate and a weight decay for each layer, across tasks.

    phi_{k+1} = phi_k - lr_l (momentum of grad loss + decay_l phi_k)   for the parameters phi of layer l

A task is a sinusoid with ten noisy points: a network trained on them from a random initialisation overfits. The
outer loss is the loss on other points. Unseen tasks compare the result with the best single learning rate and
weight decay of a grid.

    python examples/layer_rates.py [--outer-steps 400]
"""

import argparse
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upstairs.bilevel import SGD, Problem, Recomputed, optimize, pure
from upstairs.statistics import interval, paired_interval

POINTS, NOISE, STEPS = 10, 0.5, 40
KINDS = ("log_rates", "log_decays")
Meta = dict[str, Tensor]


def make_net(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 1))


NET = pure(make_net(0))


def task(seed: int) -> Problem:
    """Return the problem of one sinusoid, with a randomly initialised network."""
    g = torch.Generator().manual_seed(seed)
    amplitude, phase = 0.1 + 4.9 * torch.rand((), generator=g), torch.pi * torch.rand((), generator=g)
    x = 10 * torch.rand(POINTS + 40, 1, generator=g) - 5
    y = amplitude * torch.sin(x - phase)
    known = y[:POINTS] + NOISE * torch.randn(POINTS, 1, generator=g)

    def inner(params: Meta, meta: Meta, batch: None) -> Tensor:
        return F.mse_loss(NET(params, x[:POINTS]), known)

    def outer(params: Meta, meta: Meta, batch: None) -> Tensor:
        return F.mse_loss(NET(params, x[POINTS:]), y[POINTS:])

    def rule(meta: Meta) -> SGD:
        rates, decays = ({n: meta[kind][i].exp() for i, n in enumerate(NET.parameters)} for kind in KINDS)
        return SGD(rates, momentum=0.9, decay=decays)

    return Problem(inner, outer, start=pure(make_net(seed)).parameters, rule=rule, steps=STEPS)


def alike(lr: float, decay: float) -> Meta:
    """Return meta-parameters with the same values for all layers."""
    count = len(NET.parameters)
    return {"log_rates": torch.full((count,), lr).log(), "log_decays": torch.full((count,), decay).log()}


def error(meta: Meta, seed: int) -> float:
    """Return the error on the other points after training with torch.optim."""
    problem = task(seed)
    params = {n: p.clone().requires_grad_() for n, p in problem.start.items()}  # type: ignore[union-attr]
    numbers = zip(params.values(), meta["log_rates"], meta["log_decays"], strict=True)
    groups = [{"params": [p], "lr": float(r.exp()), "weight_decay": float(d.exp())} for p, r, d in numbers]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    for _ in range(STEPS):
        optimizer.zero_grad()
        problem.inner(params, meta, None).backward()
        optimizer.step()
    with torch.no_grad():
        return float(problem.outer(params, meta, None))


def learn(outer_steps: int = 400, unseen: int = 100, tried: int = 20) -> tuple[list[float], list[float], Meta]:
    """Return the errors on unseen tasks: with the values for all layers that are best on `tried` tasks, and with those
    learned for each layer."""
    grid = [(r, d) for r in (0.003, 0.01, 0.03) for d in (1e-4, 1e-2, 1e-1)]
    scores = {(r, d): sum(min(error(alike(r, d), k), 100.0) for k in range(tried)) for r, d in grid}
    best = min(scores, key=lambda pair: scores[pair])
    places = range(10**6, 10**6 + unseen)
    done = optimize(task, alike(*best), test=[task(k) for k in places], method=Recomputed(), outer_steps=outer_steps,
                    optimizer=partial(torch.optim.Adam, lr=0.03))  # fmt: skip
    print(f"for all layers: learning rate {best[0]}, decay {best[1]}\n{done}")
    meta = done.meta_parameters
    return [error(alike(*best), k) for k in places], [error(meta, k) for k in places], meta


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Learn a learning rate and a weight decay for each layer.")
    parser.add_argument("--outer-steps", type=int, default=400)
    alone, learned, meta = learn(parser.parse_args().outer_steps)
    for i, name in enumerate(NET.parameters):
        print(f"{name:>10}: learning rate {meta['log_rates'][i].exp():.4f}, decay {meta['log_decays'][i].exp():.5f}")
    found = {"one for all": interval(alone), "learned": interval(learned), "less": paired_interval(learned, alone)}
    for name, (mean, half) in found.items():
        print(f"{name:>12} {mean:.3f} ± {half:.3f}")
