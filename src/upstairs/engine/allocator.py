"""What belongs to the whole process: its memory and its threads; put back when it is no longer needed."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from weakref import WeakSet, finalize

_MMAP_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -4, -3, -1  # of glibc's malloc.h
_LARGEST_THRESHOLD = 32 * 2**20  # that glibc takes
_LOCK = Lock()
_HOLDERS: WeakSet[object] = WeakSet()  # whose steps keep the heap as it is
_KEPT: list[bool] = []  # does the whole process keep freed memory?


def keep_freed_memory() -> None:
    """Let this process reuse large freed blocks, instead of asking the system for each anew (glibc only, else nothing).

    glibc gives every block above 32 MiB back when it is freed, and the next one like it faults in all its pages again:
    a Conv4 step on 360 images took 1.6 times as long. For a process that is ours (the command line), not a library.
    """
    _mallopt(_MMAP_MAX, 0)  # no block by mmap
    _mallopt(_TRIM_THRESHOLD, 2**31 - 1)  # free memory at the heap's top is kept
    _KEPT.append(True)


def steady_heap(holder: object) -> None:
    """Keep what a step frees for the next step, as far as its blocks are below 32 MiB, while `holder` lives (glibc).

    glibc maps blocks from 128 KiB on, until one of them is freed, and gives the top of its heap back to the system: the
    pages of a step's tensors then fault in again in each step, 40,000 times for four tasks of Conv4. Whoever has set
    malloc's variables in the environment has decided otherwise, and nothing is touched. When the last holder is gone,
    the top of the heap is given back as glibc would, and so is what was kept.
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
    """Where `when`, torch's operations run in the thread that calls them: for steps whose tensors are small.

    To wake a second thread takes longer than a small product, and where the other cores are busy it takes as long as
    they please: 25 tasks of a network of two layers of 40 took 2.5 ms on two idle cores, 15 ms where one of them was
    busy, and 1.1 ms in one thread.
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


@contextmanager
def large_blocks_reused() -> Iterator[None]:
    """While it lasts, blocks above 32 MiB come from the heap too: for steps whose single tensors are that large."""
    if _KEPT or not _HOLDERS:
        yield
        return
    _mallopt(_MMAP_MAX, 0)
    try:
        yield
    finally:
        _mallopt(_MMAP_MAX, 65536)  # glibc's default


@contextmanager
def large_blocks_returned(size: int) -> Iterator[None]:
    """While it lasts, blocks from `size` bytes on go back to the system when they are freed.

    For steps that shall take little memory: in the heap, what lies between the blocks alive was half of it.
    """
    if _KEPT or not _HOLDERS:
        yield
        return
    _mallopt(_MMAP_THRESHOLD, size)
    try:
        yield
    finally:
        _mallopt(_MMAP_THRESHOLD, _LARGEST_THRESHOLD)


def release_freed_memory() -> None:
    """Give back to the system what `steady_heap` keeps: memory has run out."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _mallopt(parameter: int, value: int) -> None:
    with suppress(OSError, AttributeError):  # no glibc: macOS, Windows, musl
        ctypes.CDLL("libc.so.6").mallopt(parameter, value)
