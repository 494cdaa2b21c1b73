"""Signals, where several processes train one run: what one hears, all know at the same step."""

from __future__ import annotations

from torch import Tensor

from wgan_cli.errors import InterruptedRunError, PreemptedError, WganError
from wgan_cli.stop_signals import StopSignals


class SharedStopSignals(StopSignals):
    """What all ranks know of each other's signals since the newest update: a stop is at one step.

    `signals` are this process's own; `heard` how many ranks were asked to end, were interrupted,
    and can wait no longer.
    """

    NOTHING = (False, False, False)
    # On a GPU every look waits for it, so that only every so many steps have one, on all ranks.
    STEPS_A_LOOK = 8

    def __init__(self, signals: StopSignals) -> None:
        super().__init__()
        self.signals = signals
        self.heard: Tensor | None = None
        self._steps = 0
        self.at_once = signals.at_once  # type: ignore[method-assign]

    def asked(self) -> tuple[bool, bool, bool]:
        """What this process has to tell."""
        error = self.signals.requested()
        if error is None:
            return self.NOTHING
        interrupted = isinstance(error, InterruptedRunError)
        return not interrupted, interrupted, self.signals.overdue() is not None

    def requested(self) -> WganError | None:
        """The error to end the run by, on all ranks. Asked once a step, by all of them."""
        self._steps += 1
        if not self._on_cpu() and self._steps % self.STEPS_A_LOOK:
            return None
        return self._why()

    def _why(self) -> WganError | None:
        ended, interrupted, _ = self._heard()
        if interrupted:
            return InterruptedRunError("Interrupted.")
        return PreemptedError("The run was asked to stop.") if ended else None

    def overdue(self) -> WganError | None:
        """The same, once a signal has waited as long as a step may take.

        Nothing on a GPU, where every look would be waited for and steps are short.
        """
        return self._why() if self._on_cpu() and self._heard()[2] else None

    def _on_cpu(self) -> bool:
        return self.heard is None or self.heard.device.type == "cpu"

    def _heard(self) -> tuple[bool, ...]:
        return self.NOTHING if self.heard is None else tuple(map(bool, self.heard.tolist()))
