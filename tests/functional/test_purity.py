"""A network that writes to itself is named, and is as before; one that only counts is left alone."""

from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from helpers.tasks import WAY, blobs
from upstairs import r2d2
from upstairs.engine.evolution import es_step
from upstairs.engine.explain import explain, preflight
from upstairs.engine.meta_backward import meta_backward
from upstairs.engine.plan import plan
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


class Breaks(nn.Module):
    """Writes to itself in many ways, then fails where it is told to: on tensors without storage, or in any pass."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where, self.ready, self.calls = where, False, 0
        self.linear = nn.Linear(8, 8)
        self.register_buffer("seen", torch.zeros(8))
        self.kept: list[Tensor] = []
        self.by_name: dict[str, Tensor] = {}
        self.box = SimpleNamespace(value=None)
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.ready = True
        self.kept.append(x)
        self.by_name["x"] = x
        self.box.value = x
        self.seen = x.detach().mean(0)
        torch.rand(3, generator=self.generator)
        self.eval()
        hidden = self.linear(x)
        if self.where == "forward" or (self.where == "second call" and self.calls > 1):
            raise ValueError("forward fails")
        if self.where == "backward" and hidden.requires_grad:
            hidden = Fails.apply(hidden)
        return hidden


class Fails(torch.autograd.Function):
    """The identity, whose backward pass raises an error."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise ValueError("backward fails")


PASSES = {
    "meta_backward": lambda learner, tasks: meta_backward(learner, tasks),
    "by chunks": lambda learner, tasks: meta_backward(learner, tasks, chunk=1),
    "recomputed": lambda learner, tasks: meta_backward(learner, tasks, recompute=True),
    "compiled": lambda learner, tasks: meta_backward(learner, tasks, compile="on"),
    "plan": lambda learner, tasks: plan(learner, tasks),
    "explain": lambda learner, tasks: explain(learner, tasks),
    "preflight": lambda learner, tasks: preflight(learner, tasks),
    "forward": lambda learner, tasks: learner(tasks),
    "solve": lambda learner, tasks: learner.solve(tasks),
    "es": lambda learner, tasks: es_step(learner, tasks, pairs=1, sigma=0.1),
}


@pytest.mark.parametrize("where", ["forward", "second call", "backward", "writes"])
@pytest.mark.parametrize("name", PASSES)
def test_no_pass_changes_a_network_whatever_happens_in_it(name: str, where: str) -> None:
    net = nn.Sequential(module := Breaks(where), nn.Linear(8, WAY))
    module.again = module.linear  # one layer by two names
    learner = maml(net, way=WAY, steps=2)
    weights = {key: value.clone() for key, value in net.state_dict().items()}
    owners = [id(p) for m in net.modules() for p in m._parameters.values()]
    dice = torch.get_rng_state(), module.generator.get_state(), np.random.get_state()[1].tolist()
    with suppress(UpstairsError, ValueError):
        PASSES[name](learner, blobs(2))
    assert owners == [id(p) for m in net.modules() for p in m._parameters.values()]
    assert all(type(v) is Tensor and torch.equal(v, weights[key]) for key, v in net.state_dict().items())
    assert not module.kept and not module.by_name and module.box.value is None and not module.ready
    assert module.training and "forward" not in vars(module)
    assert torch.equal(module.generator.get_state(), dice[1])
    assert np.random.get_state()[1].tolist() == dice[2]  # (the tests' type checker draws from Python's)
    assert name == "es" or torch.equal(torch.get_rng_state(), dice[0])  # whose noise is drawn
    assert all(p.grad is None for p in net.parameters())


class Itself(nn.Module):
    """Sets itself up at its first call."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.ready = nn.Parameter(torch.zeros(8)), False

    def forward(self, x: Tensor) -> Tensor:
        if not self.ready:
            self.shift.data = -x.mean(0).detach().data
            self.ready = True
        return x + self.shift


def test_a_layer_that_sets_itself_up_is_named_and_the_advice_helps() -> None:
    net = nn.Sequential(Itself(), nn.Linear(8, WAY))
    with pytest.raises(UpstairsError, match=r"'ready' of Itself \(net.0\).*call the network on a batch of inputs"):
        meta_backward(maml(net, way=WAY), blobs())
    assert not net[0].ready
    net(blobs().support.x[0])
    meta_backward(maml(net, way=WAY), blobs())
    assert net[0].ready and net[0].shift.abs().max() > 0


def test_power_iteration_is_named_and_the_advice_helps() -> None:
    net = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)), nn.Linear(8, WAY))
    with pytest.raises(UpstairsError, match=r"_SpectralNorm.*call `net.eval\(\)`"):
        meta_backward(maml(net, way=WAY), blobs())
    net.eval()
    meta_backward(maml(net, way=WAY), blobs())


@pytest.mark.parametrize("kind", ["lazy", "meta", "inference"])
def test_weights_without_values_or_gradients_are_named(kind: str) -> None:
    if kind == "lazy":
        net: nn.Module = nn.Sequential(nn.LazyLinear(6), nn.Linear(6, WAY))
    elif kind == "meta":
        net = nn.Linear(8, WAY, device="meta")
    else:
        with torch.inference_mode():
            net = nn.Linear(8, WAY)
    with pytest.raises(UpstairsError, match="before you build a learner"):
        meta_backward(maml(net, way=WAY), blobs())
    if kind == "lazy":
        net(torch.zeros(1, 8))
        meta_backward(maml(net, way=WAY), blobs())


def test_a_sparse_buffer_runs() -> None:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, WAY)
            self.register_buffer("neighbours", torch.eye(8).to_sparse())

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(torch.sparse.mm(self.neighbours, x.T).T)

    torch.manual_seed(0)
    net = Graph()
    step = meta_backward(maml(net, way=WAY), blobs())
    plain = meta_backward(maml(net.linear, way=WAY), blobs())
    torch.testing.assert_close(step.losses, plain.losses)


def test_weights_that_torch_computes_anew_are_named() -> None:
    net = nn.Sequential(prune.l1_unstructured(nn.Linear(8, 8), "weight", 0.5), nn.Linear(8, WAY))
    with pytest.raises(UpstairsError, match=r"Linear \(net.0\).*prune.remove"):
        meta_backward(maml(net, way=WAY), blobs())
    prune.remove(net[0], "weight")
    meta_backward(maml(net, way=WAY), blobs())


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_script_is_refused_where_its_weights_would_adapt() -> None:
    script = torch.jit.trace(nn.Linear(8, 6), torch.zeros(1, 8))
    with pytest.raises(UpstairsError, match="TorchScript"):
        maml(script, way=WAY)
    meta_backward(r2d2(script, way=WAY), blobs())


def test_complex_weights_adapt() -> None:
    class Waves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.turn, self.head = nn.Parameter(torch.randn(8, 8, dtype=torch.complex64)), nn.Linear(8, WAY)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((x.to(torch.complex64) @ self.turn).abs())

    meta_backward(maml(net := Waves(), way=WAY), blobs())
    assert net.turn.grad.is_complex() and net.turn.grad.isfinite().all()
