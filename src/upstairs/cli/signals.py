"""Signals of the command's own process."""

import signal
from typing import NoReturn


def interrupt_on_terminate() -> None:
    """Makes SIGTERM stop a run as Ctrl-C does: the run is saved and can be resumed."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
