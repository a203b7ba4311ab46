"""Steps of small tensors run in one thread, and leave torch as it was."""

from typing import ClassVar

import pytest
import torch
from torch import nn

from upstairs.core import Examples, Task
from upstairs.engine.meta_backward import meta_backward
from upstairs.errors import UpstairsError
from upstairs.learners import maml


class Counting(nn.Module):
    """Notes how many threads torch has where it runs."""

    threads: ClassVar[set[int]] = set()

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, width), nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Counting.threads.add(torch.get_num_threads())
        return self.last(self.first(x).relu())


def tasks(count: int) -> Task:
    examples = Examples(
        torch.randn(count, 4, 3), torch.tensor([0, 1, 0, 1]).repeat(count, 1), torch.ones(count, 4, dtype=torch.bool)
    )
    return Task(examples, examples)


@pytest.mark.parametrize(("width", "threads"), [(8, {1}), (20_000, {2})])
def test_small_steps_run_in_one_thread(width: int, threads: set[int]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        learner = maml(Counting(width), way=2, steps=1)
        meta_backward(learner, tasks(2))  # plans, tries, runs
        Counting.threads.clear()
        meta_backward(learner, tasks(2))
        assert Counting.threads == threads
        assert torch.get_num_threads() == 2
        with pytest.raises(UpstairsError):
            bad = tasks(2)
            bad.query.x[1] = float("nan")
            meta_backward(learner, bad)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
