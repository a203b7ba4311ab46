"""Signals of the command's own process."""

import signal
from typing import NoReturn


def interrupt_on_terminate() -> None:
    """Makes SIGTERM stop the command as Ctrl-C does; a training saves itself first (see `training/stops.py`)."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    if hasattr(signal, "SIGTERM"):
        signal.signal(signal.SIGTERM, interrupt)
