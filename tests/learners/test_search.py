"""The search over cells: the mixture against plain sums, the discrete network against the mixture and on its own."""

import io
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from helpers.runs import settings_of
from helpers.tasks import WAY, blobs, double
from upstairs.engine.meta_backward import meta_backward
from upstairs.errors import UpstairsError
from upstairs.learners import MetaNAS, make_learner
from upstairs.nets import Mixed, cells, discretise
from upstairs.nets.cells import SHARPNESS, mixtures
from upstairs.testing import check_learner
from upstairs.tree import index

SHAPE = (1, 16, 16)


def net(shape: tuple[int, ...] = SHAPE, norm: str = "batch") -> nn.Sequential:
    """Each edge leans to an operation drawn at random."""
    torch.manual_seed(0)
    made = cells(shape, width=4, norm=norm).double()
    for mixed in mixtures(made).values():
        mixed.architecture.data.normal_()
        mixed.choose()
    return made


def test_a_mixture_is_the_weighted_sum() -> None:
    torch.manual_seed(0)
    mixed = Mixed(OrderedDict(a=nn.Linear(3, 3), b=nn.Tanh(), c=nn.Identity())).double()
    mixed.architecture.data = torch.tensor([0.1, 0.0, -0.2]).double()
    mixed.soften(0.5)
    x = torch.randn(4, 3).double()
    share = torch.exp(2 * SHARPNESS * mixed.architecture.detach())
    expected = (share[0] * mixed.operations["a"](x) + share[1] * x.tanh() + share[2] * x) / share.sum()
    torch.testing.assert_close(mixed(x), expected)
    torch.testing.assert_close(mixed.eval()(x), mixed.operations["a"](x), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [SHAPE, (8,)])
def test_a_one_hot_mixture_is_the_discrete_network(shape: tuple[int, ...]) -> None:
    own, x = net(shape), torch.randn(6, *shape).double()
    discrete = discretise(own)
    assert not mixtures(discrete)
    for mixed in mixtures(own).values():
        mixed.architecture.data *= 1e3
        mixed.soften(1.0)
    torch.testing.assert_close(own(x), discrete(x), rtol=1e-12, atol=1e-12)


def test_the_discrete_network_is_an_ordinary_module() -> None:
    """It has no operation too many, is saved and exported by torch alone, and answers as the learner's encoder does."""
    own = net(norm="population")
    learner, x = MetaNAS(own, way=WAY).eval(), torch.randn(6, *SHAPE).double()
    found = learner.found()
    chosen = sum(p.numel() for m in mixtures(own).values() for p in m.operations[m.chosen].parameters())
    stem = sum(p.numel() for p in own.stem.parameters())
    assert sum(p.numel() for p in found.parameters()) == stem + chosen
    torch.testing.assert_close(found(x), learner.embed(x), rtol=0, atol=0)
    file = io.BytesIO()
    torch.save(found.state_dict(), file)
    file.seek(0)
    other = discretise(net(norm="population"))
    for p in other.parameters():
        p.data.zero_()
    other.load_state_dict(torch.load(file))
    torch.testing.assert_close(other.eval()(x), found(x), rtol=0, atol=0)
    exported = torch.export.export(found, (x,)).module()
    torch.testing.assert_close(exported(x), found(x))


def test_loaded_weights_bring_their_choice() -> None:
    own = net()
    other = cells(SHAPE, width=4, norm="batch").double()
    other.load_state_dict(own.state_dict())
    choice = {name: m.chosen for name, m in mixtures(own).items()}
    assert {name: m.chosen for name, m in mixtures(other).items()} == choice
    assert len(set(choice.values())) > 1


def searching() -> MetaNAS:
    learner = MetaNAS(net((8,), norm="none"), way=WAY, scale=0.1, inner_lr=0.5)
    learner.at(0.1)
    return learner


def test_the_search_against_a_loop_of_its_own() -> None:
    """A task's step on the architecture, and the meta-gradient through it, by torch.autograd alone."""
    learner, tasks = searching(), double(blobs(3))
    params = dict(learner.encoder.named_parameters())
    total = torch.zeros((), dtype=torch.float64)

    def loss(prototypes: Tensor, y: Tensor, z: Tensor, labels: Tensor) -> Tensor:
        means = torch.stack([prototypes[y == k].mean(0) for k in range(WAY)])
        return F.cross_entropy(-0.1 * (z[:, None] - means).square().sum(-1), labels)

    for i in range(3):
        support, query = index(tasks, i)
        z = functional_call(learner.encoder, params, (support.x,))
        names = [n for n in params if n.endswith("architecture")]
        inner = loss(z, support.y, z, support.y)
        grads = torch.autograd.grad(inner, [params[n] for n in names], create_graph=True)
        own = {**params, **{n: params[n] - 0.5 * g for n, g in zip(names, grads, strict=True)}}
        z, q = (functional_call(learner.encoder, own, (e.x,)) for e in (support, query))
        total = total + loss(z, support.y, q, query.y) / 3
    expected = torch.autograd.grad(total, list(params.values()))
    step = meta_backward(learner, tasks)
    torch.testing.assert_close(step.losses.mean(), total.detach())
    for p, g in zip(params.values(), expected, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-8, atol=1e-10)


def test_while_it_searches_every_operation_learns() -> None:
    check_learner(searching().float(), blobs())


def test_the_search_ends_and_the_rest_is_pruned() -> None:
    learner, tasks = searching(), double(blobs(2))
    learner.at(0.5)
    assert not learner.searching
    before = {name: m.chosen for name, m in mixtures(learner.encoder).items()}
    meta_backward(learner, tasks)
    for name, mixed in mixtures(learner.encoder).items():
        assert mixed.architecture.grad is None
        for other, operation in mixed.operations.items():
            trained = [p.grad is not None for p in operation.parameters()]
            assert all(trained) if other == before[name] else not any(trained)


@pytest.mark.parametrize("name", ["metanas", "early_exit"])
def test_texts_are_refused_by_a_learner_with_a_network_of_its_own(name: str) -> None:
    with pytest.raises(UpstairsError, match="`net` is bag"):
        make_learner(settings_of(learner=name, net="bag"), (64, 8), 5)
