"""Starts a command as several processes on this machine, and starts them again where one of them dies."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from upstairs.errors import UpstairsError

AGAIN = 75  # the status of a process that lost another one: the run can go on from its checkpoint
MOST = 20  # restarts
TOGETHER = 5.0  # seconds from the end of one process to that of the others
WATCHED = "UPSTAIRS_WATCHED"  # set in a process whose standard input ends with the one that started it


def is_one_of_several() -> bool:
    """Returns whether torchrun, or `launch`, started this process."""
    return {"RANK", "WORLD_SIZE"} <= os.environ.keys()


def launch(words: Sequence[str], processes: int, *, again: str = "") -> None:
    """Runs `upstairs WORDS` as this number of processes, and ends this one with the status of the whole.

    A process that is killed ends all of them, and they are started again up to 20 times. One that ends by itself, as
    after a user's mistake or Ctrl-C, ends the others within seconds.

    Args:
        again: a word that is added for a new start, such as --resume.
    """
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: asked.append(number))
    for restart in range(MOST + 1):
        children = _start([*words, *[again] * (restart > 0 and again not in ("", *words))], processes)
        try:
            status, what = _watch(children, asked)
        finally:
            for child in children:
                child.kill()
                child.wait()
        if asked or status != AGAIN:
            sys.exit(130 if status == AGAIN else status)
        print(f"upstairs: {what}; starting again", file=sys.stderr, flush=True)
    raise UpstairsError(f"processes were killed {MOST + 1} times: look for what kills them, such as too little memory")


def _start(words: Sequence[str], processes: int) -> list[subprocess.Popen[bytes]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common |= {WATCHED: 1, "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo"}
    children = []
    for place in range(processes):
        own = {name: str(value) for name, value in (common | {"RANK": place, "LOCAL_RANK": place}).items()}
        command = [sys.executable, "-m", "upstairs", *words]
        children.append(subprocess.Popen(command, env={**os.environ, **own}, stdin=subprocess.PIPE))
    return children


def _watch(children: Sequence[subprocess.Popen[bytes]], asked: Sequence[int]) -> tuple[int, str]:
    """Waits for all processes, and passes signals on; returns the status of the whole, and what ended them."""
    sent, deadline = 0, float("inf")
    while True:
        found = [child.poll() for child in children]
        ended = [status for status in found if status]
        killed = [f"{place} (signal {-status})" for place, status in enumerate(found) if status and status < 0]
        own = [status for status in ended if status > 0 and status != AGAIN]
        if ended:
            deadline = min(deadline, time.monotonic() + (0.5 if killed and not asked else TOGETHER))
        if None not in found or time.monotonic() > deadline:
            dead = f"process {', '.join(killed)} of {len(children)} was killed"
            return (own[0] if own else AGAIN if ended else 0), dead if killed else "processes lost each other"
        for _ in range(len(asked) - sent):
            for child in children:
                if child.poll() is None:
                    child.terminate()
        sent = len(asked)
        time.sleep(0.05)


def watch_parent() -> None:
    """Ends this process when the one that started it has ended, however that ended."""
    if os.environ.pop(WATCHED, None) is None:
        return

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(AGAIN)

    threading.Thread(target=wait, daemon=True, name="upstairs-parent").start()
