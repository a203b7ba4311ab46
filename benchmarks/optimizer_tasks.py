"""The trainings of learned_optimizer.py: networks and data for meta-training, and held-out ones."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from torch import Tensor, nn

from upstairs.data.images.glyphs import glyphs

Data = tuple[Tensor, Tensor, Tensor, Tensor]  # to train on, x and y; held back, x and y
Task = tuple[Data, Callable[[], nn.Module]]  # and what makes the network


def network(size: int, widths: tuple[int, ...], activation: Callable[[], nn.Module], out: int) -> nn.Module:
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(size, width), activation()]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, out))


def convolutions(out: int) -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 14, 14)), nn.Conv2d(1, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, out),
    )  # fmt: skip


def part(x: np.ndarray, y: np.ndarray) -> Data:
    """Standardised over all numbers, three quarters to train on."""
    order = np.random.default_rng(0).permutation(len(x))
    cut = 3 * len(x) // 4
    images, labels = torch.tensor(x[order], dtype=torch.float32), torch.tensor(y[order]).long()
    images = (images - images[:cut].mean()) / images[:cut].std()
    return images[:cut], labels[:cut], images[cut:], labels[cut:]


def teacher(seed: int, *, size: int, out: int) -> Data:
    """Labels by a random network."""
    dice = np.random.default_rng(seed)
    x = dice.normal(size=(2400, size))
    hidden = np.tanh(1.5 * x @ dice.normal(size=(size, 16)) / size**0.5)
    return part(x, (hidden @ dice.normal(size=(16, out))).argmax(1))


def letters() -> Data:
    """60 letters of scripts from Latin to Coptic, 14 x 14, each in up to 16 typefaces, warped."""
    source = glyphs(size=14).train
    rows = [(row, k) for k in range(0, 300, 5) for row in source.rows[k]]
    images = torch.tensor(source.inputs[[r for r, _ in rows]] / 255).float()
    augment = source.augment
    images = torch.cat(
        [augment.apply(images, augment.draw(len(images), torch.Generator().manual_seed(s))) for s in (0, 1)]
    )
    return part(images.reshape(len(images), -1).numpy(), np.array([k // 5 for _, k in rows] * 2))


def cancer() -> Data:
    x, y = load_breast_cancer(return_X_y=True)
    return part((x - x.mean(0)) / x.std(0), y)


def small_digits() -> Data:
    """Digits at 4 x 4."""
    x, y = load_digits(return_X_y=True)
    return part(x.reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(-1, 16), y)


def trainings() -> list[list[Task]]:
    """Those that are learned on, 600 to 900 weights; those of a list have networks that are alike."""
    digits = small_digits()
    ten = [digits, *(teacher(k, size=16, out=10) for k in (1, 2))]
    return [
        [mlp_on(data, (32,), nn.ReLU) for data in ten],
        [mlp_on(data, (16, 16), nn.Tanh) for data in ten],
        [mlp_on(teacher(k, size=30, out=8), (16, 16), nn.ReLU) for k in (3, 4, 5)],
        [mlp_on(teacher(k, size=8, out=3), (48,), nn.ReLU) for k in (6, 7, 8)],
    ]


def held_out() -> dict[str, Task]:
    digits, glyph, small, table = part(*load_digits(return_X_y=True)), letters(), small_digits(), cancer()
    return {
        "data: 8 x 8 digits": mlp_on(digits, (32,), nn.ReLU),
        "data: letters": mlp_on(glyph, (32, 32), nn.ReLU),
        "data: breast cancer": mlp_on(table, (32,), nn.ReLU),
        "width: 256": mlp_on(small, (256,), nn.ReLU),
        "depth: 4 hidden layers": mlp_on(small, (32,) * 4, nn.ReLU),
        "activation: GELU": mlp_on(small, (32, 32), nn.GELU),
        "all four: letters, 4 x 128, GELU": mlp_on(glyph, (128,) * 4, nn.GELU),
        "convolutions on letters": (glyph, partial(convolutions, 60)),
    }


def mlp_on(data: Data, widths: tuple[int, ...], activation: Callable[[], nn.Module]) -> Task:
    return data, partial(network, data[0].shape[1], widths, activation, int(data[1].max()) + 1)
