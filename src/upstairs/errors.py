"""Errors that a user can correct. A message says what was given, what is needed and what to do."""

import re
from collections.abc import Container
from functools import partial
from types import UnionType
from typing import Any


class UpstairsError(Exception):
    """Input that cannot be used. The command line prints its message and exits with status 2.

    A message has names of options and arguments in backticks, such as `inner_lr`. Where several processes work on one
    run, `by_all` says that each of them raises it, and `lost` that others ended or cannot be reached.
    """

    by_all = False
    lost = False

    def for_command(self, options: Container[str]) -> str:
        """Returns the message with names among `options` written as flags: --inner-lr."""

        def flag(match: re.Match[str]) -> str:
            return f"--{match[1].replace('_', '-')}" if match[1] in options else match[0]

        return re.sub(r"`([a-z_]+)`", flag, str(self))


def reason(error: BaseException) -> str:
    """Returns the first line of another library's error, at most 200 characters: it may hold the bytes of a file."""
    text = str(error).strip() or type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in text.splitlines()[0][:200])


def check_type(name: str, value: Any, kinds: type | UnionType | tuple[type, ...], need: str) -> None:
    """Raises UpstairsError if an argument is of none of these types; a bool is no number.

    Args:
        need: what to give instead.
    """
    if not isinstance(value, kinds) or isinstance(value, bool):
        shown = " ".join(repr(value).split())  # of modules it has many lines
        raise UpstairsError(f"`{name}` is {shown:.60}, of type {type(value).__name__}: give {need}")


class InputWarning(UserWarning):
    """Inputs can be used, and the answers may not be what one hopes for."""


class TruncationWarning(InputWarning):
    """Texts are longer than what a model reads, and were cut."""


class UnfamiliarWarning(InputWarning):
    """Inputs are unlike those that a run was trained on."""


class NonFiniteError(UpstairsError):
    """A task's loss or the meta-gradient is NaN or infinite. `index` is the task's place in the meta-batch."""

    def __init__(self, message: str, *, index: int) -> None:
        super().__init__(message)
        self.index = index

    def __reduce__(self) -> Any:  # keywords are no part of an exception's `args`
        return partial(NonFiniteError, index=self.index), self.args
