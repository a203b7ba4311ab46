"""A network that writes to itself is named, and is as before; one that only counts is left alone."""

import pytest
import torch
from torch import Tensor, nn

from tasks_for_tests import WAY, blobs
from upstairs.engine import meta_step
from upstairs.errors import UpstairsError
from upstairs.learners import maml


class Running(nn.Module):
    """Keeps a running mean by hand, in place or as a new tensor."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.register_buffer("seen", torch.zeros(8))
        self.last = torch.zeros(())
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.how == "replaced":
            self.seen = 0.9 * self.seen + 0.1 * x.mean(0)
        if self.how == "in place":
            self.seen.mul_(0.9).add_(0.1 * x.detach().mean(0))
        if self.how == "attribute":
            self.last = x.mean()
        return x - self.seen


@pytest.mark.parametrize(("how", "name"), [("replaced", "seen"), ("in place", "seen"), ("attribute", "last")])
def test_a_module_that_writes_is_named_and_put_back(how: str, name: str) -> None:
    net = nn.Sequential(Running(how), nn.Linear(8, WAY))
    with pytest.raises(UpstairsError, match=f"'{name}' of Running .net.0."):
        meta_step(maml(net, way=WAY), blobs())
    assert type(net[0].seen) is Tensor and torch.equal(net[0].seen, torch.zeros(8))
    assert type(net[0].last) is Tensor and torch.equal(net[0].last, torch.zeros(()))


def test_a_counter_harms_nobody() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(8, WAY)
    expected = meta_step(maml(nn.Sequential(linear), way=WAY), blobs()).losses
    found = meta_step(maml(nn.Sequential(Running("counts"), linear), way=WAY), blobs()).losses
    torch.testing.assert_close(found, expected)
