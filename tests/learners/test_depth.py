"""Early exits, against the whole network, a plain sum over depths, and a count of what was computed."""

import pytest
import torch
from torch import nn
from torch.distributions import Categorical

from helpers.tasks import WAY, blobs, double
from upstairs.engine.meta_backward import meta_backward
from upstairs.errors import UpstairsError
from upstairs.learners import EarlyExit, ProtoNet, solve_early
from upstairs.learners.metric.early_exit import costs_of, endings
from upstairs.nets import chain
from upstairs.tree import index


def learner(**options) -> EarlyExit:
    torch.manual_seed(0)
    stages = chain((8,), width=6, depth=3)
    return EarlyExit(stages, sizes=[6] * 4, costs=[0.25, 0.5, 0.75, 1.0], way=WAY, **options).double()


def test_with_every_early_exit_shut_it_is_the_whole_network() -> None:
    own = learner(scale=0.4)
    own.bias.data.fill_(-1e9)
    whole = ProtoNet(own.stages, way=WAY, scale=0.4 / 6**0.5)
    task = index(double(blobs(1)), 0)
    expected = whole.predict(whole.adapt(task.support), task.query.x)
    torch.testing.assert_close(own.predict(own.adapt(task.support), task.query.x), expected)


@torch.no_grad()
def test_a_query_that_ends_early_is_read_by_no_later_stage() -> None:
    own, task = learner(scale=2.0), index(double(blobs(1, query=20)), 0)
    own.bias.data[1] = -1e9  # none after the second stage
    rows: list[int] = []
    for stage in own.stages:
        stage.register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
    logits, ends = solve_early(own, task.support, task.query.x)
    counts = torch.bincount(ends, minlength=4).tolist()
    assert counts[0] > 0 and counts[1] == 0 and counts[2] > 0 and counts[3] > 0
    assert rows[::2] == [2 * WAY] * 4  # the support set, as deep as the deepest query
    assert rows[1::2] == [sum(counts[depth:]) for depth in range(4)]
    torch.testing.assert_close(logits, own.predict(own.adapt(task.support), task.query.x))


def test_where_all_are_sure_nothing_else_is_computed() -> None:
    own, task, ran = learner(), index(double(blobs(1)), 0), []
    own.bias.data.fill_(1e9)
    own.stages[1].register_forward_hook(lambda *_: ran.append(1))
    assert (solve_early(own, task.support, task.query.x)[1] == 0).all() and not ran


def test_the_loss_is_a_sum_over_depths() -> None:
    """Prototypes, gates and shares again, one query and one depth after another."""
    own, tasks = learner(price=0.3, scale=0.5), double(blobs(3))
    own.bias.data, own.slope.data = 0.1 * torch.randn(3).double(), torch.rand(3).double()
    step = meta_backward(own, tasks)
    for i in range(3):
        support, query = index(tasks, i)
        total, used = 0.0, []
        for x, y in zip(query.x, query.y, strict=True):
            z, q, left, answer = support.x, x[None], 1.0, None
            for depth, stage in enumerate(own.stages):
                z, q = stage(z), stage(q)
                means = torch.stack([z[support.y == k].mean(0) for k in range(WAY)])
                p = Categorical(logits=-own.log_scale[depth].exp() * torch.cdist(q, means)[0] ** 2)
                unsure = (p.entropy() + 1e-6).log()
                gate = torch.sigmoid(10 * (own.bias[depth] - own.slope[depth] * unsure)) if depth < 3 else 1.0
                total += left * gate * (-p.log_prob(y) + 0.3 * (depth + 1) / 4) - p.log_prob(y) / 4
                left = left * (1 - gate)
                answer = p.logits if answer is None and gate > 0.5 else answer
            used.append(answer)
        torch.testing.assert_close(step.losses[i], total.detach() / len(query.y))
        torch.testing.assert_close(step.predictions[i].log_softmax(-1), torch.stack(used).detach())


def test_queries_that_must_stay_together_are_refused() -> None:
    own = EarlyExit(chain((1, 16, 16), width=4, norm="batch", depth=1), sizes=[16] * 2, costs=[0.5, 1.0], way=WAY)
    task = index(blobs(1, shape=(1, 16, 16)), 0)
    with pytest.raises(UpstairsError, match="which queries are left"):
        solve_early(own, task.support, task.query.x)


def test_shares_add_up_to_one() -> None:
    shares = endings([torch.tensor(g) for g in (0.2, 0.5, 1.0)])
    torch.testing.assert_close(torch.stack(shares), torch.tensor([0.2, 0.4, 0.4]))


def test_costs_are_multiplications() -> None:
    """By hand: 14x14x9x2, 7x7x9x2x4 and twice 7x7x9x4x4."""
    parts = [14 * 14 * 9 * 2 + 49 * 9 * 8, 49 * 9 * 16, 49 * 9 * 16]
    expected = [sum(parts[: i + 1]) / sum(parts) for i in range(3)]
    assert costs_of(chain((1, 28, 28), width=4, depth=2), (1, 28, 28)) == pytest.approx(expected)


def test_one_stage_is_refused() -> None:
    with pytest.raises(UpstairsError, match="to end early it needs 2 or more"):
        EarlyExit(nn.Sequential(nn.Linear(2, 2)), sizes=[2], costs=[1.0], way=2)
