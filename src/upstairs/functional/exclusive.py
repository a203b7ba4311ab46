"""One learner at a time runs in a process, so that any number of threads may share networks.

A call of a learner replaces weights of its network for a moment, and some settings of torch that hold for the whole
process. Other learners, models and threads may use the same network: they wait until the call has put everything back.
Torch's own threads make one call parallel.
"""

import functools
import os
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


class _Held(threading.local):
    depth: int = 0  # calls of this thread that are inside each other


_HELD = _Held()
_LOCK = threading.Lock()


class alone:
    """A context in which no other thread runs a learner; contexts of one thread may be inside each other."""

    def __enter__(self) -> None:
        if not _HELD.depth:
            self.locked = not _works_for_another()
            if self.locked:
                _LOCK.acquire()
        _HELD.depth += 1

    def __exit__(self, *_: object) -> None:
        _HELD.depth -= 1
        if not _HELD.depth and self.locked:
            _LOCK.release()


def _works_for_another() -> bool:
    """Returns whether this is a thread of autograd, in a backward pass for one that holds the lock and waits."""
    inside = torch._C._current_graph_task_id() != -1
    return inside and isinstance(threading.current_thread(), threading._DummyThread)


def exclusive(function: Callable[P, R]) -> Callable[P, R]:
    """Returns the function, which then runs inside `alone`."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with alone():
            return function(*args, **kwargs)

    return run


def _unlock() -> None:
    """Unlocks in a forked process, whose other threads are gone."""
    global _LOCK
    _LOCK = threading.Lock()
    _HELD.depth = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)
