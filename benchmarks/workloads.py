"""The timed workloads: tasks, networks of torch's own layers, and the gradient that every library must compute.

Every library receives the same modules and the same tensors. Its gradients are compared with `loop_gradients`: one
task after the other, by functional_call and autograd only.
"""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

DOUBLE = torch.float64
Gradients = dict[str, Tensor]  # by the name of the parameter: the mean over tasks


class Data(NamedTuple):
    """A batch of tasks: x is [task, n, *feature], y is [task, n] (classes) or [task, n, 1] (targets)."""

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor


@dataclass(frozen=True)
class Workload:
    """A problem of fixed size. `rate` is the inner learning rate; `shape` one input, of images or of a number."""

    name: str
    summary: str
    method: Literal["maml", "anil", "protonet"] = "maml"
    shape: tuple[int, ...] = (1, 28, 28)
    width: int = 64
    way: int = 5
    shot: int = 1
    query: int = 15
    tasks: int = 8
    steps: int = 5
    lr: float = 0.1
    base: str = "learn2learn"  # ratios are to this row
    first_order: bool = True  # is the first-order gradient timed too?

    @property
    def regression(self) -> bool:
        return self.shape == (1,)

    def net(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The network, the same numbers at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if self.regression:
                return sinusoid_net().to(dtype)
            return Conv4(self.shape, self.width, None if self.method == "protonet" else self.way).to(dtype)

    def loss(self, prediction: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(prediction, y) if self.regression else F.cross_entropy(prediction, y)

    def adapts(self, name: str) -> bool:
        """Does the inner loop change this parameter?"""
        return self.method != "anil" or name.startswith("head")

    def data(self, dtype: torch.dtype = torch.float32) -> Data:
        """The tasks, the same numbers at every call."""
        generator = torch.Generator().manual_seed(1)
        drawn = sinusoids(self, generator) if self.regression else noisy_patterns(self, generator)
        return Data(*(t.to(dtype) if t.is_floating_point() else t for t in drawn))


class Conv4(nn.Module):
    """Four blocks of 3x3 convolution, batch norm with the statistics of the batch, ReLU, 2x2 max-pool."""

    def __init__(self, shape: tuple[int, ...], width: int, way: int | None) -> None:
        super().__init__()
        channels, size, _ = shape
        self.body = nn.Sequential(*(block(c, width) for c in (channels, width, width, width)), nn.Flatten())
        self.head = nn.Identity() if way is None else nn.Linear(width * (size // 16) ** 2, way)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def block(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.BatchNorm2d(width, track_running_stats=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


def sinusoid_net() -> nn.Sequential:
    """Finn et al. 2017, section 5.1."""
    return nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))


def sinusoids(w: Workload, generator: torch.Generator) -> Data:
    """y = a sin(x - p): a in [0.1, 5], p in [0, pi], x in [-5, 5]."""
    amplitude = torch.rand(w.tasks, 1, 1, generator=generator) * 4.9 + 0.1
    phase = torch.rand(w.tasks, 1, 1, generator=generator) * torch.pi
    support, query = (torch.rand(w.tasks, n, 1, generator=generator) * 10 - 5 for n in (w.shot, w.query))
    return Data(support, amplitude * torch.sin(support - phase), query, amplitude * torch.sin(query - phase))


def noisy_patterns(w: Workload, generator: torch.Generator) -> Data:
    """Each class is a random pattern, each example the pattern with noise: no files, and the classes can be learned."""
    pattern = torch.randn(w.tasks, w.way, *w.shape, generator=generator)

    def examples(each: int) -> tuple[Tensor, Tensor]:
        y = torch.arange(w.way).repeat_interleave(each).repeat(w.tasks, 1)
        x = pattern.repeat_interleave(each, 1)
        return x + torch.randn(x.shape, generator=generator), y

    return Data(*examples(w.shot), *examples(w.query))


W1 = Workload("W1", "Omniglot shape (1x28x28), Conv4-64, 5-way 1-shot, 5 inner steps")
W3 = Workload(
    "W3", "mini-ImageNet shape (3x84x84), Conv4-32, 5-way 1-shot, 5 inner steps",
    shape=(3, 84, 84), width=32, tasks=4, lr=0.01,
)  # fmt: skip
W4 = Workload(
    "W4", "sinusoids, MLP 1-40-40-1, 10 examples, 1 inner step",
    shape=(1,), way=0, shot=10, query=10, tasks=25, steps=1, lr=0.01,
)  # fmt: skip
W4B = replace(W4, name="W4b", summary="sinusoids, MLP 1-40-40-1, 10 examples, 5 inner steps", steps=5)
W5 = Workload(
    "W5", "prototypical network, Conv4-64, 20-way 5-shot",
    method="protonet", way=20, shot=5, tasks=1, steps=0, first_order=False,
)  # fmt: skip
ANIL = replace(W1, name="anil", summary="ANIL on W1: only the last layer adapts", method="anil", first_order=False)
W1_ONE = replace(W1, name="W1-one", summary="W1 one task at a time", tasks=1, base="plain loop")
W4_ONE = replace(W4, name="W4-one", summary="W4 one task at a time", tasks=1, base="plain loop")

WORKLOADS = {"W1": [W1], "W3": [W3], "W4": [W4], "W4b": [W4B], "W5": [W5], "anil": [ANIL], "one": [W1_ONE, W4_ONE]}


def loop_gradients(w: Workload, net: nn.Module, data: Data, *, first_order: bool) -> Gradients:
    """The meta-gradient of MAML or ANIL, written out: a plain loop over tasks and steps."""
    theta = dict(net.named_parameters())
    total = {name: torch.zeros_like(p) for name, p in theta.items()}
    for support_x, support_y, query_x, query_y in zip(*data, strict=True):
        params = theta
        for _ in range(w.steps):
            fast = {name: p for name, p in params.items() if w.adapts(name)}
            loss = w.loss(functional_call(net, params, (support_x,)), support_y)
            grads = torch.autograd.grad(loss, list(fast.values()), create_graph=not first_order)
            updated = {name: p - w.lr * g for (name, p), g in zip(fast.items(), grads, strict=True)}
            params = {**params, **updated}
        loss = w.loss(functional_call(net, params, (query_x,)), query_y)
        for name, g in zip(theta, torch.autograd.grad(loss, list(theta.values())), strict=True):
            total[name] += g / w.tasks
    return total


def protonet_gradients(w: Workload, net: nn.Module, data: Data, *, squared: bool, joint: bool) -> Gradients:
    """The gradient of a prototypical network's loss, written out, for one task.

    Libraries differ in two conventions: the distance is squared (the paper) or not, and batch norm sees support and
    query together or each alone.
    """
    support_x, support_y, query_x, query_y = (leaf[0] for leaf in data)
    if joint:
        support, query = net(torch.cat([support_x, query_x])).split([len(support_x), len(query_x)])
    else:
        support, query = net(support_x), net(query_x)
    prototypes = torch.stack([support[support_y == k].mean(0) for k in range(w.way)])
    distance = (query[:, None] - prototypes).square().sum(-1)
    loss = F.cross_entropy(-(distance if squared else distance.sqrt()), query_y)
    params = dict(net.named_parameters())
    return dict(zip(params, torch.autograd.grad(loss, list(params.values())), strict=True))


def relative_error(gradients: Gradients, reference: Gradients) -> float:
    """|g - r| / |r| over all parameters as one vector, in float64."""
    difference = sum(float((gradients[name].double() - r.double()).square().sum()) for name, r in reference.items())
    return (difference / sum(float(r.double().square().sum()) for r in reference.values())) ** 0.5
