# ruff: noqa: T201
"""Learn how strongly to augment training images: rotation, shift, stretching and noise.

    x_k = warp(x, sigma * u_k) + sigma_noise * e_k,   u_k and e_k new in each inner step

The warp is differentiable in its strengths sigma, so the loss on other images shows which are too weak and which
too strong. Eight digits of each class train a network, a validation split chooses the strengths, and a third split
compares the result with training without augmentation.

    python examples/augmentation.py [--outer-steps 100] [--seeds 5]
"""

import argparse
from functools import partial

import torch
import torch.nn.functional as F
from hyper_cleaning import digits
from torch import Tensor, nn

from upstairs.bilevel import SGD, Problem, Recomputed, optimize, pure
from upstairs.statistics import interval, paired_interval

SHOT, STEPS = 8, 60
STRENGTHS = ("turn", "shift", "stretch", "noise")  # radians, half pictures, a factor less 1, grey levels
Meta = dict[str, Tensor]


def augmented(x: Tensor, strength: Tensor, seed: int) -> Tensor:
    """Return augmented images [n, 1, 8, 8]; a pure function of the seed."""
    g = torch.Generator().manual_seed(seed)
    u, noise = torch.randn(4, len(x), generator=g), torch.randn(x.shape, generator=g)
    turn, right, down = strength[0] * u[0], strength[1] * u[1], strength[1] * u[2]
    size = 1 + strength[2] * u[3]
    rows = (
        torch.stack([turn.cos() * size, -turn.sin(), right], -1),
        torch.stack([turn.sin(), turn.cos() / size, down], -1),
    )
    grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False) + strength[3] * noise


def make_net(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(256, 10)
        )


def learn(seed: int, outer_steps: int = 100) -> tuple[float, float, Tensor]:
    """Return the accuracy on the third split without augmentation, with the learned strengths, and these strengths."""
    x, y = digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    x, y = x[order].view(-1, 1, 8, 8), y[order]
    few = torch.cat([(y == k).nonzero()[:SHOT, 0] for k in range(10)])
    rest = torch.ones(len(x), dtype=torch.bool).index_fill(0, few, False)
    others, labels = x[rest], y[rest]
    valid, test = (others[:600], labels[:600]), (others[600:], labels[600:])
    net = pure(make_net(0))

    def inner(params: Meta, meta: Meta, step: int) -> Tensor:
        return F.cross_entropy(net(params, augmented(x[few], meta["log_strength"].exp(), step)), y[few])

    def outer(params: Meta, meta: Meta, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(net(params, batch[0]), batch[1])

    def at(number: int, judged_by: tuple[Tensor, Tensor] = valid) -> Problem:
        return Problem(
            inner, outer, start=pure(make_net(number)).parameters, rule=SGD(0.1, momentum=0.9), steps=STEPS,
            inner_batch=lambda k: number * STEPS + k, outer_batch=lambda k: judged_by,
        )  # fmt: skip

    weak = {"log_strength": torch.full((4,), 0.02).log()}
    done = optimize(at, weak, test=[at(10**6 + k, test) for k in range(3)], method=Recomputed(),
                    outer_steps=outer_steps, optimizer=partial(torch.optim.Adam, lr=0.1), seed=seed)  # fmt: skip
    print(done)

    def accuracy(meta: Meta) -> float:
        """Return the accuracy of a new network, trained with torch.optim."""
        params = {n: p.clone().requires_grad_() for n, p in pure(make_net(2 * 10**6)).parameters.items()}
        optimizer = torch.optim.SGD(params.values(), lr=0.1, momentum=0.9)
        for step in range(STEPS):
            optimizer.zero_grad()
            inner(params, meta, 10**8 + step).backward()
            optimizer.step()
        with torch.no_grad():
            return float((net(params, test[0]).argmax(1) == test[1]).float().mean())

    none = {"log_strength": torch.full((4,), 1e-9).log()}
    return accuracy(none), accuracy(done.meta_parameters), done.meta_parameters["log_strength"].exp()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Learn how strongly to augment.")
    parser.add_argument("--outer-steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    plain, learned, strengths = zip(*(learn(s, arguments.outer_steps) for s in range(arguments.seeds)), strict=True)
    for name, values in zip(STRENGTHS, torch.stack(strengths).T.tolist(), strict=True):
        mean, half = interval(values)
        print(f"{name:>10} {mean:.3f} ± {half:.3f}")
    print(f"accuracy without {interval(plain)}, learned {interval(learned)}")
    print(f"learned minus without: {paired_interval(learned, plain)}")
