"""A generator with a critic: its penalty against finite differences, its losses written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.runs import settings_of
from upstairs.core import Examples, Task
from upstairs.learners import DAGAN, make_learner
from upstairs.learners.generative.adversarial import nearness, zero_slope
from upstairs.nets.drawing import critic
from upstairs.tree import index


def sets(shape: tuple[int, ...], *, tasks: int = 2, shot: int = 3, query: int = 4) -> Task:
    g = torch.Generator().manual_seed(0)

    def part(n: int) -> Examples:
        y, mask = torch.zeros(tasks, n, dtype=torch.long), torch.ones(tasks, n, dtype=torch.bool)
        return Examples(torch.rand(tasks, n, *shape, generator=g), y, mask)

    return Task(part(shot), part(query))


def test_a_penalty_and_its_gradient_against_finite_differences() -> None:
    torch.manual_seed(0)
    net, real = critic((1, 16, 16), width=4).double(), torch.rand(3, 1, 16, 16).double()

    def judge(x: Tensor) -> Tensor:
        return net(x)[:, 0]

    def slope(x: Tensor) -> Tensor:
        """Of one input, by central differences."""
        steps = 1e-5 * torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *x.shape)
        return (judge(x + steps) - judge(x - steps)) / 2e-5

    with torch.no_grad():
        expected = torch.stack([slope(x).square().sum() for x in real]).mean() / 2
    found = zero_slope(judge, real)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    for p, grad in zip(
        net.parameters(), torch.autograd.grad(found, list(net.parameters()), allow_unused=True), strict=True
    ):
        values, place = [], tuple(0 for _ in p.shape)
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                p[place] += step
            values.append(zero_slope(judge, real).item())
            with torch.no_grad():
                p[place] -= step
        assert (0.0 if grad is None else grad[place].item()) == pytest.approx((values[0] - values[1]) / 2e-5, abs=1e-7)


def test_nearness_is_a_mixture_of_gaussians() -> None:
    made, x = torch.rand(5, 1, 3, 2), torch.rand(4, 1, 3, 2)
    each = torch.distributions.Normal(made.flatten(1), 0.25).log_prob(x.flatten(1)[:, None]).sum(2)
    torch.testing.assert_close(nearness(made, x)[:, 0], each.exp().mean(1).log())


def dagan() -> DAGAN:
    torch.manual_seed(1)
    learner = make_learner(settings_of(learner="dagan", way=1, width=4, norm="none"), (1, 16, 16), 1)
    assert isinstance(learner, DAGAN)
    return learner


def test_dagan_plays_for_pairs_of_pairs() -> None:
    """Both losses, the penalties too, written out for one query after another."""
    learner, task = dagan(), index(sets((1, 16, 16), shot=1), 0)
    state, x = learner.adapt(task.support), task.query.x
    ink = (x.flatten(1) > 0.5).sum(1)
    rows = (97 * ink.sum() + 31 * ink + torch.arange(4)) % 1024
    noise = learner.noise.drawn[rows]
    made = learner.draw(state, torch.cat([noise[:, :1], noise[:, 1:] / learner.truncation], 1)).detach()
    critic_loss, generator_loss = torch.zeros(()), torch.zeros(())
    for i in range(4):
        values = []
        for group in (x, made):
            pack = torch.cat([task.support.x[0], group[i], group[i - 1]])[None].requires_grad_()
            value = learner.critic(pack)[0, 0]
            (slope,) = torch.autograd.grad(value, pack, create_graph=True)
            critic_loss = critic_loss + slope.square().sum() / 2 / 4
            values.append(value)
        critic_loss = critic_loss + F.softplus(values[1] - values[0]) / 4
        generator_loss = generator_loss + F.softplus(values[0] - values[1]) / 4
    torch.testing.assert_close(learner.player_loss("critic", task)[0], critic_loss)
    torch.testing.assert_close(learner.player_loss("generator", task)[0], generator_loss)


def test_dagan_draws_after_every_support_picture_and_after_no_padding() -> None:
    learner, support = dagan(), index(sets((1, 16, 16), shot=3), 0).support
    state = learner.adapt(support._replace(mask=torch.tensor([True, False, True])))
    noise = torch.randn(200, learner.noise_size, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(state.choose(noise[:, 0]), minlength=3)
    assert counts[1] == 0 and counts.min(0).values == 0 and abs(int(counts[0]) - 100) < 50  # false alarm below 1e-11
    one = learner.adapt(support._replace(mask=torch.tensor([True, False, False])))
    assert not torch.equal(learner.draw(one, noise[:1]), learner.draw(one, noise[1:2]))
