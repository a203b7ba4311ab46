"""How threads wait for each other: spinning while this process has its cores for itself, sleeping while others compute.

A thread of GNU OpenMP that waits for another spins for some milliseconds before it sleeps. That makes a step fast on
idle cores, and takes the core from the very thread that is waited for where another process needs it: a 60-way step
took 4 to 9 times as long while one other process computed. The variables that change this (OMP_WAIT_POLICY,
GOMP_SPINCOUNT) are read once, when torch is imported, and sleeping costs a quarter of the speed on idle cores.

But OpenMP hardly spins at all while a process has more OpenMP threads than cores, and it looks anew at each wait. So
while others compute, a thread here holds a team of OpenMP threads that have nothing to do. Neither the number of
torch's threads nor any result changes. Linux with GNU OpenMP only: elsewhere nothing is done.
"""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from weakref import WeakSet

_SECONDS = 0.5  # from one look at the cores to the next
_TAKEN = 0.25  # cores: the threads of this process lack at least so much, and their waiting does harm
_CALM = 4  # looks without such a lack until threads spin again
_SHARED = 40_000  # elements of an operation that torch divides among its threads (from 32,768 on)
_HOLDERS: WeakSet[object] = WeakSet()
_WATCH: list[threading.Thread] = []


def wait_considerately(holder: object) -> None:
    """Lets waiting threads of this process sleep while other processes use its cores, as long as `holder` lives.

    A thread looks at the use of the cores twice a second. It does nothing where one of OpenMP's own variables is set.
    """
    _HOLDERS.add(holder)
    if _WATCH and _WATCH[0].is_alive():  # a forked process has the list and not the thread
        return
    if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ) or cores_used_by_others() is None:
        return
    _WATCH[:] = [threading.Thread(target=_watch, daemon=True, name="upstairs-waiting")]
    _WATCH[0].start()


def cores_used_by_others() -> Callable[[], float] | None:
    """Returns a function that measures: cores of this process that others have used since its last call. None: unknown.

    Time that a virtual machine's host takes away is no other process's: sleeping would not help against it.
    """
    try:
        own = os.sched_getaffinity(0)
        ticks = os.sysconf("SC_CLK_TCK")
        _busy_ticks(own)
    except (OSError, AttributeError, ValueError, IndexError):
        return None
    last = [_busy_ticks(own) / ticks, sum(os.times()[:2]), os.times().elapsed]

    def measure() -> float:
        now = [_busy_ticks(own) / ticks, sum(os.times()[:2]), os.times().elapsed]
        all_cores, ours, seconds = (after - before for after, before in zip(now, last, strict=True))
        last[:] = now
        return max(all_cores - ours, 0.0) / max(seconds, 1 / ticks)

    return measure


def _busy_ticks(cores: set[int]) -> int:
    """Returns the clock ticks that the cores were not idle, since the machine's start."""
    total = 0
    for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
        name, *fields = line.split()
        if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in cores:
            user, nice, system, _, _, irq, softirq = map(int, fields[:7])
            total += user + nice + system + irq + softirq
    return total


def _watch() -> None:
    measure, teams, calm = cores_used_by_others(), IdleTeams(), 0
    cores = len(os.sched_getaffinity(0))
    pause = threading.Event()
    try:
        while measure is not None:
            pause.wait(_SECONDS)
            if not len(_HOLDERS):
                return
            lacking = measure() + _own_threads() - cores > _TAKEN
            calm = 0 if lacking else calm + 1
            if lacking:
                teams.hold(cores)
            elif calm == _CALM:
                teams.release()
    finally:
        teams.release()


def _own_threads() -> int:
    """Returns the number of threads that torch uses (in a thread of its own, since the first call in one fixes it)."""
    import torch

    found = []
    asking = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    asking.start()
    asking.join()
    return found[0]


class IdleTeams:
    """Teams of OpenMP threads that have nothing to do; while there are any, waiting threads sleep instead of spinning.

    More threads than cores must exist: N threads of torch on N cores need one team, fewer threads need more teams.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.hosts: list[threading.Thread] = []

    def hold(self, cores: int) -> None:
        """Starts what is missing."""
        self.hosts = [host for host in self.hosts if host.is_alive()]  # one ends at once where torch has one thread
        threads = _own_threads()
        if threads < 2:
            return
        wanted = min(max(-(-cores // (threads - 1)) - 1, 1), 8)
        for _ in range(wanted - len(self.hosts)):
            self.hosts.append(threading.Thread(target=self._host, daemon=True, name="upstairs-idle-team"))
            self.hosts[-1].start()

    def release(self) -> None:
        """Ends all teams and waits for them."""
        self.stop.set()
        for host in self.hosts:
            host.join()
        self.stop, self.hosts = threading.Event(), []

    def _host(self) -> None:
        import torch

        stop = self.stop
        with suppress(RuntimeError):
            if torch.get_num_threads() > 1:  # which holds for this thread's life
                torch.zeros(_SHARED, device="cpu").add_(1)  # OpenMP keeps the team while this thread lives
                stop.wait()
