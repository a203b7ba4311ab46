"""Exact meta-gradients: finite differences, and an independent loop that shares no code with the library."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from helpers.tasks import WAY, blobs, double, sinusoids
from upstairs.core import Task, squared_error
from upstairs.engine.meta_backward import meta_backward
from upstairs.errors import UpstairsError
from upstairs.learners import SGD, GradientLearner, anil, boil, fomaml, maml
from upstairs.nets import conv4, convert_batch_norm, mlp


def loop_gradient(
    net: nn.Module, tasks: Task, *, lr: float, steps: int, first_order: bool = False,
    fast: Callable[[str], bool] = lambda name: True,
) -> dict[str, Tensor]:  # fmt: skip
    """MAML as a reader of the paper would write it: torch.autograd, one task after another, torch's own modules."""
    theta = dict(net.named_parameters())
    total = {name: torch.zeros_like(p) for name, p in theta.items()}
    count = len(tasks.query.y)
    for i in range(count):
        phi = dict(theta)
        for _ in range(steps):
            loss = F.cross_entropy(functional_call(net, phi, (tasks.support.x[i],)), tasks.support.y[i])
            names = [n for n in phi if fast(n)]
            grads = torch.autograd.grad(loss, [phi[n] for n in names], create_graph=not first_order)
            phi = {**phi, **{n: phi[n] - lr * g for n, g in zip(names, grads, strict=True)}}
        loss = F.cross_entropy(functional_call(net, phi, (tasks.query.x[i],)), tasks.query.y[i])
        for name, grad in zip(theta, torch.autograd.grad(loss, list(theta.values()), allow_unused=True), strict=True):
            total[name] += 0 if grad is None else grad / count
    return total


def torch_conv4(width: int, out: int) -> nn.Sequential:
    """Conv4 of torch's own layers, ReLU before pooling, as published."""
    layers: list[nn.Module] = []
    for i in range(4):
        conv = nn.Conv2d(1 if i == 0 else width, width, 3, padding=1, bias=False)
        layers.append(nn.Sequential(conv, nn.BatchNorm2d(width, track_running_stats=False), nn.ReLU(), nn.MaxPool2d(2)))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, out))


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (maml, {}),
        (fomaml, {"first_order": True}),
        (anil, {"fast": lambda name: name.startswith("5.")}),
        (boil, {"fast": lambda name: not name.startswith("5.")}),
    ],
    ids=["maml", "fomaml", "anil", "boil"],
)
def test_equals_an_independent_loop_on_conv4_with_batch_norm(make, options: dict, chunk: int) -> None:
    torch.manual_seed(0)
    tasks = double(blobs(3, shape=(1, 16, 16)))
    own = conv4((1, 16, 16), width=6, norm="batch", out=WAY).double()
    other = torch_conv4(6, WAY).double()
    other.load_state_dict(dict(zip(other.state_dict(), own.state_dict().values(), strict=True)))
    expected = loop_gradient(other, tasks, lr=0.2, steps=3, **options)
    learner = make(own, way=WAY, inner_lr=0.2, steps=3)
    meta_backward(learner, tasks, chunk=chunk)
    for p, g in zip(learner.net.parameters(), expected.values(), strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-10, atol=1e-10)


def test_second_order_differs_from_first() -> None:
    """The test above could pass on a loss without curvature: here there is some."""
    torch.manual_seed(0)
    tasks = double(blobs(3, shape=(1, 16, 16)))
    net = torch_conv4(6, WAY).double()
    exact, first = (loop_gradient(net, tasks, lr=0.2, steps=3, first_order=f) for f in (False, True))
    assert max((exact[n] - first[n]).abs().max() for n in exact) > 1e-3


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_gradcheck(steps: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    learner = GradientLearner(net, SGD(0.05), way=None, steps=steps, loss_fn=squared_error)
    names = [name for name, _ in learner.named_parameters()]
    tasks = double(sinusoids(2))

    def loss(*values: Tensor) -> Tensor:
        return functional_call(learner, dict(zip(names, values, strict=True)), (tasks,))[0].mean()

    assert torch.autograd.gradcheck(loss, tuple(learner.parameters()))


def test_a_user_network_with_batch_norm_is_right_and_writes_its_statistics_once() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, WAY)).double()
    tasks = double(blobs(3))
    plain = nn.Sequential(
        nn.Linear(8, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.ReLU(), nn.Linear(6, WAY)
    ).double()
    plain.load_state_dict(net.state_dict(), strict=False)
    expected = loop_gradient(plain, tasks, lr=0.3, steps=2)
    for other in (net, convert_batch_norm(net)):
        other.zero_grad()  # both have the same linear layers
        meta_backward(maml(other, way=WAY, inner_lr=0.3, steps=2), tasks)
        for (name, p), g in zip(other.named_parameters(), expected.values(), strict=True):
            if name != "0.bias":  # before batch norm: its gradient is zero
                torch.testing.assert_close(p.grad, g, rtol=1e-9, atol=1e-11)
    assert net[1].num_batches_tracked == 1
    assert net[1].running_mean.abs().sum() > 0


def test_running_statistics_are_the_mean_of_what_torch_would_write() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6)).double()
    tasks = double(blobs(3))
    expected = []
    for x in tasks.query.x:
        alone = copy.deepcopy(net)
        alone(x)
        expected.append(alone[1].running_mean)
    meta_backward(GradientLearner(net, SGD(0.1), way=None, steps=0, loss_fn=lambda p, y: p.sum(-1)), tasks)
    torch.testing.assert_close(net[1].running_mean, torch.stack(expected).mean(0))


def test_fewer_classes_than_the_head_are_fine_and_more_are_refused() -> None:
    learner = maml(mlp((8,), out=WAY), way=WAY)
    three = learner.for_way(3)
    task = blobs(1).support
    keep = task.y[0] < 3
    x, y = task.x[0][keep], task.y[0][keep]
    state = three.adapt(task._replace(x=x, y=y, mask=task.mask[0][keep]))
    assert three.predict(state, x).shape == (len(x), 3)
    assert learner.way == WAY
    with pytest.raises(UpstairsError, match="trained to tell 5 classes apart and was given 6"):
        learner.for_way(6)


def test_nothing_to_adapt_is_refused() -> None:
    with pytest.raises(UpstairsError, match="no parameter of the network would adapt"):
        anil(nn.Sequential(nn.Linear(2, 2)), way=2, head="head")
    with pytest.raises(UpstairsError, match="no parameter's name starts with 'head'"):
        boil(nn.Sequential(nn.Linear(2, 2)), way=2, head="head")


def test_a_bias_that_batch_norm_cancels_is_still_there_for_others() -> None:
    """A convolution read by batch norm and by a shortcut: only the first may leave its bias out."""

    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)
            self.head = nn.Linear(3, WAY)

        def forward(self, x: Tensor) -> Tensor:
            z = self.conv(x)
            return self.head((self.norm(z) + z.tanh()).mean((2, 3)))

    torch.manual_seed(0)
    net, tasks = Fork().double(), double(blobs(3, shape=(1, 8, 8)))
    expected = loop_gradient(net, tasks, lr=0.2, steps=2)
    meta_backward(maml(net, way=WAY, inner_lr=0.2, steps=2), tasks)
    for (name, p), g in zip(net.named_parameters(), expected.values(), strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-9, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")
