"""Handle Ctrl-C and other stop signals: finish the current step if it is short, save and stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from wgan_cli.errors import InterruptedRunError, PreemptedError, WganError
from wgan_cli.process_control import signals_named

if TYPE_CHECKING:
    from torch import Tensor

# Requests to end: by a scheduler, a closed terminal, and Ctrl-Break on Windows.
STOP_REQUESTS = signals_named("SIGTERM", "SIGHUP", "SIGBREAK")
# Slurm sends SIGUSR2 shortly before a job's time limit.
_TIME_LIMIT = signals_named("SIGUSR2")
# After a signal, wait this many seconds for the end of a step. Schedulers kill after 20 or 30.
PATIENCE = 5.0


class StopNow(BaseException):
    """Raised if a stop signal comes during work that can be repeated. The run ends with `error`."""

    def __init__(self, error: WganError) -> None:
        super().__init__(str(error))
        self.error = error


class Terminated(BaseException):
    """Raised by a stop signal while the command is not training."""


class StopSignals:
    """A context that records stop signals. A second Ctrl-C ends the process at once.

    Stop signals are SIGINT (Ctrl-C), SIGTERM, SIGHUP (a closed terminal) except under nohup,
    SIGBREAK, and SIGUSR2 if it has a handler. Slurm sends SIGUSR2 shortly before a job's time
    limit, and submitit installs a handler for it. Windows has SIGINT and SIGBREAK only. Python
    allows handlers only in the main thread, so a context in another thread records no signal.
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
        """Send a recorded SIGUSR2 again, to the previous handler. Call this after saving the run.

        If submitit installed that handler, it requeues the job and ends the process.
        """
        if self._seen in _TIME_LIMIT:
            signal.raise_signal(self._seen)

    def requested(self) -> WganError | None:
        """Return the error that ends the run, or None if no signal came."""
        if self._seen is None:
            return None
        if self._seen == signal.SIGINT:
            return InterruptedRunError("Interrupted.")
        return PreemptedError("The run was asked to stop.")

    def overdue(self) -> WganError | None:
        """Return the same error as `requested`, but only `PATIENCE` seconds after the signal."""
        return self.requested() if time.monotonic() - self._since > PATIENCE else None

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within the context, raise `StopNow` when a signal comes, or at once if one has come."""
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
            # A second signal must not raise while the run is being saved.
            self._at_once = False
            raise StopNow(error)


class SharedStopSignals(StopSignals):
    """The stop signals of all ranks, which are exchanged so that all ranks stop at the same step.

    `signals` records the signals of this process. In every update, the ranks add up their flags
    from `local`. `counts` (3,) comes from the last update. It is proportional to the numbers of
    ranks with a request to end, an interrupt and an overdue signal.
    """

    NONE = (False, False, False)
    # Reading `counts` on a GPU waits for the device, so all ranks read it only every 8th step.
    READ_EVERY = 8

    def __init__(self, signals: StopSignals) -> None:
        super().__init__()
        self.signals = signals
        self.counts: Tensor | None = None
        self._steps = 0
        self.at_once = signals.at_once  # type: ignore[method-assign]

    def local(self) -> tuple[bool, bool, bool]:
        """Return this process's flags: a request to end, an interrupt, an overdue signal."""
        error = self.signals.requested()
        if error is None:
            return self.NONE
        interrupted = isinstance(error, InterruptedRunError)
        return not interrupted, interrupted, self.signals.overdue() is not None

    def requested(self) -> WganError | None:
        """Return the error that must end the run, or None. All ranks get the same result.

        Call this once per step on every rank.
        """
        self._steps += 1
        if not self._on_cpu() and self._steps % self.READ_EVERY:
            return None
        return self._error()

    def overdue(self) -> WganError | None:
        """Return the error that must end the run if a stop signal is overdue, otherwise None.

        A signal is overdue if it came more than `PATIENCE` seconds ago. On a GPU, always return
        None: reading `counts` would make every update wait for the device. Steps on a GPU are
        short, so the check by `requested` every few steps is enough.
        """
        return self._error() if self._on_cpu() and self._read()[2] else None

    def _error(self) -> WganError | None:
        ended, interrupted, _ = self._read()
        if interrupted:
            return InterruptedRunError("Interrupted.")
        return PreemptedError("The run was asked to stop.") if ended else None

    def _on_cpu(self) -> bool:
        return self.counts is None or self.counts.device.type == "cpu"

    def _read(self) -> tuple[bool, ...]:
        return self.NONE if self.counts is None else tuple(map(bool, self.counts.tolist()))


@contextmanager
def leaving_when_asked() -> Iterator[None]:
    """Within the context, raise `Terminated` if a stop signal other than Ctrl-C comes.

    An inner `StopSignals` context replaces these handlers while it is active.
    """

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    with _handling(_requests_to_end(), terminate):
        yield


def not_under_nohup(numbers: Iterable[int]) -> tuple[int, ...]:
    """Return the signals without SIGHUP if it is ignored, as it is under nohup."""
    kept = signals_named("SIGHUP")
    return tuple(n for n in numbers if n not in kept or signal.getsignal(n) != signal.SIG_IGN)


def _requests_to_end() -> tuple[int, ...]:
    late = (number for number in _TIME_LIMIT if callable(signal.getsignal(number)))
    return (*not_under_nohup(STOP_REQUESTS), *late)


@contextmanager
def _handling(numbers: tuple[int, ...], handler: Any) -> Iterator[None]:
    """Install the handler within the context; do nothing outside the main thread."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = [(n, signal.signal(n, handler)) for n in numbers if in_main_thread]
    try:
        yield
    finally:
        for number, former in before:
            signal.signal(number, former)
