"""Ordinary torch modules inside MAML: the meta-gradient of all tasks at once is that of a plain loop over them."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from helpers.tasks import WAY, blobs, double
from upstairs.core import Task
from upstairs.engine.meta_backward import meta_backward
from upstairs.errors import UpstairsError
from upstairs.functional.batching import kernels
from upstairs.functional.batching.vectorize import chosen
from upstairs.learners import fomaml, maml

IMAGE, SEQUENCE, VECTOR = (2, 6, 6), (4, 6), (8,)


def loop_gradient(net: nn.Module, tasks: Task, *, inner_lr: float, steps: int, first_order: bool) -> list[Tensor]:
    """MAML as a reader of the paper would write it: torch.autograd, one task after another."""
    theta = {name: p for name, p in net.named_parameters() if p.requires_grad}
    total = [torch.zeros_like(p) for p in theta.values()]
    for i in range(len(tasks.query.y)):
        phi = dict(theta)
        for _ in range(steps):
            loss = F.cross_entropy(functional_call(net, phi, (tasks.support.x[i],)), tasks.support.y[i])
            grads = torch.autograd.grad(loss, list(phi.values()), create_graph=not first_order, materialize_grads=True)
            phi = {n: p - inner_lr * g for (n, p), g in zip(phi.items(), grads, strict=True)}
        loss = F.cross_entropy(functional_call(net, phi, (tasks.query.x[i],)), tasks.query.y[i])
        grads = torch.autograd.grad(loss, list(theta.values()), materialize_grads=True)
        total = [t + g / len(tasks.query.y) for t, g in zip(total, grads, strict=True)]
    return total


class Net(nn.Module):
    """A forward given as a function of the module and its input, then a layer of logits."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], shape: tuple[int, ...], **parts: Any) -> None:
        super().__init__()
        self.function, self.shape = function, shape
        for name, part in parts.items():
            setattr(self, name, part)
        self.head = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self, x).flatten(1))

    def ready(self) -> "Net":
        """A copy in float64 with random parameters and statistics, none of them zero or one."""
        torch.manual_seed(0)
        net = copy.deepcopy(self).double()
        net.head = nn.Linear(net(torch.randn(5, *self.shape).double()).shape[1], WAY).double()
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                value = 0.3 * torch.randn_like(tensor)
                tensor.copy_(value.abs() + 0.5 if name.endswith("running_var") else value)
        return net


class Cube(torch.autograd.Function):
    """x^3, without a rule for vmap."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        return grads[0] * 3 * x**2


class Tagger(nn.Linear):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


def attend_weights(m: Any, x: Tensor) -> Tensor:
    """Other keys and values than queries, both masks, and the weights."""
    causal = torch.ones(4, 4, dtype=torch.bool).triu(1)
    padding = torch.tensor([False, False, False, True]).expand(len(x), 4)
    out, weights = m.attention(x, x + 1, x.sin(), attn_mask=causal, key_padding_mask=padding)
    return torch.cat([out, weights], -1)


def last_of(m: Any, x: Tensor) -> Tensor:
    """An RNN's outputs and its last states."""
    out, state = m.rnn(x if m.rnn.batch_first else x.transpose(0, 1))
    states = torch.cat(state if isinstance(state, tuple) else (state,))
    return torch.cat([(out if m.rnn.batch_first else out.transpose(0, 1)).flatten(1), *states], 1)


def cells(m: Any, x: Tensor) -> Tensor:
    state = None
    for step in x.unbind(1):
        state = m.cell(step, state)
    return torch.cat(state, 1) if isinstance(state, tuple) else state


def added(m: Any, x: Tensor) -> Tensor:
    out = m.g(torch.tanh(m.f(x)))
    out += x
    return F.relu(out)


def changed(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A view or a function of x, and then x changes."""
    before = function(x)
    x += 1
    return torch.cat([before.flatten(1).square(), x.flatten(1).sigmoid()], 1)


def row(*layers: nn.Module, shape: tuple[int, ...] = IMAGE) -> Net:
    return Net(lambda m, x: m.f(x), shape, f=nn.Sequential(*layers))


def line(*layers: nn.Module) -> Net:
    return row(*layers, shape=SEQUENCE)


def vector(function: Callable[[Any, Tensor], Tensor], **parts: Any) -> Net:
    """A function of the hidden layer m.f, [n, 8]."""
    return Net(function, VECTOR, **({"f": nn.Linear(8, 8)} | parts))


def share(net: Net) -> Net:
    net.g.weight = net.f.weight
    return net


# fmt: off
ACTIVATIONS = [
    nn.ReLU(inplace=True), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.ELU(), nn.LeakyReLU(), nn.Softplus(), nn.Tanh(),
    nn.PReLU(), nn.PReLU(8), nn.SELU(), nn.Hardswish(), nn.ELU(inplace=True), nn.LogSoftmax(1), nn.GLU(),
]
STACKED: dict[str, Net] = {
    **{f"{a}": vector(lambda m, x: m.g(m.f(x)), g=a) for a in ACTIVATIONS},
    **{
        f"{kind.__name__}-{n}-{both}-{first}":
        Net(last_of, SEQUENCE, rnn=kind(6, 3, n, bidirectional=both, batch_first=first, bias=n == 2 or first))
        for kind in (nn.LSTM, nn.GRU, nn.RNN)
        for n, both, first in [(1, False, True), (2, False, False), (2, True, True), (1, True, False)]
    },
    "conv-options": row(nn.Conv2d(2, 4, 3, 2, 1), nn.Tanh(), nn.Conv2d(4, 4, 2, dilation=2, groups=2, bias=False)),
    "conv-circular": row(nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), nn.Tanh()),
    "conv-transposed": row(nn.ConvTranspose2d(2, 3, 2, stride=2), nn.Tanh()),
    "batch": row(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU(), nn.MaxPool2d(2)),
    "batch-tracking": row(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
    "batch-frozen": row(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4).eval(), nn.ReLU()),
    "batch-after-relu": row(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.BatchNorm2d(4, track_running_stats=False, affine=False)),
    "group": row(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU()),
    "instance-affine": row(nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.ReLU()),
    "layer-norm": row(nn.Conv2d(2, 4, 3), nn.LayerNorm([4, 4, 4]), nn.ReLU()),
    "max-relu": row(nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.ReLU()),
    "relu-max": row(nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2, padding=1)),
    "average-relu": row(nn.Conv2d(2, 4, 3), nn.AvgPool2d(2), nn.ReLU()),
    "relu-average": row(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AvgPool2d(2)),
    "relu-adaptive": row(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
    "adaptive-relu": row(nn.Conv2d(2, 4, 3), nn.AdaptiveAvgPool2d(2), nn.ReLU()),
    "dropout": row(nn.Conv2d(2, 4, 3), nn.Dropout(0.0), nn.Dropout2d(0.0), nn.ReLU()),
    "conv1d": line(nn.Conv1d(4, 4, 3, groups=2), nn.ReLU(), nn.MaxPool1d(2)),
    "conv1d-batch": line(nn.Conv1d(4, 3, 3), nn.BatchNorm1d(3, track_running_stats=False), nn.ReLU(), nn.AvgPool1d(2)),
    "batch1d": row(nn.Linear(8, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.ReLU(), shape=VECTOR),
    "transformer": line(nn.TransformerEncoderLayer(6, 2, 8, 0.0, batch_first=True)),
    "flat-in-place": row(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(64, 8), nn.ReLU(inplace=True)),
    "attention": Net(lambda m, x: m.f(*[x] * 3, need_weights=False)[0], SEQUENCE, f=nn.MultiheadAttention(6, 3)),
    "attention-weights": Net(attend_weights, SEQUENCE, attention=nn.MultiheadAttention(6, 2, batch_first=True)),
    "lstm-cell": Net(cells, SEQUENCE, cell=nn.LSTMCell(6, 5)),
    "gru-cell": Net(cells, SEQUENCE, cell=nn.GRUCell(6, 5)),
    "residual": vector(lambda m, x: x + torch.tanh(m.f(x))),
    "residual-in-place": vector(added, g=nn.Linear(8, 8)),
    "residual-images": Net(
        lambda m, x: F.max_pool2d(added(m, m.h(x)), 2), IMAGE, h=nn.Conv2d(2, 4, 3),
        f=nn.Conv2d(4, 4, 3, padding=1), g=nn.Conv2d(4, 4, 3, padding=1),
    ),
    "view": Net(lambda m, x: m.f(x).view(x.size(0), -1), IMAGE, f=nn.Conv2d(2, 4, 3)),
    "reshape": Net(lambda m, x: m.f(x).reshape(len(x), 4, -1).mean(dim=2), IMAGE, f=nn.Conv2d(2, 4, 3)),
    "permute": Net(lambda m, x: m.f(x.permute(0, 2, 1)).permute(0, 2, 1).sigmoid(), SEQUENCE, f=nn.Linear(4, 3)),
    "einsum": Net(lambda m, x: torch.einsum("nct,tk->nkc", x, m.w).tanh(), SEQUENCE, w=nn.Parameter(torch.rand(6, 3))),
    "chunk": vector(lambda m, x: torch.mul(*m.f(x).chunk(2, dim=1))),
    "softmax": vector(lambda m, x: F.softmax(m.f(x), dim=-1)),
    "expand": vector(lambda m, x: m.f(x).unsqueeze(1).expand(-1, 3, -1) * m.w, w=nn.Parameter(torch.rand(3, 1))),
    "none": vector(lambda m, x: torch.tanh(m.f(x[:, None])[:, 0, 1:])),
    "list": vector(lambda m, x: torch.stack([torch.tanh(m.f(example)) for example in x])),
    "embedding": vector(lambda m, x: m.f(x.round().long().clamp(0, 5)), f=nn.Embedding(6, 3)),
    "embedding-padded": vector(lambda m, x: m.f(x.round().long().clamp(0, 5)), f=nn.Embedding(6, 3, padding_idx=0)),
    "tied": vector(lambda m, x: m.f(m.f(x).tanh())),
    "tied-modules": share(vector(lambda m, x: m.f(m.g(x).tanh()), g=nn.Linear(8, 8))),
    "unused": vector(lambda m, x: m.f(x).tanh(), g=nn.Linear(2, 2)),
    "integers": vector(lambda m, x: m.f(x)[:, m.i].tanh(), i=nn.Parameter(torch.tensor([3, 0]), requires_grad=False)),
    "interpolate": Net(lambda m, x: F.interpolate(m.f(x), (5, 5), mode="bilinear"), IMAGE, f=nn.Conv2d(2, 2, 3)),
    "normalize": vector(lambda m, x: F.normalize(m.f(x), dim=1)),
    "norm": vector(lambda m, x: m.f(x) / torch.linalg.norm(m.g(x), dim=1, keepdim=True), g=nn.Linear(8, 8)),
    "bilinear": vector(lambda m, x: torch.tanh(m.f(x, x)), f=nn.Bilinear(8, 8, 4)),
}
OTHERWISE: dict[str, tuple[str, Net]] = {
    "branch": ("loop", vector(lambda m, x: torch.tanh(m.f(x)) if x.mean() > 0 else m.f(x))),
    "item": ("loop", vector(lambda m, x: torch.tanh(m.f(x)) * x.std().item())),
    "function": ("loop", vector(lambda m, x: Cube.apply(m.f(x) / 3))),
    "change-view": ("vmap", Net(lambda m, x: changed(m.f(x), lambda y: y.flatten(1)), IMAGE, f=nn.Conv2d(2, 4, 3))),
    "change-relu": ("vmap", Net(lambda m, x: changed(m.f(x), F.relu), IMAGE, f=nn.Conv2d(2, 4, 3))),
    "vectors-changed": ("stacked", vector(lambda m, x: changed(m.f(x), F.relu))),
}
# fmt: on


@pytest.mark.parametrize("name", [*STACKED, *OTHERWISE])
def test_meta_gradient_is_that_of_a_loop(name: str) -> None:
    expected_how, proto = OTHERWISE[name] if name in OTHERWISE else ("stacked", STACKED[name])
    tasks = double(blobs(3, shot=1, query=2, shape=proto.shape))
    for make, options in (
        (maml, {"chunk": 3, "recompute": False}),
        (maml, {"chunk": 3, "recompute": True}),
        (fomaml, {}),  # and planned, which runs the learner on tensors without values first
    ):
        net = proto.ready()
        with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
            expected = loop_gradient(proto.ready(), tasks, inner_lr=0.2, steps=2, first_order=make is fomaml)
        learner = make(net, way=WAY, inner_lr=0.2, steps=2)
        learner.zero_grad()
        meta_backward(learner, tasks, **options)
        how = chosen(learner, "meta_loss")
        assert how is not None
        assert how.how == expected_how, how.why
        params = [p for p in net.parameters() if p.requires_grad]
        found = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in params])
        want = torch.cat([g.flatten() for g in expected])
        assert want.norm() > 1e-3
        assert (found - want).norm() < 1e-10 * want.norm(), (make.__name__, options)


NORM = nn.BatchNorm2d(4, track_running_stats=False)
POOLED = {
    "relu-pool": row(nn.Conv2d(2, 4, 3), NORM, nn.ReLU(), nn.MaxPool2d(2)),
    "in-place": row(nn.Conv2d(2, 4, 3), NORM, nn.ReLU(inplace=True), nn.MaxPool2d(2)),
    "pool-relu": row(nn.Conv2d(2, 4, 3), NORM, nn.MaxPool2d(2, stride=1, padding=1), nn.ReLU()),
    "read-again": Net(
        lambda m, x: torch.cat([F.max_pool2d(y := m.n(m.f(x)), 2), F.avg_pool2d(y, 2), y[:, :, :2, :2].sin()], 1),
        IMAGE, f=nn.Conv2d(2, 4, 3), n=NORM,
    ),
}  # fmt: skip


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", POOLED)
def test_pooling_before_normalising(name: str, sign: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all weights are positive it comes first, elsewhere not; the gradients are those of a loop all the same."""
    first = []
    original = kernels.moments
    monkeypatch.setattr(kernels, "moments", lambda x: (first.append(x), original(x))[1])
    proto, tasks = POOLED[name], double(blobs(3, shot=1, query=2, shape=IMAGE))

    def signed() -> Net:
        net = proto.ready()
        weight = (net.n if name == "read-again" else net.f[1]).weight.data
        weight.abs_().add_(0.2)
        weight[0] *= sign
        return net

    for recompute in (False, True):
        net = signed()
        expected = torch.cat(
            [g.flatten() for g in loop_gradient(signed(), tasks, inner_lr=0.2, steps=2, first_order=False)]
        )
        meta_backward(maml(net, way=WAY, inner_lr=0.2, steps=2), tasks, chunk=3, recompute=recompute)
        found = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in net.parameters()])
        assert (found - expected).norm() < 1e-10 * expected.norm()
    assert bool(first) == (sign == 1)


def test_a_view_sees_what_changes_it_in_place() -> None:
    """A view of a convolution's output, which ReLU then changes."""
    proto = Net(
        lambda m, x: (y := m.f(x), z := y[:, :2], F.relu(y, inplace=True), z.square())[3], IMAGE, f=nn.Conv2d(2, 4, 3)
    )
    tasks = double(blobs(3, shot=1, query=2, shape=IMAGE))
    net = proto.ready()
    expected = torch.cat(
        [g.flatten() for g in loop_gradient(proto.ready(), tasks, inner_lr=0.2, steps=2, first_order=False)]
    )
    meta_backward(maml(net, way=WAY, inner_lr=0.2, steps=2), tasks, chunk=3, recompute=False)
    found = torch.cat([p.grad.flatten() for p in net.parameters()])
    assert (found - expected).norm() < 1e-10 * expected.norm()


def test_no_buffer_changes_while_tasks_adapt() -> None:
    net = STACKED["batch-tracking"].ready()
    before = {name: b.clone() for name, b in net.named_buffers()}
    assert len(before) == 3
    maml(net, way=WAY, inner_lr=0.2, steps=2)(double(blobs(3, shape=IMAGE)))
    for name, buffer in net.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_a_module_that_returns_a_tuple_is_named() -> None:
    with pytest.raises(UpstairsError, match="Tagger returned a tuple"):
        maml(Tagger(8, WAY), way=WAY)(blobs(3))
