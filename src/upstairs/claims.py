"""Jobs that workers on any machines share: one worker has a job, and what a dead one left is taken over.

A claim of a job is a folder `JOB.lock` with one empty file, which is named after its owner and whose modification time
is the owner's last sign of life. Each step is one that network file systems do as a whole. A claim is made by renaming
a folder to that name, which fails where one is. It is taken over by renaming the file within, which one of several
takers can do, and no taker that has looked at an earlier owner. Ages are differences of the file server's own times.
"""

import _thread
import errno
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from upstairs.console import tell_user
from upstairs.errors import UpstairsError, reason

SILENCE = 60.0  # seconds without a sign of life after which a worker counts as dead
T = TypeVar("T")


class Lost(Exception):
    """The job is another worker's now."""


def worker() -> str:
    """Returns a name for this worker: host, process, boot of the machine (with the space of its process ids)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        boot += f".{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:  # not Linux
        boot = ""
    return f"{platform.node().replace('/', '_')[:64]}@{os.getpid()}@{boot}@{uuid.uuid4().hex[:8]}"


def name_worker(name: str) -> str:
    """Returns a worker's name for people."""
    host, process, *_ = [*name.split("@"), "", ""]
    return f"process {process} on {host}" if process else "another process"


def unheard(silence: float) -> str:
    """Returns why a job is another worker's now."""
    return f"another worker took it over, since this process gave no sign of life for {silence:g} s"


def wait_a_little(times: int, silence: float) -> None:
    """Waits before the next look at what others do: longer each time, up to a thirtieth of the silence."""
    time.sleep(min(0.1 * 1.5 ** min(times, 20), silence / 30))


def is_gone(name: str) -> bool:
    """Returns True if a worker was a process of this machine that has ended; of others nothing is known."""
    own, theirs = worker().split("@"), name.split("@")
    if len(theirs) < 3 or not theirs[2] or theirs[2] != own[2]:
        return False
    try:
        os.kill(int(theirs[1]), 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's
        return False
    return False


class Watch:
    """Tells who is silent where there is no common clock: whose sign of life has not changed for so many seconds."""

    def __init__(self, silence: float) -> None:
        self.silence = silence
        self.seen: dict[object, tuple[str, float]] = {}

    def silent(self, who: object, sign: str) -> bool:
        """Returns True if `sign` has been the same for longer than the silence, as seen by this watch."""
        last, since = self.seen.get(who, (None, 0.0))
        if last != sign:
            since = time.monotonic()
            self.seen[who] = (sign, since)
        return time.monotonic() - since > self.silence


@dataclass
class Life:
    """The state of a job that is being done: `lost` if another worker has it now."""

    lost: bool = False


@contextmanager
def signs_of_life(give: Callable[[], None], *, silence: float) -> Iterator[Life]:
    """A context in which a thread calls `give` four times in `silence` seconds.

    Where `give` raises `Lost`, since this process was suspended or cut off for longer than that, the work in the
    context is interrupted as by Ctrl-C, and the context ends without an error.
    """
    life, ended = Life(), threading.Event()
    in_main = threading.current_thread() is threading.main_thread()

    def run() -> None:
        while not ended.wait(silence / 4):
            try:
                give()
            except Lost:
                if not ended.is_set():
                    life.lost = True
                    if in_main:
                        _thread.interrupt_main()
                return
            except Exception:  # the file server or the database does not answer: perhaps the next time
                continue

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield life
    except KeyboardInterrupt:
        if not life.lost:
            raise
    finally:
        ended.set()
        thread.join()


@dataclass
class Claim:
    """A claim of a job.

    Args:
        mine: it is this worker's; else another's, which is alive.
        owner: that other worker, or the dead one whose claim was taken over; "" if there is none.
    """

    mine: bool
    owner: str = ""


@contextmanager
def claim(lock: Path, *, silence: float = SILENCE) -> Iterator[Claim]:
    """A context in which this worker has a job, or learns who has it.

    Args:
        lock: the folder of the claim, beside what the job makes.

    Raises:
        UpstairsError: the place of the folder cannot be written.
    """
    me = worker()
    try:
        taken = _take(lock, me, silence)
    except OSError as error:
        raise UpstairsError(
            f"a claim could not be made in {lock.parent} ({reason(error)}): choose another `out`, in a folder that all "
            "workers can write"
        ) from error

    def beat() -> None:
        if me not in _owners(lock):  # not by the path of the file, of which a network file system has a memory
            raise Lost
        os.utime(lock / me)

    if not taken.mine:
        yield taken
        return
    try:
        with signs_of_life(beat, silence=silence):
            yield taken
    finally:
        with suppress(OSError):
            (lock / me).unlink()
        with suppress(OSError):  # another worker's, if it was taken over
            lock.rmdir()


def each_once(jobs: Mapping[Path, Callable[[], T]], *, silence: float = SILENCE) -> list[T]:
    """Does every job under its claim and returns what they return; those that others have are waited for.

    Args:
        jobs: a function by the path of its claim. A job that is done already is quick, and goes on where it stopped.
    """
    found: dict[Path, T] = {}
    said, waits = "", 0
    while len(found) < len(jobs):
        busy, before = [], len(found)
        for lock in [lock for lock in jobs if lock not in found]:
            with claim(lock, silence=silence) as one:
                if one.mine:
                    if one.owner:
                        tell_user(f"{lock.stem}: goes on where {name_worker(one.owner)} was stopped")
                    found[lock] = jobs[lock]()
                else:
                    busy.append(f"{lock.stem} ({name_worker(one.owner)})")
            if one.mine and lock not in found:
                tell_user(f"{lock.stem}: given up, {unheard(silence)}")
        waits = waits + 1 if busy and len(found) == before else 0
        if waits:
            if said != (said := f"waiting for {', '.join(busy)}"):
                tell_user(said)
            wait_a_little(waits, silence)
    return [found[lock] for lock in jobs]


def _take(lock: Path, me: str, silence: float) -> Claim:
    """Makes a claim, or takes a dead worker's over, or returns the owner."""
    new = lock.with_name(f".{lock.name}.{me}")
    new.mkdir(parents=True)
    try:
        (new / me).touch()
        now = (new / me).stat().st_mtime
        with suppress(OSError):  # an empty one: its owner ended within its release
            lock.rmdir()
        try:
            new.rename(lock)
            return Claim(True)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY) and not lock.exists():
                raise
        other = next(iter(_owners(lock)), "")
        if not other or other == me:  # released just now; or the rename was done, and its answer was lost on the way
            return Claim(bool(other))
        with suppress(FileNotFoundError):  # released, or another taker was faster
            with (lock / other).open("rb") as file:  # opened, since a network file system remembers the times of files
                silent = now - os.fstat(file.fileno()).st_mtime > silence
            if silent or is_gone(other):
                os.utime(lock / other)  # the file is to be fresh from the moment that it is ours
                (lock / other).rename(lock / me)
                return Claim(True, other)
        return Claim(False, other)
    finally:
        with suppress(OSError):
            (new / me).unlink()
        with suppress(OSError):
            new.rmdir()


def _owners(lock: Path) -> list[str]:
    try:
        return [file.name for file in lock.iterdir() if file.name.count("@") == 3]  # there are hidden files on NFS
    except FileNotFoundError:
        return []
