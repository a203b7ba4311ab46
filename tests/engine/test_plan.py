"""Plans keep to a budget, and running out of memory is an error that says what would fit."""

import gc
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError
from weakref import WeakSet

import pytest
import torch
from torch import nn

from helpers.tasks import WAY, blobs, sinusoids
from upstairs.core import squared_error
from upstairs.engine import allocator as process
from upstairs.engine.explain import explain
from upstairs.engine.meta_backward import meta_backward
from upstairs.engine.plan import LARGE, LARGEST_BLOCK, known_of, plan
from upstairs.errors import UpstairsError
from upstairs.functional.differentiate import FirstOrder
from upstairs.learners import SGD, GradientLearner, MemoryLearner, ProtoNet, maml
from upstairs.nets import conv4, mlp
from upstairs.settings import parse_bytes


def learner(steps: int = 5, size: int = 28) -> GradientLearner:
    return maml(conv4((1, size, size), width=16, norm="batch", out=WAY), way=WAY, steps=steps)


def test_a_budget_decides_chunks_and_recomputation() -> None:
    tasks = blobs(8, shot=1, query=5, shape=(1, 28, 28))
    roomy = plan(learner(12), tasks, memory="4 GiB")
    assert (roomy.chunk, roomy.recompute) == (8, False)
    tight = plan(learner(12), tasks, memory=roomy.one.peak // 2)
    assert tight.recompute and tight.chunk * tight.one.peak <= roomy.one.peak // 2
    assert tight.one.peak < roomy.one.peak / 2
    two = plan(learner(12), tasks, memory=int(2.5 * roomy.one.peak))
    assert two.chunk == 2
    assert "2 at a time" in str(two) and "MiB" in str(two)
    assert "more than the budget" in str(plan(learner(), tasks, memory=1000))


def test_no_tensor_is_above_the_block_size_that_faults() -> None:
    tasks = blobs(8, shot=1, query=15, shape=(1, 56, 56))
    made = plan(learner(size=56), tasks)
    assert made.chunk < 8
    assert made.chunk * made.one.largest <= LARGEST_BLOCK


def test_planning_changes_nothing() -> None:
    one, tasks = learner(), blobs(2, shape=(1, 28, 28))
    before = {k: v.clone() for k, v in one.state_dict().items()}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    plan(one, tasks)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in one.state_dict().items())
    assert all(p.grad is None for p in one.parameters())


@pytest.mark.parametrize("text", ["2 GiB", "2048 MiB", 2**31, str(2**31)])
def test_amounts(text: str | int) -> None:
    assert parse_bytes(text) == 2**31


@pytest.mark.parametrize("text", ["", "much", "-3", "2 XB", 0, "1.2.3 MB"])
def test_what_is_no_amount(text: str | int) -> None:
    with pytest.raises(UpstairsError, match="memory is"):
        parse_bytes(text)


def test_other_learners_have_a_plan_too() -> None:
    assert plan(ProtoNet(mlp((8,)), way=WAY), blobs(3)).chunk == 3
    regression = GradientLearner(mlp((1,), out=1), SGD(0.1), way=None, loss_fn=squared_error)
    assert plan(regression, sinusoids(25)).chunk == 25


SCRIPT = """
import re, resource, sys, torch
sys.path.insert(0, "tests")
from helpers.tasks import WAY, blobs
from upstairs.engine.meta_backward import meta_backward
from upstairs.errors import UpstairsError
from upstairs.learners import maml
from upstairs.nets import conv4
learner = maml(conv4((1, 28, 28), width=32, norm="batch", out=WAY), way=WAY, steps=25)
tasks = blobs(8, shot=1, query=5, shape=(1, 28, 28))
meta_backward(learner, tasks, memory="20 MiB")  # loads the code that it needs
used = int(next(l for l in open("/proc/self/status") if l.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 120 * 2**20, -1))
try:
    meta_backward(learner, tasks, chunk=8, recompute=False)
except UpstairsError as error:
    print(error)
    advised = re.search('memory="(.+)"', str(error))[1]
meta_backward(learner, tasks, memory=advised)
print("fits")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space of a process by Linux's means")
def test_running_out_of_memory_names_what_fits() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert "memory ran out" in done.stdout and "chunk=1, recompute=True takes about" in done.stdout, done.stderr[-2000:]
    assert "fits" in done.stdout, done.stderr[-2000:]
    assert "Traceback" not in done.stderr


def test_unequal_tasks_through_batch_norm_are_each_normalised_alone() -> None:
    """Padded to one size, in one call: as if each task had come alone."""
    torch.manual_seed(0)
    one = maml(conv4((1, 16, 16), width=4, norm="batch", out=WAY), way=WAY, inner_lr=0.1, steps=2)
    tasks = blobs(4, shot=3, shape=(1, 16, 16))
    for i in (1, 3):
        tasks.support.mask[i, 9:] = False
    expected = []
    for i in range(4):
        part = type(tasks)(*(type(e)(*(t[i : i + 1] for t in e)) for e in tasks))
        expected.append(meta_backward(one, part, chunk=1).losses)
    found = meta_backward(one, tasks).losses
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_many_small_calls_are_shared_by_all_tasks_and_large_tensors_are_not_folded() -> None:
    """Both encoders are shared and their tensors are above LARGE: what differs is the work in a call."""
    tasks = blobs(4, shot=1, query=2, shape=(1, 28, 28))
    body = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten())
    few, many = ProtoNet(body, way=WAY), MemoryLearner(body, 32 * 49, way=WAY, hidden=8, rows=8)
    assert plan(few, tasks).one.largest > LARGE and plan(many, tasks).one.largest > LARGE
    assert (plan(few, tasks).chunk, plan(many, tasks).chunk) == (1, 4)


def test_recomputed_steps_give_large_blocks_back_while_they_last(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(process, "_mallopt", lambda name, value: asked.append((name, value)))
    one, tasks = learner(2), blobs(1, shot=1, query=6, shape=(1, 28, 28))
    monkeypatch.setattr(process, "_HOLDERS", WeakSet([one]))
    monkeypatch.setattr(process, "_KEPT", [])
    meta_backward(one, tasks, recompute=True)
    largest = plan(one, tasks, recompute=True).one.largest
    assert asked == [(-3, largest // 8), (-3, 32 * 2**20)]
    meta_backward(one, tasks, recompute=False)
    assert len(asked) == 2


def test_the_heap_is_as_it_was_when_the_last_learner_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(process, "_mallopt", lambda name, value: asked.append((name, value)))
    monkeypatch.setattr(process, "_HOLDERS", WeakSet())
    monkeypatch.setattr(process, "_KEPT", [])
    one, two = (maml(mlp((8,), out=WAY), way=WAY) for _ in range(2))
    tasks = blobs(2)
    for each in (one, two, one):
        meta_backward(each, tasks)
    assert asked == [(-1, 2**31 - 1)]
    del each, one
    gc.collect()
    assert len(asked) == 1
    del two
    gc.collect()
    assert asked == [(-1, 2**31 - 1), (-1, 2**26)]


def test_a_plan_is_made_once_and_never_changes() -> None:
    """It is what `meta_backward` runs by and what `explain` prints, with the precision and the derivative asked for."""
    one, tasks = maml(mlp((8,), out=WAY), way=WAY), blobs(2)
    found = plan(one, tasks, chunk=1, recompute=True, differentiate=FirstOrder(), precision="bf16")
    assert (found.chunk, found.recompute, found.differentiate, found.precision) == (1, True, FirstOrder(), "bf16")
    assert found.one_thread and "in one thread" in str(found)
    with pytest.raises(FrozenInstanceError):
        found.chunk = 2
    meta_backward(one, tasks)
    (kept,) = known_of(one).plans.values()
    meta_backward(one, tasks)
    assert list(known_of(one).plans.values()) == [kept] == [plan(one, tasks)]
    assert explain(one, tasks).plan == kept and str(kept) in str(explain(one, tasks))
    meta_backward(one, blobs(3))
    assert len(known_of(one).plans) == 2
