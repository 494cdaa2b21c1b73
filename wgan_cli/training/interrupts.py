"""Ctrl-C and SIGTERM: finish the step, save, and say how to go on."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from wgan_cli.errors import InterruptedRunError, PreemptedError, WganError


class StopSignals:
    """Inside the context a first signal is only noted; a second Ctrl-C ends the process at once.

    In any thread but the main one, where Python allows no handlers, it notes nothing.
    """

    def __init__(self) -> None:
        self._seen: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def requested(self) -> WganError | None:
        """The error to end the run by, or None."""
        if self._seen is None:
            return None
        if self._seen == signal.SIGTERM:
            return PreemptedError("The run was asked to stop.")
        return InterruptedRunError("Interrupted.")

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._seen = number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
