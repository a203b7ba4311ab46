"""Errors that a user can correct. A message says what was given, what is needed and what to do."""

import re
from collections.abc import Container


class UpstairsError(Exception):
    """Input that cannot be used. The command line prints its message and exits with status 2.

    A message has names of options and arguments in backticks, such as `inner_lr`.
    """

    def for_command(self, options: Container[str]) -> str:
        """Returns the message with names among `options` written as flags: --inner-lr."""

        def flag(match: re.Match[str]) -> str:
            return f"--{match[1].replace('_', '-')}" if match[1] in options else match[0]

        return re.sub(r"`([a-z_]+)`", flag, str(self))


class NonFiniteError(UpstairsError):
    """A task's loss or the meta-gradient is NaN or infinite. `index` is the task's place in the meta-batch."""

    def __init__(self, message: str, *, index: int) -> None:
        super().__init__(message)
        self.index = index
