"""Share stop signals between the processes of a run, so that all of them stop at the same step."""

from __future__ import annotations

from torch import Tensor

from wgan_cli.errors import InterruptedRunError, PreemptedError, WganError
from wgan_cli.stop_signals import StopSignals


class SharedStopSignals(StopSignals):
    """The stop signals of all ranks, as shared by the last update.

    `signals` holds those of this process. `counts` (3,) is proportional to the number of ranks with
    a request to end, with an interrupt, and with an overdue signal.
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
        """Return the error that must end the run, the same on all ranks; None without a signal.

        Call this once per step on every rank.
        """
        self._steps += 1
        if not self._on_cpu() and self._steps % self.READ_EVERY:
            return None
        return self._error()

    def overdue(self) -> WganError | None:
        """Return the error if a signal has waited for `PATIENCE` seconds, otherwise None.

        On a GPU, always return None: every update would wait for the device, and steps are short.
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
