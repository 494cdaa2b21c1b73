"""Errors shown to users.

Each class has an exit code and the state to record for a run that fails with it. A message is one
or two plain sentences: the mistake, the allowed values, and what to type instead.
"""


class WganError(Exception):
    """Base class of errors that end a command with a message and an exit code, not a traceback."""

    exit_code = 1
    state = "failed"

    def __str__(self) -> str:
        """Return the message as one line, even if it contains a file name with line breaks."""
        return " ".join(super().__str__().splitlines())


class ConfigError(WganError):
    """A setting is unknown, has the wrong type, is out of range or would have no effect."""

    exit_code = 2


class DataError(WganError):
    """The data set is missing, broken, too small or cannot be fetched."""

    exit_code = 3


class CheckpointError(WganError):
    """A checkpoint is missing or damaged, is from another run, or names untrusted classes."""

    exit_code = 4


class DamagedCheckpointError(CheckpointError):
    """A checkpoint is truncated or altered; an older one can be used instead."""


class DivergedError(WganError):
    """A loss, gradient or weight became NaN or infinite. The message is `what`, then `advice`."""

    exit_code = 5
    state = "diverged"

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(f"{what} {advice}".strip())
        self.what = what
        self.advice = advice


class OutOfMemoryError(WganError):
    """The device or the machine has too little memory for the run."""

    exit_code = 6


class DiskError(WganError):
    """The disk is full or the run folder cannot be written."""

    exit_code = 7


class LoggerError(WganError):
    """A logger, usually one that a user wrote, raised an exception."""


class FolderInUseError(WganError):
    """The run folder already holds a run, or another process is writing to it."""

    exit_code = 8


class RankError(WganError):
    """In a run with several processes, another process failed or was lost."""

    def __init__(self, message: str, exit_code: int = 1, state: str = "failed") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.state = state


class PreemptedError(WganError):
    """The run got a stop signal such as SIGTERM, saved its state and can be resumed."""

    exit_code = 75
    state = "preempted"


class InterruptedRunError(WganError):
    """The user pressed Ctrl-C. The run saved its state and can be resumed."""

    exit_code = 130
    state = "interrupted"
