"""Tensors that do not fit a network: a sentence that says which one, in every way to run; other errors stay."""

from collections.abc import Callable
from inspect import unwrap
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import upstairs as up
from helpers.tasks import WAY, blobs, sinusoids
from upstairs.core import Examples, Learner, Task
from upstairs.engine.explain import preflight
from upstairs.engine.meta_backward import meta_backward
from upstairs.errors import UpstairsError
from upstairs.learners import SGD, GradientLearner, maml

RUN: dict[str, Callable[[Learner, Task], Any]] = {
    "meta_backward": meta_backward,
    "forward": lambda learner, tasks: learner(tasks),
    "solve": lambda learner, tasks: learner.solve(tasks),
    "preflight": preflight,
}


def changed(tasks: Task, part: str, **fields: Any) -> Task:
    """Tasks with other x or y in the support set, the queries or both; each by a function of the tensor."""

    def change(examples: Examples) -> Examples:
        values = {name: fields[name](value) if name in fields else value for name, value in examples._asdict().items()}
        return Examples(**values)

    support, query = (change(e) if part in (name, "both") else e for name, e in zip(Task._fields, tasks, strict=True))
    return Task(support, query)


CASES = {
    "float64 inputs": (lambda t: changed(t, "both", x=Tensor.double), r"`support.x` is torch.float64.*torch.float32"),
    "float64 queries": (lambda t: changed(t, "query", x=Tensor.double), r"`query.x` is torch.float64"),
    "bytes": (lambda t: changed(t, "both", x=lambda x: x.to(torch.uint8)), r"torch.uint8.*write x.to.*/ 255"),
    "float classes": (lambda t: changed(t, "support", y=Tensor.float), r"`support.y` is torch.float32.*y.long"),
    "classes from 1": (lambda t: changed(t, "both", y=lambda y: y + 1), r"`support.y` has classes from 1 to 5"),
    "negative": (lambda t: changed(t, "both", y=lambda y: y - 1), r"`support.y` has classes from -1 to 3"),
    "other width": (lambda t: changed(t, "both", x=lambda x: x[..., :5]), r"inputs of shape \[5\]"),
    "two widths": (lambda t: changed(t, "query", x=lambda x: x[..., :5]), r"\[8\] and those of the queries \[5\]"),
    "fewer labels": (lambda t: changed(t, "support", y=lambda y: y[:, 1:]), r"`support.x` is .*`support.y`"),
}


# without its loss, a closed form takes class numbers that have no output
UNNOTICED = {("r2d2", "solve", case) for case in ("classes from 1", "negative")}


@pytest.mark.parametrize(("make", "name", "case"), sorted({*product(("maml", "r2d2"), RUN, CASES)} - UNNOTICED))
def test_what_does_not_fit_is_named(make: str, name: str, case: str) -> None:
    learner = getattr(up, make)(nn.Linear(8, WAY), way=WAY)
    change, sentence = CASES[case]
    with pytest.raises(UpstairsError, match=sentence):
        RUN[name](learner, change(blobs()))


def test_a_network_with_fewer_outputs_than_classes() -> None:
    with pytest.raises(UpstairsError, match=r"classes from 0 to 4.*need an output for each"):
        meta_backward(maml(nn.Linear(8, 3), way=WAY), blobs())
    with pytest.raises(UpstairsError, match=r"classes from 0 to 4.*`way` 3"):
        meta_backward(up.r2d2(nn.Linear(8, 3), way=3), blobs())


def test_targets_that_torch_would_broadcast() -> None:
    tasks = sinusoids()
    wide = changed(tasks, "both", y=lambda y: torch.cat([y, y], -1))
    with pytest.raises(UpstairsError, match=r"the predictions are \[10, 1\] and the targets `y` \[10, 2\]"):
        meta_backward(maml(nn.Linear(1, 1)), wide)
    meta_backward(maml(nn.Linear(1, 2)), wide)


def test_class_numbers_for_regression_and_numbers_for_classes() -> None:
    with pytest.raises(UpstairsError, match=r"class numbers are, and the learner knows no classes: give `way`"):
        meta_backward(maml(nn.Linear(8, WAY)), blobs())
    for learner in (maml(nn.Linear(1, WAY), way=WAY), up.r2d2(nn.Linear(1, WAY), way=WAY)):
        with pytest.raises(UpstairsError, match=r"holds numbers \[1\] and the learner names classes: leave `way` out"):
            meta_backward(learner, sinusoids())


def test_an_operation_without_second_derivative_is_named_on_every_path() -> None:
    class Distances(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.centres = nn.Parameter(torch.randn(WAY, 8))

        def forward(self, x: Tensor) -> Tensor:
            return -torch.cdist(x, self.centres)

    for run in (meta_backward, preflight):
        with pytest.raises(UpstairsError, match=r"cdist.*cannot be differentiated twice"):
            run(maml(Distances(), way=WAY), blobs())


def test_a_network_s_own_error_stays() -> None:
    class Fails(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("my own error")

    with pytest.raises(RuntimeError, match="my own error"):
        meta_backward(maml(Fails(8, WAY), way=WAY), blobs())


@pytest.mark.parametrize("way", [None, WAY])
def test_one_label_a_pixel(way: int | None) -> None:
    """Segmentation: logits [n, class, height, width]; the gradient is that of plain autograd, task by task."""
    torch.manual_seed(0)
    net = nn.Conv2d(1, WAY, 3, padding=1).double()
    tasks = blobs(3, shape=(1, 6, 6))
    tasks = changed(tasks, "both", x=Tensor.double)
    dense = [Examples(e.x, (e.x[:, :, 0] > 0).long() + e.y[..., None, None] % 4, e.mask) for e in tasks]
    tasks = Task(*dense)

    def per_pixel(logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, reduction="none")

    meta_backward(GradientLearner(net, SGD(0.3), way=way, steps=2, loss_fn=per_pixel), tasks)
    expected = [torch.zeros_like(p) for p in net.parameters()]
    for i in range(3):
        w, b = net.weight, net.bias
        for _ in range(2):
            loss = F.cross_entropy(F.conv2d(tasks.support.x[i], w, b, padding=1), tasks.support.y[i])
            gw, gb = torch.autograd.grad(loss, (w, b), create_graph=True)
            w, b = w - 0.3 * gw, b - 0.3 * gb
        loss = F.cross_entropy(F.conv2d(tasks.query.x[i], w, b, padding=1), tasks.query.y[i])
        expected = [e + g / 3 for e, g in zip(expected, torch.autograd.grad(loss, [*net.parameters()]), strict=True)]
    for p, g in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g)


def test_arguments_are_checked() -> None:
    learner, tasks = maml(nn.Linear(8, WAY), way=WAY), blobs()
    wrong = [
        ({"chunk": 0}, r"`chunk` is 0"), ({"compile": "yes"}, r"`compile` is 'yes': choose off, on, auto"),
        ({"precision": "half"}, r"`precision` is 'half'"), ({"differentiate": "first"}, r"FirstOrder\(\)"),
    ]  # fmt: skip
    for options, message in wrong:
        with pytest.raises(UpstairsError, match=message):
            unwrap(meta_backward)(learner, tasks, **options)  # without the type checker of the tests
    with pytest.raises(UpstairsError, match="`tasks` is"):
        unwrap(meta_backward)(learner, list(tasks))
    with torch.inference_mode():
        made = blobs()
    with pytest.raises(UpstairsError, match="inference_mode"):
        meta_backward(learner, made)
    with pytest.raises(UpstairsError, match="`way` is 0"):
        maml(nn.Linear(8, WAY), way=0)
    arrays = Examples(tasks.support.x.numpy(), tasks.support.y.numpy())
    assert torch.equal(arrays.x, tasks.support.x) and arrays.mask.all()
