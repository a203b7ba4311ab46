"""A network that writes to itself is named, and is as before; one that only counts is left alone."""

import pytest
import torch
from torch import Tensor, nn

from helpers.tasks import WAY, blobs
from upstairs.engine.meta_backward import meta_backward
from upstairs.errors import UpstairsError
from upstairs.learners import maml


class Running(nn.Module):
    """Keeps a running mean by hand, in place or as a new tensor."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.register_buffer("seen", torch.zeros(8))
        self.last = torch.zeros(())
        self.hidden: Tensor | None = None
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.how == "replaced":
            self.seen = 0.9 * self.seen + 0.1 * x.mean(0)
        if self.how == "in place":
            self.seen.mul_(0.9).add_(0.1 * x.detach().mean(0))
        if self.how == "attribute":
            self.last = x.mean()
        if self.how == "state":
            self.hidden = x.mean(0) if self.hidden is None else self.hidden + x.mean(0)
        return x - self.seen


@pytest.mark.parametrize(
    ("how", "name"),
    [("replaced", "seen"), ("in place", "seen"), ("attribute", "last"), ("state", "hidden")],
)
def test_a_module_that_writes_is_named_and_put_back(how: str, name: str) -> None:
    net = nn.Sequential(Running(how), nn.Linear(8, WAY))
    learner = maml(net, way=WAY)
    for options in ({}, {}, {"chunk": 2, "recompute": False}):  # the second is no better than the first
        with pytest.raises(UpstairsError, match=f"'{name}' of Running .net.0."):
            meta_backward(learner, blobs(), **options)
    assert all(p.grad is None for p in learner.parameters())
    assert net[0].hidden is None
    assert type(net[0].seen) is Tensor and torch.equal(net[0].seen, torch.zeros(8))
    assert type(net[0].last) is Tensor and torch.equal(net[0].last, torch.zeros(()))


def test_a_counter_harms_nobody() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(8, WAY)
    expected = meta_backward(maml(nn.Sequential(linear), way=WAY), blobs()).losses
    found = meta_backward(maml(nn.Sequential(Running("counts"), linear), way=WAY), blobs()).losses
    torch.testing.assert_close(found, expected)
