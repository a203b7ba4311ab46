"""Waiting threads spin while the cores are free and sleep while others use them; results stay the same."""

import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import upstairs
from upstairs.core import Examples, Task
from upstairs.engine.meta_backward import meta_backward
from upstairs.functional import waiting
from upstairs.functional.waiting import cores_used_by_others, wait_considerately
from upstairs.learners import maml

pytestmark = pytest.mark.skipif(cores_used_by_others() is None, reason="the use of cores is read from Linux's /proc")
SET = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")


def fresh(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in SET} | variables
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)


SPINS = """
import os, time, torch
from upstairs.functional.waiting import IdleTeams
torch.set_num_threads(2)
cores = len(os.sched_getaffinity(0))

def seconds():  # CPU time of both threads, where the second one waits for most of the time
    x, before = torch.zeros(40_000), os.times()
    for _ in range(100):
        x.add_(1)
        time.sleep(0.004)
    after = os.times()
    return after.user + after.system - before.user - before.system

teams = IdleTeams()
alone = seconds()
teams.hold(cores)
time.sleep(0.1)
held = seconds()
teams.release()
print(alone, held, seconds(), torch.get_num_threads())
"""


def test_idle_teams_keep_waiting_threads_from_spinning_until_they_are_released() -> None:
    """It is CPU time that is compared, which does not depend on what else the machine does; GNU OpenMP only."""
    if "libgomp" not in fresh("import torch; print(open('/proc/self/maps').read())").stdout:
        pytest.skip("torch uses another OpenMP than GNU's")
    alone, held, after, threads = map(float, fresh(SPINS).stdout.split())
    assert held < 0.5 * alone and held < 0.5 * after
    assert threads == 2


class Cores:
    """Stands for the machine: the cores that others use."""

    used = 0.0

    def __call__(self) -> float:
        return self.used


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cores]:
    """A machine of our own, which is looked at every millisecond, and two threads of torch."""
    own, before = Cores(), torch.get_num_threads()
    monkeypatch.setattr(waiting, "cores_used_by_others", lambda: own)
    monkeypatch.setattr(waiting, "_SECONDS", 0.001)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    for name in SET:
        monkeypatch.delenv(name, raising=False)
    waiting._HOLDERS.clear()
    until(lambda: not watching())
    torch.set_num_threads(2)
    yield own
    torch.set_num_threads(before)
    waiting._HOLDERS.clear()
    until(lambda: not watching())


def until(true, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def named(name: str) -> int:
    import threading

    return sum(thread.name == name for thread in threading.enumerate())


def watching() -> bool:
    return named("upstairs-waiting") > 0


def test_a_team_is_held_while_others_compute_and_released_afterwards(cores: Cores) -> None:
    learner = nn.Linear(2, 2)
    wait_considerately(learner)
    wait_considerately(learner)
    assert named("upstairs-waiting") == 1
    time.sleep(0.05)
    assert not named("upstairs-idle-team")
    cores.used = 1.0
    until(lambda: named("upstairs-idle-team") == 1)
    cores.used = 0.0
    until(lambda: not named("upstairs-idle-team"))
    cores.used = 1.0
    until(lambda: named("upstairs-idle-team") == 1)
    del learner
    gc.collect()
    until(lambda: not watching() and not named("upstairs-idle-team"))
    assert torch.get_num_threads() == 2


def test_no_team_is_held_for_one_thread(cores: Cores) -> None:
    torch.set_num_threads(1)
    learner = nn.Linear(2, 2)
    cores.used = 1.9
    wait_considerately(learner)
    time.sleep(0.05)
    assert watching() and not named("upstairs-idle-team")
    torch.set_num_threads(2)  # as after a step of small tensors
    until(lambda: named("upstairs-idle-team") == 1)


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_the_variables_of_a_user_stay_in_force(cores: Cores, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1000")
    learner = nn.Linear(2, 2)
    wait_considerately(learner)
    assert not watching()


def test_a_meta_gradient_is_the_same_with_an_idle_team(cores: Cores) -> None:
    torch.manual_seed(0)
    examples = Examples(torch.randn(4, 10, 3), torch.arange(2).repeat(4, 5))
    task, learner = Task(examples, examples), maml(nn.Sequential(nn.Linear(3, 20_000), nn.Linear(20_000, 2)), way=2)
    gradients = []
    for used in (0.0, 1.0):
        cores.used = used
        until(lambda used=used: watching() == bool(gradients) and named("upstairs-idle-team") == int(used))
        learner.zero_grad()
        meta_backward(learner, task)
        gradients.append([p.grad.clone() for p in learner.parameters() if p.grad is not None])
        until(watching)  # a meta-step begins it
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_the_use_of_cores_is_measured() -> None:
    """A process that computes is seen, and the computing of this one is not: where the machine does nothing else."""
    program = """
import time
from upstairs.functional.waiting import cores_used_by_others
measure = cores_used_by_others()
end = time.monotonic() + 1
while time.monotonic() < end:
    pass
print(measure())
"""
    alone = float(fresh(program).stdout)
    assert 0 <= alone <= len(os.sched_getaffinity(0))
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        measure, shares = cores_used_by_others(), []
        assert measure is not None
        end = time.monotonic() + 60
        while max(shares, default=0.0) < 0.2 and time.monotonic() < end:
            time.sleep(0.5)
            shares.append(measure())
    finally:
        busy.kill()
        busy.wait()
    assert max(shares) >= 0.2


OWN_ENCODER = """
import torch
def net():
    module = torch.nn.Flatten()
    module.size, module.mean, module.std = 2, [0.5] * 3, [0.5] * 3
    return module
"""


def test_a_model_and_an_encoder_wait_considerately_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A photo took 105 ms instead of 14 beside other processes while only trainings and evaluations did."""
    (tmp_path / "own_encoder_here.py").write_text(OWN_ENCODER, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    rows = torch.randn(6, 4).numpy()
    model = upstairs.adapt((list(rows), ["a", "b"] * 3), encoder=None)
    encoder = upstairs.encoder("own_encoder_here:net")
    assert {model, encoder} <= set(waiting._HOLDERS)
