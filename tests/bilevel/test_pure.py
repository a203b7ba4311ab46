"""A user's own module in both losses: dropout, batch norm and tied weights work, and what writes to itself is named."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upstairs.bilevel import (
    SGD,
    EvolutionStrategies,
    FiniteDifference,
    Forward,
    Implicit,
    OneStep,
    Problem,
    Recomputed,
    Unrolled,
    hypergradient,
    pure,
)
from upstairs.errors import UpstairsError

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, in torch.func.jvp


class Mine(nn.Module):
    """Two layers share their weights, with batch norm and dropout between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.norm, self.drop, self.head = nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(self.drop(torch.tanh(self.norm(self.first(x)))))))[:, 0]


def mine() -> Mine:
    torch.manual_seed(0)
    return Mine().double()


def problem(net: nn.Module, steps: int = 3) -> Problem:
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 12, 4, generator=g, dtype=torch.float64), torch.randn(2, 12, generator=g, dtype=torch.float64)
    call = pure(net)

    def inner(p: dict[str, Tensor], meta: dict[str, Tensor], batch: Any) -> Tensor:
        return (meta["weight"].sigmoid() * (call(p, x[0]) - y[0]).square()).mean()

    def outer(p: dict[str, Tensor], meta: dict[str, Tensor], batch: Any) -> Tensor:
        return F.mse_loss(call(p, x[1]), y[1])

    return Problem(inner, outer, start=call.parameters, rule=lambda m: SGD(m["log_rate"].exp()), steps=steps)


def meta() -> dict[str, Tensor]:
    return {
        "weight": torch.linspace(-1, 1, 12, dtype=torch.float64),
        "log_rate": torch.tensor(-1.0, dtype=torch.float64),
    }


def find(method: Any, net: nn.Module, own: dict[str, Tensor] | None = None) -> Any:
    torch.manual_seed(3)
    return hypergradient(problem(net), own or meta(), method=method)


def test_dropout_batch_norm_and_tied_weights_by_finite_differences() -> None:
    net = mine()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    found = find(Unrolled(), net)
    for name, p in meta().items():
        for place in range(p.numel()):
            sides = []
            for e in (1e-5, -1e-5):
                moved = p.clone().view(-1)
                moved[place] += e
                sides.append(find(Unrolled(), net, {**meta(), name: moved.view_as(p)}).outer)
            expected = (sides[0] - sides[1]) / 2e-5
            torch.testing.assert_close(found.gradients[name].view(-1)[place], expected, rtol=1e-5, atol=1e-8)
    assert all(torch.equal(before[n], t) for n, t in net.state_dict().items()), "the module is left alone"
    assert "second.weight" not in found.carry.parameters and "first.weight" in found.carry.parameters


@pytest.mark.parametrize("method", [Recomputed(), Forward()], ids=str)
def test_other_exact_methods_agree(method: Any) -> None:
    """Recomputed meets the same dropout when it walks back; Forward draws its own under vmap, so it has none here."""
    net = mine()
    if isinstance(method, Forward):
        net.drop.p = 0.0
    found, true = find(method, net).gradients, find(Unrolled(), net).gradients
    for name, g in true.items():
        torch.testing.assert_close(found[name], g)


@pytest.mark.parametrize("method", [Implicit(), OneStep(), FiniteDifference(), EvolutionStrategies()], ids=str)
def test_every_other_method_takes_it(method: Any) -> None:
    assert all(g.abs().sum() > 0 for n, g in find(method, mine()).gradients.items() if n == "weight")


def test_evaluation_mode_uses_what_batch_norm_had_gathered() -> None:
    net = mine()
    x = torch.randn(5, 4, dtype=torch.float64)
    net.norm.running_mean += 0.3
    net.eval()
    call = pure(net)
    torch.testing.assert_close(call(call.parameters, x), net(x))
    torch.testing.assert_close(call(call.parameters, x[:2]), net(x)[:2])


class Keeps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.layer = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return self.layer(x)


@pytest.mark.parametrize(
    ("net", "name"),
    [
        (nn.Sequential(Keeps()), r"'seen' of Keeps \(0\)"),
        (nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 1))), "of _SpectralNorm"),
    ],
)
def test_a_module_that_writes_to_itself_is_refused_by_name(net: nn.Module, name: str) -> None:
    call = pure(net)
    with pytest.raises(UpstairsError, match=f"{name}.* is written to by its own forward"):
        call(call.parameters, torch.randn(2, 4))


def test_an_lstm_says_that_it_has_no_second_derivative_or_works() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x)[0].sum(-1)

    found = find(Unrolled(), Last().double())
    true = find(Recomputed(), Last().double())
    assert found.gradients["weight"].abs().sum() > 0 and true.gradients["weight"].abs().sum() > 0
