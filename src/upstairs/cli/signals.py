"""Signals of the command's own process."""

import signal
from typing import NoReturn


def interrupt_on_terminate() -> None:
    """SIGTERM stops a run as Ctrl-C does: it is saved, and says how to go on."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
