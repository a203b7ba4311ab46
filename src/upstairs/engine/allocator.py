"""Memory and threads of the process: settings that make meta-steps faster, restored afterwards."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from threading import Lock
from weakref import WeakSet, finalize

_MMAP_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -4, -3, -1  # of glibc's malloc.h
_LARGEST_THRESHOLD = 32 * 2**20  # the largest that glibc accepts
_LOCK = Lock()
_HOLDERS: WeakSet[object] = WeakSet()  # learners whose steps reuse the heap
_KEPT: list[bool] = []  # not empty: the whole process keeps freed memory


def keep_freed_memory() -> None:
    """Lets this process reuse freed memory blocks of any size (with glibc; otherwise it does nothing).

    glibc returns every freed block above 32 MiB to the system, and the pages of the next one fault in again: a Conv4
    step on 360 images took 1.6 times as long. Only the command line calls this, since it concerns the whole process.
    """
    _mallopt(_MMAP_MAX, 0)  # no block by mmap
    _mallopt(_TRIM_THRESHOLD, 2**31 - 1)  # free memory at the heap's top is kept
    _KEPT.append(True)


def steady_heap(holder: object) -> None:
    """Keeps freed blocks below 32 MiB in the heap for the next step, while `holder` lives (with glibc).

    By default glibc maps blocks from 128 KiB on and returns the top of its heap to the system: the pages of a step's
    tensors then fault in again in each step, 40,000 times for four tasks of Conv4. It does nothing where malloc's
    variables are set in the environment. When the last holder is gone, the default is restored and memory is returned.
    """
    if holder in _HOLDERS or _KEPT or any(name.startswith("MALLOC_") for name in os.environ):
        return
    with _LOCK:
        if not _HOLDERS:
            with suppress(OSError, AttributeError):
                libc = ctypes.CDLL("libc.so.6")
                libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
                libc.free(libc.malloc(ctypes.c_size_t(31 * 2**20)))  # freed, a mapped block lifts the size of the next
            _mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        _HOLDERS.add(holder)
    finalize(holder, _let_go)


def _let_go() -> None:
    if not _KEPT and next(iter(_HOLDERS), None) is None:  # its length still counts the one that goes
        _mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_THRESHOLD)  # what glibc takes after a freed block of that size
        release_freed_memory()


class one_thread:
    """A context in which torch uses one thread if `when` is True: for steps whose tensors are small.

    Waking a second thread takes longer than a small product, above all on busy cores: 25 tasks of a network of two
    layers of 40 took 2.5 ms on two idle cores, 15 ms where one of them was busy, and 1.1 ms in one thread.
    """

    def __init__(self, *, when: bool) -> None:
        self.when = when

    def __enter__(self) -> None:
        if self.when:
            import torch

            self.before = torch.get_num_threads()
            torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        if self.when:
            import torch

            torch.set_num_threads(self.before)


def large_blocks_reused() -> AbstractContextManager[None]:
    """A context in which blocks above 32 MiB come from the heap too: for steps whose single tensors are that large."""
    return _allocating(_MMAP_MAX, 0, after=65536)  # glibc's default


def large_blocks_returned(size: int) -> AbstractContextManager[None]:
    """A context in which freed blocks from `size` bytes on are returned to the system: for steps that save memory.

    In the heap, the gaps between live blocks took half of the memory.
    """
    return _allocating(_MMAP_THRESHOLD, size, after=_LARGEST_THRESHOLD)


@contextmanager
def _allocating(parameter: int, value: int, *, after: int) -> Iterator[None]:
    if _KEPT or not _HOLDERS:
        yield
        return
    _mallopt(parameter, value)
    try:
        yield
    finally:
        _mallopt(parameter, after)


def release_freed_memory() -> None:
    """Returns the memory that `steady_heap` keeps to the system."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _mallopt(parameter: int, value: int) -> None:
    with suppress(OSError, AttributeError):  # no glibc: macOS, Windows, musl
        ctypes.CDLL("libc.so.6").mallopt(parameter, value)
