"""Learned rules: with their networks at zero they are torch's own optimisers; the cell is torch's LSTM."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from upstairs.functional.call import functional_call
from upstairs.learners import LSTMRule, MLPRule
from upstairs.learners.learned_optimizer.meta_train import NetworkTraining, unroll
from upstairs.learners.learned_optimizer.rules import LSTMState, log_and_sign


def silent(rule: nn.Module) -> nn.Module:
    """Its last layer says nothing."""
    nn.init.zeros_(rule.head.weight), nn.init.zeros_(rule.head.bias)
    return rule.double()


def small_net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def training() -> NetworkTraining:
    g = torch.Generator().manual_seed(0)
    return NetworkTraining(
        small_net, torch.randn(50, 6, generator=g, dtype=torch.float64), torch.randint(3, (50,), generator=g), batch=8
    )


@pytest.mark.parametrize(
    ("rule", "optimizer"),
    [
        (lambda: MLPRule(lr=0.01), lambda ps: torch.optim.Adam(ps, lr=0.01)),
        (lambda: MLPRule(lr=0.02, base="momentum"), lambda ps: torch.optim.SGD(ps, lr=0.02, momentum=0.9)),
        (lambda: LSTMRule(lr=0.3), lambda ps: torch.optim.SGD(ps, lr=0.3)),
    ],
    ids=["adam", "momentum", "sgd"],
)
def test_a_silent_rule_is_an_ordinary_optimiser(rule: Callable[[], nn.Module], optimizer: Callable) -> None:
    own, steps = training(), 60
    batches = own.minibatches(3, 0, steps)
    (params, _), _ = unroll(silent(rule()), own, (own.start(3), ()), batches)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = own.make()
    ordinary = optimizer(net.parameters())
    for x, y in batches:
        ordinary.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        ordinary.step()
    for name, p in net.named_parameters():
        torch.testing.assert_close(params[name].detach(), p.detach(), rtol=1e-6, atol=1e-8)


def test_the_cell_is_torchs() -> None:
    torch.manual_seed(0)
    rule, cell = LSTMRule(hidden=4).double(), nn.LSTMCell(2, 4).double()
    with torch.no_grad():
        cell.weight_ih.copy_(rule.input.weight), cell.weight_hh.copy_(rule.recurrent.weight)
        cell.bias_ih.copy_(rule.input.bias), cell.bias_hh.zero_()
    x, h, c = torch.randn(7, 2).double(), torch.randn(7, 4).double(), torch.randn(7, 4).double()
    for ours, theirs in zip(rule.cell(x.T, LSTMState(h.T, c.T)), cell(x, (h, c)), strict=True):
        torch.testing.assert_close(ours.T, theirs, rtol=1e-12, atol=1e-12)


def test_gradients_as_logarithm_and_sign() -> None:
    """Andrychowicz et al. 2016, appendix A, by hand with p = 10."""
    seen = log_and_sign(torch.tensor([1.0, -torch.e, 0.0, 1e-6], dtype=torch.float64))
    expected = [[0, 1], [0.1, -1], [-1, 0], [-1, torch.e**10 * 1e-6]]
    torch.testing.assert_close(seen.T, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("kind", [LSTMRule, MLPRule])
def test_second_order_through_a_rule(kind: type[nn.Module]) -> None:
    """Three steps on a bent bowl: first and second derivatives in the rule's parameters, by finite differences."""
    torch.manual_seed(0)
    rule = kind(lr=0.05, hidden=2).double()
    nn.init.normal_(rule.head.weight, std=0.3)
    names = [n for n, _ in rule.named_parameters()]

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rule = rule

        def forward(self) -> Tensor:
            phi = {"w": torch.tensor([0.7, -1.3], dtype=torch.float64), "b": torch.tensor([0.4], dtype=torch.float64)}
            state = self.rule.init(phi)
            for _ in range(3):
                updates, state = self.rule.update({n: p + 0.3 * p**3 for n, p in phi.items()}, state, phi)
                phi = {n: p + updates[n] for n, p in phi.items()}
            return sum(p.square().sum() for p in phi.values())

    loop = Loop()

    def end(*values: Tensor) -> Tensor:
        return functional_call(loop, {f"rule.{n}": v for n, v in zip(names, values, strict=True)})

    values = [p.detach().clone().requires_grad_() for p in rule.parameters()]
    assert gradcheck(end, values)
    assert gradgradcheck(end, values)


def test_a_rule_of_another_scale_of_loss() -> None:
    """Multiplying the loss by 1000 leaves the MLP rule's steps as they are."""
    torch.manual_seed(0)
    rule = MLPRule().double()
    nn.init.normal_(rule.head.weight)
    params = {"w": torch.randn(4, 3).double(), "b": torch.randn(4).double()}
    grads = {n: torch.randn_like(p) for n, p in params.items()}
    first, _ = rule.update(grads, rule.init(params), params)
    second, _ = rule.update({n: 1000 * g for n, g in grads.items()}, rule.init(params), params)
    for n in params:
        torch.testing.assert_close(first[n], second[n], rtol=1e-5, atol=1e-8)
