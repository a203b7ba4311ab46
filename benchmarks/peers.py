"""The other libraries: each adapter follows the library's documentation, from unmodified modules to the meta-gradient.

An adapter is called once with the workload, the data and the order; what it returns is timed. The libraries lie in
benchmarks/.peers (see install_peers.py) and are imported only when asked for.
"""

import itertools
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Any, NamedTuple

import torch
from install_peers import HOME, why_missing
from torch import Tensor, nn
from workloads import Data, Gradients, Workload

Step = Callable[[], Gradients]


class Unsupported(Exception):
    """The library does not do this; the message says why, and stands in the table."""


class Peer(NamedTuple):
    """A row of the tables. ProtoNet's two conventions differ between libraries; see workloads.protonet_gradients."""

    build: Callable[[Workload, Data, bool], Step]  # (workload, data, first_order) -> step
    version: Callable[[], str]
    methods: tuple[str, ...] = ("maml",)
    inputs: tuple[str, ...] = ("images", "numbers")
    squared: bool = True
    joint: bool = True

    def has(self, w: Workload) -> bool:
        """Is this a row of the workload's table?"""
        return w.method in self.methods and ("numbers" if w.regression else "images") in self.inputs


def use(name: str, module: str) -> Any:
    """Import a module of the library that lies in .peers/NAME."""
    folder = HOME / name
    if not folder.exists():
        raise Unsupported(why_missing(name))
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return import_module(module)


def gradients_of(named: dict[str, nn.Parameter]) -> Gradients:
    """What the backward passes left; zero where a parameter had no part."""
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in named.items()}


def learn2learn(w: Workload, data: Data, first_order: bool) -> Step:
    """As in its examples maml_omniglot.py, anil_fc100.py and protonet_miniimagenet.py."""
    if w.method == "protonet":
        return learn2learn_protonet(w, data)
    MAML = use("learn2learn", "learn2learn.algorithms").MAML
    net = w.net(data.support_x.dtype)
    body, adapted = (net.body, net.head) if w.method == "anil" else (nn.Identity(), net)
    maml = MAML(adapted, lr=w.lr, first_order=first_order)

    def step() -> Gradients:
        net.zero_grad()
        for support_x, support_y, query_x, query_y in zip(*data, strict=True):
            learner = maml.clone()
            support, query = body(support_x), body(query_x)
            for _ in range(w.steps):
                learner.adapt(w.loss(learner(support), support_y))
            (w.loss(learner(query), query_y) / w.tasks).backward()
        return gradients_of(dict(net.named_parameters()))

    return step


def learn2learn_protonet(w: Workload, data: Data) -> Step:
    classifier = use("learn2learn", "learn2learn.nn").PrototypicalClassifier()
    net = w.net(data.support_x.dtype)
    support_x, support_y, query_x, query_y = (leaf[0] for leaf in data)

    def step() -> Gradients:
        net.zero_grad()
        support, query = net(torch.cat([support_x, query_x])).split([len(support_x), len(query_x)])
        classifier.fit_(support, support_y)
        w.loss(classifier(query), query_y).backward()
        return gradients_of(dict(net.named_parameters()))

    return step


def higher(w: Workload, data: Data, first_order: bool) -> Step:
    """As in its example maml-omniglot.py; first order as its documentation says: track_higher_grads=False."""
    library = use("higher", "higher")
    net = w.net(data.support_x.dtype)
    optimizer = torch.optim.SGD(net.parameters(), lr=w.lr)
    names = [name for name, _ in net.named_parameters()]

    def first_order_task(fast: Any, loss: Tensor) -> None:
        # the adapted parameters are leaves: their gradient is the first-order meta-gradient
        for p, g in zip(net.parameters(), torch.autograd.grad(loss, list(fast.parameters())), strict=True):
            p.grad = g if p.grad is None else p.grad + g

    def step() -> Gradients:
        net.zero_grad()
        for support_x, support_y, query_x, query_y in zip(*data, strict=True):
            context = library.innerloop_ctx(
                net, optimizer, copy_initial_weights=False, track_higher_grads=not first_order
            )
            with context as (fast, inner):
                for _ in range(w.steps):
                    inner.step(w.loss(fast(support_x), support_y))
                loss = w.loss(fast(query_x), query_y) / w.tasks
                first_order_task(fast, loss) if first_order else loss.backward()
        return dict(zip(names, gradients_of(dict(net.named_parameters())).values(), strict=True))

    return step


def torchopt(w: Workload, data: Data, first_order: bool) -> Step:
    """As in its example few-shot/maml_omniglot.py."""
    if first_order:
        raise Unsupported("its MetaSGD always builds the second-order graph")
    library = use("torchopt", "torchopt")
    net = w.net(data.support_x.dtype)
    params = dict(net.named_parameters())  # MetaSGD puts others in their place
    inner = library.MetaSGD(net, lr=w.lr)

    def step() -> Gradients:
        net.zero_grad()
        start = library.extract_state_dict(net, by="reference", detach_buffers=True)
        inner_start = library.extract_state_dict(inner, by="reference")
        for support_x, support_y, query_x, query_y in zip(*data, strict=True):
            for _ in range(w.steps):
                inner.step(w.loss(net(support_x), support_y))
            (w.loss(net(query_x), query_y) / w.tasks).backward()
            library.recover_state_dict(net, start)
            library.recover_state_dict(inner, inner_start)
        return {name: p.grad for name, p in params.items()}

    return step


def parallel_metalearn(backend: str) -> Callable[[Workload, Data, bool], Step]:
    """Its MAML.step over one batch, with an outer optimiser that leaves the parameters as they are."""

    def build(w: Workload, data: Data, first_order: bool) -> Step:
        use("parallel-metalearn", "metalearn.algorithms")
        from parallel_metalearn_parts import make_maml

        net = w.net(data.support_x.dtype)
        maml = make_maml(w, net, backend=backend, first_order=first_order)
        targets = [{"labels": y} for y in (data.support_y, data.query_y)]
        batches = itertools.repeat((data.support_x, targets[0], data.query_x, targets[1]))

        def step() -> Gradients:
            maml.step(batches)
            return gradients_of(dict(net.named_parameters()))

        return step

    return build


def easyfsl(w: Workload, data: Data, first_order: bool) -> Step:
    """As in its tutorial on episodic training. Its distance is not squared, and it embeds support and query apart."""
    library = use("easyfsl", "easyfsl.methods.prototypical_networks")
    net = w.net(data.support_x.dtype)
    classifier = library.PrototypicalNetworks(net)
    support_x, support_y, query_x, query_y = (leaf[0] for leaf in data)

    def step() -> Gradients:
        net.zero_grad()
        classifier.process_support_set(support_x, support_y)
        w.loss(classifier(query_x), query_y).backward()
        return gradients_of(dict(net.named_parameters()))

    return step


def installed(name: str) -> Callable[[], str]:
    """The version of a library that pip installed into .peers."""
    return lambda: version(name)


def learn2learn_version() -> str:
    return use("learn2learn", "learn2learn._version").__version__


PEERS = {
    "learn2learn": Peer(learn2learn, learn2learn_version, methods=("maml", "anil", "protonet")),
    "higher": Peer(higher, installed("higher")),
    "torchopt": Peer(torchopt, installed("torchopt")),
    "parallel-metalearn": Peer(parallel_metalearn("vmap"), installed("parallel-metalearn"), methods=("maml", "anil")),
    # its other backend, for batch norm: torch differentiates that wrongly twice under vmap
    "parallel-metalearn, sequential": Peer(
        parallel_metalearn("sequential"), installed("parallel-metalearn"), inputs=("images",)
    ),
    "easyfsl": Peer(easyfsl, installed("easyfsl"), methods=("protonet",), squared=False, joint=False),
}
