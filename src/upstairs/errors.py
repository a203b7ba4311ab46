"""The errors that a user can correct: what was given, what is needed and what to do, in one sentence."""

import re
from collections.abc import Container


class UpstairsError(Exception):
    """Input that cannot be used. The command line prints its message and exits with status 2.

    Names of options and arguments stand in backticks in the message, such as `inner_lr`: a Python user reads them so.
    """

    def for_command(self, options: Container[str]) -> str:
        """The message with the names among `options` written as flags: --inner-lr."""

        def flag(match: re.Match[str]) -> str:
            return f"--{match[1].replace('_', '-')}" if match[1] in options else match[0]

        return re.sub(r"`([a-z_]+)`", flag, str(self))


class NonFiniteError(UpstairsError):
    """A task's loss or the meta-gradient is NaN or infinite. `index` is the task's place in the meta-batch."""

    def __init__(self, message: str, *, index: int) -> None:
        super().__init__(message)
        self.index = index
