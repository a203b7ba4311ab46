"""Early exits, against the whole network, a plain sum over depths, and a count of what was computed."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tasks_for_tests import WAY, blobs, double
from upstairs.engine import meta_step
from upstairs.errors import UpstairsError
from upstairs.learners import EarlyExit, ProtoNet, solve_early
from upstairs.learners.depth import costs_of, endings
from upstairs.nets import chain
from upstairs.tree import take


def learner(**options) -> EarlyExit:
    torch.manual_seed(0)
    stages = chain((8,), width=6, depth=3)
    return EarlyExit(stages, sizes=[6] * 4, costs=[0.25, 0.5, 0.75, 1.0], way=WAY, **options).double()


def test_with_every_early_exit_shut_it_is_the_whole_network() -> None:
    own = learner(scale=0.4)
    own.bias.data.fill_(-1e9)
    whole = ProtoNet(own.stages, way=WAY, scale=0.4 / 6**0.5)
    task = take(double(blobs(1)), 0)
    expected = whole.predict(whole.adapt(task.support), task.query.x)
    torch.testing.assert_close(own.predict(own.adapt(task.support), task.query.x), expected)


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_a_task_that_ends_early_computes_no_later_stage(depth: int) -> None:
    own, task = learner(), take(double(blobs(1)), 0)
    own.bias.data = torch.tensor([1e9 if i == depth else -1e9 for i in range(3)]).double()
    ran: list[int] = []
    for i, stage in enumerate(own.stages):
        stage.register_forward_hook(lambda *_, i=i: ran.append(i))
    logits, ended = solve_early(own, task.support, task.query.x)
    assert (ended, set(ran)) == (depth, set(range(depth + 1)))
    torch.testing.assert_close(logits, own.predict(own.adapt(task.support), task.query.x))


def test_the_loss_is_a_sum_over_depths() -> None:
    """Prototypes, gates and shares again, one task and one depth after another."""
    own, tasks = learner(price=0.3, scale=0.5), double(blobs(3))
    own.bias.data, own.slope.data = 0.1 * torch.randn(3).double(), torch.rand(3).double()
    step = meta_step(own, tasks)
    for i in range(3):
        support, query = take(tasks, i)
        z, q, left, total = support.x, query.x, 1.0, 0.0
        for depth, stage in enumerate(own.stages):
            z, q = stage(z), stage(q)
            means = torch.stack([z[support.y == k].mean(0) for k in range(WAY)])
            size = own.log_scale[depth].exp().item()
            apart = F.cross_entropy(-size * torch.cdist(means, means) ** 2, torch.arange(WAY))
            gate = 1.0
            if depth < 3:
                gate = torch.sigmoid(10 * (own.bias[depth] - own.slope[depth] * torch.log(apart + 1e-6)))
            loss = F.cross_entropy(-size * torch.cdist(q, means) ** 2, query.y)
            total += left * gate * (loss + 0.3 * (depth + 1) / 4) + loss / 4
            left = left * (1 - gate)
        torch.testing.assert_close(step.losses[i], total.detach(), rtol=1e-6, atol=1e-6)


def test_shares_add_up_to_one() -> None:
    shares = endings([torch.tensor(g) for g in (0.2, 0.5, 1.0)])
    torch.testing.assert_close(torch.stack(shares), torch.tensor([0.2, 0.4, 0.4]))


def test_costs_are_multiplications() -> None:
    """By hand: 28x28x9x2, 7x7x9x2x4 and twice 7x7x9x4x4."""
    parts = [28 * 28 * 9 * 2 + 49 * 9 * 8, 49 * 9 * 16, 49 * 9 * 16]
    expected = [sum(parts[: i + 1]) / sum(parts) for i in range(3)]
    assert costs_of(chain((1, 28, 28), width=4, depth=2), (1, 28, 28)) == pytest.approx(expected)


def test_one_stage_is_refused() -> None:
    with pytest.raises(UpstairsError, match="to end early it needs 2 or more"):
        EarlyExit(nn.Sequential(nn.Linear(2, 2)), sizes=[2], costs=[1.0], way=2)
