"""Regression tasks that are functions drawn from a distribution, with known answers.

sinusoid   y = a sin(x + b),  a in [0.1, 5],  b in [0, pi],  x in [-5, 5], without noise (Finn et al. 2017, section 5.1)
gp         y = f(x) + noise,  f a Gaussian process with k(x, x') = exp(-|x - x'|^2 / (2 length^2)),  x in [-2, 2]
           (Garnelo et al. 2018, section 4.1); no learner predicts better than the posterior mean
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from upstairs.core import Examples, Task
from upstairs.data.seeds import dice
from upstairs.data.source import Functions, function_source
from upstairs.data.splits import Splits


@dataclass(frozen=True)
class Sinusoids:
    """A distribution over sinusoids: each task draws an amplitude and a phase."""

    name: str = "sinusoid"

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        amplitude, phase = torch.rand(2, generator=generator).tolist()
        x = 10 * torch.rand(count, 1, generator=generator) - 5
        return x, (0.1 + 4.9 * amplitude) * torch.sin(x + math.pi * phase)


@dataclass(frozen=True)
class GaussianProcess:
    """A Gaussian process of unit variance with length scale `length`; each task is one sample of it."""

    name: str = "gp"
    length: float = 0.5
    noise: float = 0.1

    def kernel(self, a: Float[Tensor, "n 1"], b: Float[Tensor, "m 1"]) -> Float[Tensor, "n m"]:
        return torch.exp(-0.5 * ((a - b.T) / self.length).square())

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = (4 * torch.rand(count, 1, generator=generator) - 2).double()
        unit = torch.randn(2, count, 1, generator=generator).double()
        # float64 and a small diagonal, since close inputs make the kernel nearly singular
        root = torch.linalg.cholesky(self.kernel(x, x) + 1e-8 * torch.eye(count, dtype=torch.float64))
        return x.float(), (root @ unit[0] + self.noise * unit[1]).float()


FUNCTIONS: dict[str, Functions] = {f.name: f for f in (Sinusoids(), GaussianProcess())}


def function_splits(name: str) -> Splits:
    """Returns the same functions for training, validation and test: no function is ever drawn twice."""
    source = function_source(FUNCTIONS[name])
    return Splits(source, source, source)


def _single(values: Any) -> Tensor:
    """Returns what a function of a user's draws as a tensor of the type that networks have."""
    values = torch.as_tensor(values)
    return values if values.dtype == torch.float32 else values.to(torch.get_default_dtype())


def draw_functions(functions: Functions, seeds: Sequence[int], *, shot: tuple[int, int], query: int) -> Task:
    """Returns the tasks of these seeds, stacked: x [task, n, *feature], y [task, n, k]; `shot` is a range of sizes."""
    parts: list[list[Tensor]] = [[], [], [], []]
    masks = []
    for seed in seeds:
        generator = dice(seed)
        count = int(torch.randint(shot[0], shot[1] + 1, (), generator=generator))
        x, y = map(_single, functions.draw(shot[1] + query, generator))
        for part, values in zip(parts, (x[: shot[1]], y[: shot[1]], x[shot[1] :], y[shot[1] :]), strict=True):
            part.append(values)
        masks.append(torch.arange(shot[1]) < count)
    support_x, support_y, query_x, query_y = map(torch.stack, parts)
    mask = torch.stack(masks)
    real = mask[..., None]
    wide = mask.reshape(*mask.shape, *(1,) * (support_x.ndim - 2))
    return Task(
        Examples(torch.where(wide, support_x, 0.0), torch.where(real, support_y, 0.0), mask), Examples(query_x, query_y)
    )
