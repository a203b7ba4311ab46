"""A stop by Ctrl-C or SIGTERM waits until what is being done, such as a meta-step and its validation, is whole."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SAME_STOP = 0.1  # seconds: signals that are closer are one stop, since `timeout` and wrappers of commands send two


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether SIGINT or SIGTERM was received; if so, raises KeyboardInterrupt at the end.

    A second signal raises KeyboardInterrupt at once. The handlers are those of the process, so they are installed in
    its main thread only, where the signals are not ignored (as in background jobs), and restored at the end.
    """
    asked: list[float] = []

    def handle(*_: object) -> None:
        if asked and time.monotonic() - asked[0] > SAME_STOP:
            raise KeyboardInterrupt
        asked.append(time.monotonic())

    before = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM"):  # Windows delivers no SIGTERM
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                    before[number] = signal.signal(number, handle)
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        raise KeyboardInterrupt
