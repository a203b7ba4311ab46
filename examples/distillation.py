# ruff: noqa: T201
"""Data set distillation: learn ten images of each class such that a network trained on them classifies real images.

    outer(lambda) = loss on real images of phi_K,  phi_{k+1} = a step of momentum on the images lambda

from many random initialisations phi_0 (Wang et al. 2018; learned labels: Bohdal et al. 2020). The images, their
labels and a learning rate for each tensor are the meta-parameters. They start as real images and at half of the
best learning rate for those, which is also the upper limit: without it some networks stop converging. The learned
images are judged by training a *new* network, from an unseen initialisation, and compared with ten real images of
each class, trained for the same and for the best number of steps. All settings of the real images are chosen on the
validation split.

    python examples/distillation.py [DATA] [--classes 10] [--steps 20] [--outer-steps 200] [--picture FILE]
"""

import argparse
from functools import partial
from math import log

import torch
import torch.nn.functional as F
from hyper_cleaning import classes_of, digits, split
from torch import Tensor, nn

from upstairs.bilevel import SGD, Problem, Unrolled, optimize, pure
from upstairs.statistics import interval, paired_interval

SHOT = 10
MOMENTUM = 0.9
RATES = (0.01, 0.03, 0.1, 0.2, 0.5)
LONGER = (1, 3, 10, 30)  # factors of the number of steps on real images


def conv(size: int, channels: int, classes: int) -> nn.Module:
    """A small network: two convolutions with group norm."""
    layers: list[nn.Module] = []
    for into, out in ((channels, 16), (16, 16)):
        layers += [nn.Conv2d(into, out, 3, padding=1), nn.GroupNorm(4, out), nn.ReLU(), nn.AvgPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * (size // 4) ** 2, classes))


def outer_optimizer(params: list[Tensor], outer_steps: int) -> torch.optim.Optimizer:
    """Adam, with outer learning rates for images, labels and inner learning rates that fall to zero on a cosine."""
    groups = [{"params": [p], "lr": rate} for p, rate in zip(params, (0.03, 0.1, 0.005), strict=True)]
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, outer_steps)
    optimizer.register_step_post_hook(lambda *_: schedule.step())
    return optimizer


def distil(
    data: tuple[Tensor, Tensor], *, steps: int = 20, outer_steps: int = 200, judges: int = 10, seed: int = 0,
    longer: tuple[int, ...] = LONGER, share: float = 0.5,
) -> tuple[dict[str, list[float]], Tensor]:  # fmt: skip
    """Return the accuracies of new networks on the third split, for real and for learned images, and these images.

    The inner learning rates start at `share` of the best learning rate of real images, which is also their limit.
    """
    classes, size = int(data[1].max()) + 1, int(data[0].shape[1] ** 0.5)
    parts = [(x.view(-1, 1, size, size), y) for x, y in split(*data, seed)]
    (x, y), validation, judged_by = parts
    rows = torch.cat([(y == k).nonzero()[:SHOT, 0] for k in range(classes)])
    net = pure(conv(size, 1, classes))

    def start(number: int) -> dict[str, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * 1_000_003 + number)
            return pure(conv(size, 1, classes)).parameters

    def inner(params: dict[str, Tensor], meta: dict[str, Tensor], batch: None) -> Tensor:
        return F.cross_entropy(net(params, meta["pictures"]), meta["labels"].softmax(1))

    def outer(params: dict[str, Tensor], meta: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(net(params, batch[0]), batch[1])

    def rule(meta: dict[str, Tensor]) -> SGD:
        return SGD({n: meta["log_rates"][i].exp() for i, n in enumerate(net.parameters)}, momentum=MOMENTUM)

    def at(step: int, on: tuple[Tensor, Tensor] | None = None) -> Problem:
        some = torch.randint(len(x), (256,), generator=torch.Generator().manual_seed(step))
        batch = on or (x[some], y[some])
        return Problem(inner, outer, start=start(step), rule=rule, steps=steps, outer_batch=lambda k: batch)

    def real(lr: float, sharp: float = 100.0) -> dict[str, Tensor]:
        """Return real images; `sharp` labels are one-hot, other labels can still be learned."""
        labels, rates = sharp * F.one_hot(y[rows], classes), torch.full((len(net.parameters),), lr).log()
        return {"pictures": x[rows].clone(), "labels": labels, "log_rates": rates}

    def accuracy(meta: dict[str, Tensor], number: int, on: tuple[Tensor, Tensor], count: int = steps) -> float:
        """Return the accuracy of a new network after `count` steps of torch.optim."""
        params = {n: p.requires_grad_() for n, p in start(number).items()}
        rates = meta["log_rates"].exp().tolist()
        groups = [{"params": [p], "lr": rate} for p, rate in zip(params.values(), rates, strict=True)]
        optimizer = torch.optim.SGD(groups, lr=0.1, momentum=MOMENTUM)
        for _ in range(count):
            optimizer.zero_grad()
            inner(params, meta, None).backward()
            optimizer.step()
        with torch.no_grad():
            return float((net(params, on[0]).argmax(1) == on[1]).float().mean())

    def tuned(counts: list[int]) -> tuple[float, int]:
        """Return the learning rate and the number of steps that are best on the validation split, over three starts."""
        starts = range(2 * 10**6, 2 * 10**6 + 3)
        pairs = [(rate, count) for rate in RATES for count in counts]
        tried = {p: sum(accuracy(real(p[0]), k, validation, p[1]) for k in starts) for p in pairs}
        return max(tried, key=lambda pair: tried[pair])

    (best, _), (suits, count) = tuned([steps]), tuned([steps * k for k in longer])
    limit = share * best
    print(f"real images: lr {best} in {steps} steps; of up to {steps * max(longer)} steps, {count} at lr {suits}")
    done = optimize(
        at, real(limit, sharp=4.0), test=[at(10**6 + k, judged_by) for k in range(judges)], method=Unrolled(),
        outer_steps=outer_steps, optimizer=partial(outer_optimizer, outer_steps=outer_steps), seed=seed,
        project=lambda meta: meta["log_rates"].clamp_(max=log(limit)),
    )  # fmt: skip
    print(done)
    learned = done.meta_parameters
    ways = {"real": (real(best), steps), "real, any": (real(suits), count), "distilled": (learned, steps)}
    found = {n: [accuracy(m, 10**6 + k, judged_by, c) for k in range(judges)] for n, (m, c) in ways.items()}
    return found, torch.stack([x[rows], learned["pictures"]])


def draw(pictures: Tensor, path: str) -> None:
    """Draw the real images at the start (left) and the learned images (right); a row is a class."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    for axis, part, title in zip(figure.subplots(1, 2), pictures, ("real", "learned"), strict=True):
        shown = F.pad(part[:, 0], (1, 1, 1, 1), value=float("nan"))
        axis.imshow(torch.cat([torch.cat(list(row), 1) for row in shown.split(SHOT)], 0), cmap="gray")
        axis.set_title(title)
        axis.axis("off")
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Learn ten images of each class that train a network.")
    parser.add_argument("data", nargs="?", help="a folder of Omniglot or CIFAR-100; left out: digits of scikit-learn")
    parser.add_argument("--classes", type=int, default=10, help="number of classes of the folder")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--outer-steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="seed of the split and of the initialisations")
    parser.add_argument("--picture", help="a file for a drawing of the real and the learned images")
    arguments = parser.parse_args()
    data = classes_of(arguments.data, arguments.classes) if arguments.data else digits()
    found, pictures = distil(data, steps=arguments.steps, outer_steps=arguments.outer_steps, seed=arguments.seed)
    for name, values in found.items():
        print(f"{name:>10} {interval(values)}")
    for name in ("real", "real, any"):
        print(f"distilled minus {name}: {paired_interval(found['distilled'], found[name])}")
    if arguments.picture:
        draw(pictures, arguments.picture)
