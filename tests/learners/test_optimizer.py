"""The exported optimiser: step for step the rule it holds, and an ordinary torch optimiser beside."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from upstairs.errors import UpstairsError
from upstairs.learners import LSTMRule, MLPRule
from upstairs.learners.learned_optimizer.meta_train import NetworkTraining, unroll
from upstairs.learners.learned_optimizer.optimizer import LearnedOptimizer, load_rule, save_rule
from upstairs.storage import save_tensors


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def training() -> NetworkTraining:
    g = torch.Generator().manual_seed(0)
    return NetworkTraining(
        network, torch.randn(50, 6, generator=g, dtype=torch.float64), torch.randint(3, (50,), generator=g), batch=8
    )


def loud(kind: type[nn.Module]) -> nn.Module:
    """A rule whose network has a say."""
    torch.manual_seed(0)
    rule = kind(lr=0.01)
    nn.init.normal_(rule.head.weight, std=0.3)
    return rule.double()


def descend(net: nn.Module, optimizer: torch.optim.Optimizer, batches: list) -> None:
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()


@pytest.mark.parametrize("kind", [LSTMRule, MLPRule])
def test_it_takes_the_steps_of_the_rule(kind: type[nn.Module]) -> None:
    own, rule = training(), loud(kind)
    batches = own.minibatches(1, 0, 30)
    with torch.no_grad():
        (expected, _), _ = unroll(rule, own, (own.start(1), ()), batches)
    net = network()
    net.load_state_dict(own.start(1))
    descend(net, LearnedOptimizer(net.parameters(), rule), batches)
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", [LSTMRule, MLPRule])
def test_files_and_checkpoints_go_on_to_the_bit(kind: type[nn.Module], tmp_path: Path) -> None:
    own, path = training(), tmp_path / "rule.safetensors"
    save_rule(loud(kind), path)
    first, second = network(), network()
    optimizer = LearnedOptimizer.load(path, first.parameters(), steps=30)
    descend(first, optimizer, own.minibatches(1, 0, 15))
    torch.save({"net": first.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "half.pt")
    descend(first, optimizer, own.minibatches(1, 15, 15))
    half = torch.load(tmp_path / "half.pt")
    second.load_state_dict(half["net"])
    optimizer.save(tmp_path / "again.safetensors")
    other = LearnedOptimizer.load(tmp_path / "again.safetensors", second.parameters(), steps=30)
    other.load_state_dict(half["optimizer"])
    descend(second, other, own.minibatches(1, 15, 15))
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q)


def test_it_is_an_ordinary_optimiser() -> None:
    """Groups with rates of their own, a schedule, a closure; a parameter without a gradient stays."""
    net, rule = network(), loud(MLPRule)
    optimizer = LearnedOptimizer(
        [{"params": net[0].parameters(), "lr": 0.5}, {"params": net[2].parameters()}], rule, steps=10
    )
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=4)
    net[0].bias.requires_grad_(False)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    grads = {n: torch.ones_like(p) for n, p in net.named_parameters()}
    for name, p in net.named_parameters():
        p.grad = None if name == "0.bias" else grads[name]
    assert optimizer.step(lambda: 2.5) == 2.5
    rule.horizon = 10
    for name, factor in {"0.weight": 0.5 / 3, "2.weight": 1 / 3, "2.bias": 1 / 3}.items():
        whole = rule.update({"p": grads[name]}, rule.init({"p": before[name]}), {"p": before[name]})[0]["p"]
        torch.testing.assert_close(net.get_parameter(name).detach(), before[name] + factor * whole.detach())
    assert torch.equal(net[0].bias, before["0.bias"])
    schedule.step()
    assert optimizer.param_groups[1]["lr"] > 1 / 3
    assert not any(p.requires_grad for p in optimizer.rule.parameters())


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    net = network()
    with pytest.raises(UpstairsError, match="steps 1 or more"):
        LearnedOptimizer(net.parameters(), LSTMRule(), steps=0)
    with pytest.raises(UpstairsError, match="there is no file"):
        load_rule(tmp_path / "none.safetensors")
    for meta, message in (
        ({"rule": "gru", "made": {}}, "a rule of the kind 'gru' and this version of upstairs knows lstm, mlp"),
        ({"made": {}}, "of the kind 'None'"),
        ({"rule": "lstm", "made": {"colour": 3}}, "does not fit the rule 'lstm'"),
        ({"rule": "lstm", "made": LSTMRule().made}, "does not fit the rule 'lstm'"),
    ):
        save_tensors(tmp_path / "odd.safetensors", {"w": torch.ones(1)}, meta, kind="rule")
        with pytest.raises(UpstairsError, match=message):
            load_rule(tmp_path / "odd.safetensors")
    with pytest.raises(UpstairsError, match="base is 'sgd'"):
        MLPRule(base="sgd")


PUBLISHED = Path(__file__).parents[2] / "benchmarks" / "results" / "learned_optimizer.safetensors"


def test_the_published_rule_trains_a_network_it_never_saw() -> None:
    """GELU, 24 wide, on a teacher of 12 inputs: after 500 steps a lower loss than Adam's at the rate tuned for it."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 12, generator=g)
    y = (torch.tanh(x @ torch.randn(12, 16, generator=g) / 2) @ torch.randn(16, 5, generator=g)).argmax(1)
    own = NetworkTraining(lambda: nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 5)), x, y, batch=32)
    ends = []
    for make in (lambda ps: LearnedOptimizer.load(PUBLISHED, ps), lambda ps: torch.optim.Adam(ps, lr=0.0178)):
        net = own.make()
        net.load_state_dict(own.start(0))
        descend(net, make(net.parameters()), own.minibatches(0, 0, 500))
        ends.append(F.cross_entropy(net(x), y).item())
    assert ends[0] < 0.95 * ends[1]
