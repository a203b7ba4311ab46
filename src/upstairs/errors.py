"""The errors a user can mend: what was given, what is needed, what to do, in one sentence."""


class UpstairsError(Exception):
    """Input that cannot be used. The command line prints its message and exits with status 2."""


class NonFiniteError(UpstairsError):
    """A task's loss or the meta-gradient is NaN or infinite. `index` is the task's place in the meta-batch."""

    def __init__(self, message: str, *, index: int) -> None:
        super().__init__(message)
        self.index = index
