"""A user's own module in both losses: dropout, batch norm and tied weights work, and what writes to itself is named."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upstairs.bilevel import (
    SGD,
    ConjugateGradients,
    EvolutionStrategies,
    FiniteDifference,
    FirstOrderHypergradient,
    Forward,
    ImplicitHypergradient,
    Nystrom,
    OneStep,
    PersistentES,
    Problem,
    Recomputed,
    Truncated,
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


def without_dropout(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
    return net


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


def pictures() -> nn.Module:
    """Two channels of a picture are one output; batch norm of maps, dropout of whole maps."""
    torch.manual_seed(0)
    layers = [nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 4, 2, padding=1), nn.BatchNorm2d(4), nn.Dropout2d(0.3)]
    return nn.Sequential(*layers, nn.Tanh(), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(4, 1), nn.Flatten(0)).double()


@pytest.mark.parametrize("make", [mine, pictures])
@pytest.mark.parametrize("method", [Recomputed(), Forward(), Truncated(3)], ids=str)
def test_other_exact_methods_agree(method: Any, make: Any) -> None:
    """They meet the same dropout: Recomputed when it walks back, Forward in all its directions."""
    net = make()
    found, true = find(method, net).gradients, find(Unrolled(), net).gradients
    for name, g in true.items():
        torch.testing.assert_close(found[name], g)


@pytest.mark.parametrize("make", [mine, pictures])
def test_a_finite_difference_is_the_one_step_through_batch_norm_and_ties(make: Any) -> None:
    net = without_dropout(make())
    found, true = find(FiniteDifference(), net).gradients["weight"], find(OneStep(), net).gradients["weight"]
    torch.testing.assert_close(found, true, rtol=1e-3, atol=1e-7)


def test_the_implicit_function_theorem_through_batch_norm_and_ties() -> None:
    """Against a Hessian written out; it is no minimum, so that damping makes it definite."""
    net, damping = without_dropout(mine()), 5.0
    found = find(ImplicitHypergradient(ConjugateGradients(200, damping=damping)), net)
    there, own = problem(net), {n: p.requires_grad_() for n, p in meta().items()}
    end = {n: p.requires_grad_() for n, p in found.carry.parameters.items()}
    grads = torch.autograd.grad(there.inner(end, own, None), list(end.values()), create_graph=True)
    flat = torch.cat([g.flatten() for g in grads])
    rows = [torch.autograd.grad(g, list(end.values()), retain_graph=True, materialize_grads=True) for g in flat]
    hessian = torch.stack([torch.cat([t.flatten() for t in row]) for row in rows])
    assert torch.linalg.eigvalsh(hessian).min() < 0 < torch.linalg.eigvalsh(hessian).min() + damping
    v = torch.cat([t.flatten() for t in torch.autograd.grad(there.outer(end, own, None), list(end.values()))])
    x = torch.linalg.solve(hessian + damping * torch.eye(len(v), dtype=v.dtype), v)
    (expected,) = torch.autograd.grad(flat, own["weight"], -x)
    torch.testing.assert_close(found.gradients["weight"], expected)


@pytest.mark.parametrize(
    "method", [ImplicitHypergradient(), ImplicitHypergradient(Nystrom()), OneStep(), FiniteDifference(),
               FirstOrderHypergradient(), EvolutionStrategies(), PersistentES()], ids=str,
)  # fmt: skip
def test_every_other_method_takes_dropout(method: Any) -> None:
    assert all(g.abs().sum() > 0 for n, g in find(method, mine()).gradients.items() if n == "weight")


def test_what_has_no_forward_mode_is_named_and_the_other_exact_methods_take_it() -> None:
    odd = {
        "_weight_norm_interface": nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
        "rrelu_with_noise": nn.RReLU(),
    }
    for name, layer in odd.items():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 4), layer, nn.Linear(4, 1), nn.Flatten(0)).double()
        with pytest.raises(UpstairsError, match=f"'{name}' has no forward mode.*Recomputed"):
            find(Forward(), net)
        found, true = find(Recomputed(), net).gradients, find(Unrolled(), net).gradients
        torch.testing.assert_close(found["weight"], true["weight"])


def test_a_lazy_layer_is_refused_by_name_until_it_has_a_shape() -> None:
    net = nn.Sequential(nn.LazyLinear(2))
    with pytest.raises(UpstairsError, match=r"'0\.weight' has no shape yet.* call the network once"):
        pure(net)
    net(torch.ones(1, 3))
    assert pure(net).parameters["0.weight"].shape == (2, 3)


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
