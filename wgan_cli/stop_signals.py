"""Ctrl-C and requests to end: finish the step if that is soon, save, and say how to go on."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from wgan_cli.errors import InterruptedRunError, PreemptedError, WganError

# Seconds that a signal waits for the end of a step. Schedulers kill after 30, some after 20.
PATIENCE = 5.0


class StopNow(BaseException):
    """A signal came where work can be dropped. `error` is what the run ends by."""

    def __init__(self, error: WganError) -> None:
        super().__init__(str(error))
        self.error = error


class Terminated(BaseException):
    """The command was asked to end while no training was under way."""


class StopSignals:
    """Inside the context a first signal is only noted; a second Ctrl-C ends the process at once.

    SIGTERM asks a run to end, and so does SIGHUP, a closed terminal, unless nohup has it ignored,
    and SIGUSR2 where somebody handles it, as submitit does before a job's time is over.
    In any thread but the main one, where Python allows no handlers, nothing is noted.
    """

    def __init__(self) -> None:
        self._seen: int | None = None
        self._since = float("inf")
        self._at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        self._before = _handle((signal.SIGINT, *_requests_to_end()), self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        _restore(self._before)

    def hand_on(self) -> None:
        """Give a scheduler's own signal, now that the run is saved, to the handler it came with.

        That of submitit puts the job into the queue again and ends the process.
        """
        if self._seen == signal.SIGUSR2:
            signal.raise_signal(signal.SIGUSR2)

    def requested(self) -> WganError | None:
        """The error to end the run by, or None."""
        if self._seen is None:
            return None
        if self._seen == signal.SIGINT:
            return InterruptedRunError("Interrupted.")
        return PreemptedError("The run was asked to stop.")

    def overdue(self) -> WganError | None:
        """The same, once the signal has waited as long as a step may take."""
        return self.requested() if time.monotonic() - self._since > PATIENCE else None

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, a signal raises `StopNow` wherever the code is."""
        try:
            self._at_once = True
            self._leave()
            yield
        finally:
            self._at_once = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._seen = number
        self._since = min(self._since, time.monotonic())
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self._at_once:
            self._leave()

    def _leave(self) -> None:
        error = self.requested()
        if error is not None:
            # A second signal finds the run being saved.
            self._at_once = False
            raise StopNow(error)


@contextmanager
def leaving_when_asked() -> Iterator[None]:
    """Inside, a request to end raises `Terminated`; a run's own `StopSignals` go before it."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = _handle(_requests_to_end(), leave)
    try:
        yield
    finally:
        _restore(before)


def _requests_to_end() -> tuple[int, ...]:
    heard = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
    handled = callable(signal.getsignal(signal.SIGUSR2))
    hang_up = (signal.SIGHUP,) if heard else ()
    return (signal.SIGTERM, *hang_up, *((signal.SIGUSR2,) if handled else ()))


def _handle(numbers: tuple[int, ...], handler: Any) -> dict[int, Any]:
    """Set the handler; returns those that were there. Other threads than the main one have none."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in numbers}


def _restore(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)
    before.clear()
