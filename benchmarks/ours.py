"""The rows of this library, and a plain loop written by hand."""

from importlib.metadata import version
from typing import Literal

import torch
from peers import Peer, Step, gradients_of
from torch import Tensor, nn
from workloads import Data, Gradients, Workload, loop_gradients

from upstairs.core import Examples, Learner, Task, squared_error
from upstairs.engine.meta_backward import meta_backward
from upstairs.functional.differentiate import Exact, FirstOrder
from upstairs.learners import SGD, GradientLearner, ProtoNet, anil, fomaml, maml


def make_tasks(data: Data) -> Task:
    """The same tensors as tasks; nothing is padding."""

    def examples(x: Tensor, y: Tensor) -> Examples:
        return Examples(x, y, torch.ones(x.shape[:2], dtype=torch.bool))

    return Task(examples(data.support_x, data.support_y), examples(data.query_x, data.query_y))


def make_learner(w: Workload, net: nn.Module, *, first_order: bool) -> Learner:
    """The published algorithm of the workload, over an unmodified module."""
    if w.method == "protonet":
        return ProtoNet(net, way=w.way)
    if w.regression:
        how = FirstOrder() if first_order else Exact()
        return GradientLearner(net, SGD(w.lr), steps=w.steps, differentiate=how, loss_fn=squared_error)
    if w.method == "anil":
        return anil(net, way=w.way, inner_lr=w.lr, steps=w.steps, head="head")
    return (fomaml if first_order else maml)(net, way=w.way, inner_lr=w.lr, steps=w.steps)


def upstairs(compiled: Literal["off", "on"]) -> Peer:
    """meta_backward over all tasks, with its own choice of how many at a time."""

    def build(w: Workload, data: Data, first_order: bool) -> Step:
        net, tasks = w.net(data.support_x.dtype), make_tasks(data)
        learner, named = make_learner(w, net, first_order=first_order), dict(net.named_parameters())

        def step() -> Gradients:
            learner.zero_grad()
            meta_backward(learner, tasks, compile=compiled)
            return gradients_of(named)

        return step

    # compiling a convolutional network takes minutes on a CPU and gains little
    inputs = ("numbers",) if compiled == "on" else ("images", "numbers")
    return Peer(build, lambda: version("upstairs"), methods=("maml", "anil", "protonet"), inputs=inputs)


def plain_loop(w: Workload, data: Data, first_order: bool) -> Step:
    """functional_call and autograd in a loop: what a workload of one task is compared with."""
    net = w.net(data.support_x.dtype)
    return lambda: loop_gradients(w, net, data, first_order=first_order)


OURS = {"upstairs": upstairs("off"), "upstairs compiled": upstairs("on")}
PLAIN_LOOP = Peer(plain_loop, lambda: torch.__version__)
