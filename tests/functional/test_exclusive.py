"""Threads that run learners wait for each other; a forked process and autograd's own threads do not wait for ever."""

import os
import threading

import pytest
import torch
from torch import nn

from helpers.tasks import WAY, blobs
from upstairs.functional.call import functional_call
from upstairs.functional.exclusive import alone
from upstairs.learners import maml


def pass_through() -> None:
    with alone():
        pass


def test_one_thread_waits_for_another_and_calls_inside_each_other_do_not() -> None:
    inside, seen = threading.Event(), list[str]()

    def other() -> None:
        inside.wait()
        with alone():
            seen.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    with alone(), alone():
        inside.set()
        thread.join(timeout=0.2)
        seen.append("first")
    thread.join()
    assert seen == ["first", "other"]


def test_an_error_lets_the_next_thread_in() -> None:
    with pytest.raises(ValueError, match="inside"), alone():
        raise ValueError("inside")
    thread = threading.Thread(target=pass_through, daemon=True)
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_is_not_locked_out() -> None:
    with alone():
        child = os.fork()
        if not child:
            thread = threading.Thread(target=pass_through, daemon=True)
            thread.start()
            thread.join(timeout=60)
            os._exit(int(thread.is_alive()))
    assert os.waitpid(child, 0)[1] == 0


def test_a_backward_pass_that_recomputes_meets_other_threads() -> None:
    """Plain backward passes of two threads recompute inner steps on one network, whose weights they swap."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, WAY)).double()
    batches = [
        type(task)(*(type(part)(part.x.double(), part.y, part.mask) for part in task))
        for task in (blobs(3, seed) for seed in (0, 1))
    ]
    learners = [maml(net, way=WAY, steps=3), maml(net, way=WAY, steps=2, inner_lr=0.1)]

    def gradient(place: int) -> list[torch.Tensor]:
        from upstairs.functional.differentiate import executing

        with executing(recompute=True):
            losses, _ = learners[place](batches[place])
        return list(torch.autograd.grad(losses.sum(), list(net.parameters())))

    expected, wrong = [gradient(0), gradient(1)], list[int]()

    def run(place: int) -> None:
        for _ in range(5):
            pairs = zip(gradient(place), expected[place], strict=True)
            if not all(torch.equal(a, b) for a, b in pairs):
                wrong.append(place)

    threads = [threading.Thread(target=run, args=(place,)) for place in (0, 1, 0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_layer_by_two_names_is_put_back() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    net.add_module("again", net[0])
    weight = net[0].weight
    replaced = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    assert functional_call(net, replaced, torch.ones(1, 4)).abs().max() == 0
    assert net[0].weight is weight
