# ruff: noqa: T201
"""Data set distillation: ten pictures of each class are learned, so that a network trained on them reads real ones.

    outer(lambda) = loss on real pictures of phi_K,  phi_{k+1} = phi_k - rate grad loss(phi_k on the pictures lambda)

from many random starts phi_0 (Wang et al. 2018). The pictures and one rate for each layer are the meta-parameters. They
start as real pictures; a *fresh* network, from a start that was never met, judges what they have become, beside
networks trained on ten real pictures of each class for as many steps, and for ten times as many; the rates of both are
tuned on the validation split.

    python examples/distillation.py [DATA] [--classes 10] [--steps 20] [--outer-steps 300]
"""

import argparse
from functools import partial

import torch
import torch.nn.functional as F
from hyper_cleaning import classes_of, digits, split
from torch import Tensor, nn

from upstairs.bilevel import SGD, Problem, Recomputed, pure, train
from upstairs.statistics import interval, paired_interval

SHOT = 10


def conv(size: int, channels: int, classes: int) -> nn.Module:
    """A small network: two convolutions with group norm."""
    layers: list[nn.Module] = []
    for into, out in ((channels, 16), (16, 16)):
        layers += [nn.Conv2d(into, out, 3, padding=1), nn.GroupNorm(4, out), nn.ReLU(), nn.AvgPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * (size // 4) ** 2, classes))


def distil(
    data: tuple[Tensor, Tensor], *, steps: int = 20, outer_steps: int = 300, judges: int = 10, seed: int = 0
) -> dict[str, list[float]]:  # fmt: skip
    """Accuracy on the third split of fresh networks, trained on real and on learned pictures from the same starts."""
    classes, size = int(data[1].max()) + 1, int(data[0].shape[1] ** 0.5)
    parts = [(x.view(-1, 1, size, size), y) for x, y in split(*data, seed)]
    (x, y), (val_x, val_y), (test_x, test_y) = parts
    rows = torch.cat([(y == k).nonzero()[:SHOT, 0] for k in range(classes)])
    labels = y[rows]
    net = pure(conv(size, 1, classes))

    def start(number: int) -> dict[str, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * 1_000_003 + number)
            return pure(conv(size, 1, classes)).parameters

    def inner(params: dict[str, Tensor], meta: dict[str, Tensor], batch: None) -> Tensor:
        return F.cross_entropy(net(params, meta["pictures"]), labels)

    def outer(params: dict[str, Tensor], meta: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(net(params, batch[0]), batch[1])

    def at(step: int, judged_by: tuple[Tensor, Tensor] | None = None) -> Problem:
        g = torch.Generator().manual_seed(step)
        some = torch.randint(len(x), (256,), generator=g)
        batch = judged_by or (x[some], y[some])
        rule = lambda meta: SGD({n: meta["log_rates"][i].exp() for i, n in enumerate(net.parameters)})  # noqa: E731
        return Problem(inner, outer, start=start(step), rule=rule, steps=steps, outer_batch=lambda k: batch)

    def accuracy(meta: dict[str, Tensor], number: int, on: tuple[Tensor, Tensor], steps: int = steps) -> float:
        """Of a fresh network, by torch.optim."""
        params = {n: p.requires_grad_() for n, p in start(number).items()}
        groups = [
            {"params": [p], "lr": float(r.exp())} for p, r in zip(params.values(), meta["log_rates"], strict=True)
        ]
        optimizer = torch.optim.SGD(groups, lr=0.1)
        for _ in range(steps):
            optimizer.zero_grad()
            inner(params, meta, None).backward()
            optimizer.step()
        with torch.no_grad():
            return float((net(params, on[0]).argmax(1) == on[1]).float().mean())

    def real(rate: float) -> dict[str, Tensor]:
        return {"pictures": x[rows].clone(), "log_rates": torch.full((len(net.parameters),), rate).log()}

    def tuned(steps: int) -> float:
        """The rate whose networks read the validation split best, of three starts."""
        starts = range(2 * 10**6, 2 * 10**6 + 3)
        tried = {
            r: sum(accuracy(real(r), k, (val_x, val_y), steps) for k in starts) for r in (0.03, 0.1, 0.2, 0.5, 1.0)
        }
        return max(tried, key=lambda rate: tried[rate])

    best, longer = tuned(steps), tuned(10 * steps)
    test = [at(10**6 + k, (test_x, test_y)) for k in range(judges)]
    done = train(at, real(best), test=test, method=Recomputed(), outer_steps=outer_steps,
                 optimizer=partial(torch.optim.Adam, lr=0.02), seed=seed)  # fmt: skip
    print(done)
    ways = {
        "real": (real(best), steps),
        "real, 10x": (real(longer), 10 * steps),
        "distilled": (done.meta_parameters, steps),
    }
    return {n: [accuracy(m, 10**6 + k, (test_x, test_y), s) for k in range(judges)] for n, (m, s) in ways.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Learn ten pictures of each class that train a network.")
    parser.add_argument("data", nargs="?", help="a folder of Omniglot or CIFAR-100; left out: digits of scikit-learn")
    parser.add_argument("--classes", type=int, default=10, help="of such a folder")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--outer-steps", type=int, default=300)
    arguments = parser.parse_args()
    data = classes_of(arguments.data, arguments.classes) if arguments.data else digits()
    found = distil(data, steps=arguments.steps, outer_steps=arguments.outer_steps)
    for name, values in found.items():
        print(f"{name:>10} {interval(values)}")
    for name in ("real", "real, 10x"):
        print(f"distilled less {name}: {paired_interval(found['distilled'], found[name])}")
