"""Small batches of tasks with known structure, for tests of learners."""

import math

import torch

from upstairs.core import Examples, Task

WAY = 5


def blobs(
    count: int = 4, seed: int = 0, *, shot: int = 2, query: int = 3, way: int = WAY, shape: tuple[int, ...] = (8,)
) -> Task:  # fmt: skip
    """Classification: each class a Gaussian blob around a random point of `shape`."""
    g = torch.Generator().manual_seed(seed)
    centre = 2 * torch.randn(count, way, 1, *shape, generator=g)
    x = centre + torch.randn(count, way, shot + query, *shape, generator=g)
    y = torch.arange(way)[None, :, None].expand(count, way, shot + query)

    def part(start: int, stop: int) -> Examples:
        mask = torch.ones(count, way * (stop - start), dtype=torch.bool)
        return Examples(x[:, :, start:stop].flatten(1, 2), y[:, :, start:stop].flatten(1, 2), mask)

    return Task(part(0, shot), part(shot, shot + query))


def sinusoids(count: int = 4, seed: int = 0, *, n: int = 10) -> Task:
    """Regression on a * sin(x + phase) (Finn et al. 2017, section 5.1)."""
    g = torch.Generator().manual_seed(seed)
    amplitude = 0.1 + 4.9 * torch.rand(count, 1, 1, generator=g)
    phase = math.pi * torch.rand(count, 1, 1, generator=g)

    def part() -> Examples:
        x = 10 * torch.rand(count, n, 1, generator=g) - 5
        return Examples(x, amplitude * torch.sin(x + phase), torch.ones(count, n, dtype=torch.bool))

    return Task(part(), part())


def double(tasks: Task) -> Task:
    """The same tasks in float64."""
    return Task(*(Examples(*(t.double() if t.is_floating_point() else t for t in part)) for part in tasks))
