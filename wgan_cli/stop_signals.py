"""Ctrl-C and requests to end: finish the step unless it takes too long, then save and stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

from wgan_cli.errors import InterruptedRunError, PreemptedError, WganError

# Seconds that a signal may wait for the end of a step. Schedulers kill after 30, some after 20.
PATIENCE = 5.0


class StopNow(BaseException):
    """A signal interrupted work that can be repeated. The run ends with `error`."""

    def __init__(self, error: WganError) -> None:
        super().__init__(str(error))
        self.error = error


class Terminated(BaseException):
    """The command was asked to end while it was not training."""


class StopSignals:
    """Inside the context the first signal is only recorded; a second Ctrl-C ends the process.

    SIGTERM asks a run to end. So does SIGHUP (a closed terminal), unless nohup ignores it, and
    SIGUSR2 if it has a handler, such as submitit's, which gets it before a job's time is over.
    Python allows handlers only in the main thread; in other threads no signal is recorded.
    """

    def __init__(self) -> None:
        self._seen: int | None = None
        self._since = float("inf")
        self._at_once = False
        self._handlers = ExitStack()

    def __enter__(self) -> StopSignals:
        handlers = _handling((signal.SIGINT, *_requests_to_end()), self._record)
        self._handlers.enter_context(handlers)
        return self

    def __exit__(self, *exception: object) -> None:
        self._handlers.close()

    def raise_again(self) -> None:
        """Pass SIGUSR2 on to the scheduler's own handler, now that the run is saved.

        Submitit's handler puts the job into the queue again and ends the process.
        """
        if self._seen == signal.SIGUSR2:
            signal.raise_signal(signal.SIGUSR2)

    def requested(self) -> WganError | None:
        """The error to end the run with, or None if no signal came."""
        if self._seen is None:
            return None
        if self._seen == signal.SIGINT:
            return InterruptedRunError("Interrupted.")
        return PreemptedError("The run was asked to stop.")

    def overdue(self) -> WganError | None:
        """The same, once the signal has waited for `PATIENCE` seconds."""
        return self.requested() if time.monotonic() - self._since > PATIENCE else None

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Context in which a signal raises `StopNow` at once."""
        try:
            self._at_once = True
            self._raise_if_requested()
            yield
        finally:
            self._at_once = False

    def _record(self, number: int, frame: FrameType | None) -> None:
        self._seen = number
        self._since = min(self._since, time.monotonic())
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self._at_once:
            self._raise_if_requested()

    def _raise_if_requested(self) -> None:
        error = self.requested()
        if error is not None:
            # While the run is being saved, a second signal must not raise.
            self._at_once = False
            raise StopNow(error)


@contextmanager
def leaving_when_asked() -> Iterator[None]:
    """Context in which a request to end raises `Terminated`.

    A run's `StopSignals` replace its handlers while that context is active.
    """

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    with _handling(_requests_to_end(), terminate):
        yield


def _requests_to_end() -> tuple[int, ...]:
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    if callable(signal.getsignal(signal.SIGUSR2)):
        numbers.append(signal.SIGUSR2)
    return tuple(numbers)


@contextmanager
def _handling(numbers: tuple[int, ...], handler: Any) -> Iterator[None]:
    """Set the handler inside the block. Outside the main thread do nothing."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = [(n, signal.signal(n, handler)) for n in numbers if in_main_thread]
    try:
        yield
    finally:
        for number, former in before:
            signal.signal(number, former)
