"""Progress on the terminal: a bar where there is one, else a line every ten seconds at most."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from tqdm import tqdm

from wgan_cli.evaluation.evaluation import EvaluationResult
from wgan_cli.training.callbacks.protocol import Callback, Point
from wgan_cli.training.trainer import Trainer

log = logging.getLogger(__name__)
_QUIET_SECONDS = 10.0
_SHOWN = 5


class Progress(Callback):
    """Steps, time left, the Wasserstein estimate and images/s."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._last_line = 0.0
        self._costs_told = False
        self._refused_told: set[str] = set()

    def on_start(self, trainer: Trainer) -> None:
        """Open the bar, or note the time."""
        self._last_line = time.monotonic()
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=trainer.steps,
                initial=trainer.recorded,
                unit="step",
                dynamic_ncols=True,
                smoothing=0.05,
                mininterval=0.2,
            )

    def on_rollback(self, trainer: Trainer) -> None:
        """Say why, and count from there."""
        last = trainer.returns.last
        log.warning(
            "%s Back to step %d, learning rates times %g from there.",
            last.reason,
            last.to,
            last.lr_factor,
        )
        if self._bar is not None:
            self._bar.n = trainer.step
            self._bar.refresh()

    def on_step(self, trainer: Trainer, point: Point) -> None:
        """Show the newest numbers; they are read at log points alone, so nothing waits for them."""
        if point.findings is not None:
            self._tell(point.findings, point.step)
        if self._bar is not None:
            if point.log:
                self._bar.set_postfix_str(_numbers(point), refresh=False)
            self._bar.update()
        elif point.log and (self._silent_long() or point.step == trainer.steps):
            self._last_line = time.monotonic()
            left = (trainer.steps - point.step) * point.values.get("throughput/step_ms", 0)
            log.info(
                "step %d of %d, %s, %.0f s left",
                point.step,
                trainer.steps,
                _numbers(point),
                left / 1000,
            )

    def _tell(self, findings: EvaluationResult, step: int) -> None:
        """What the first evaluation cost, and why a metric gave no number, each once."""
        if not self._costs_told:
            self._costs_told = True
            parts = sorted(findings.seconds.items(), key=lambda part: -part[1])
            shown = ", ".join(f"{metric} {seconds:.2f}" for metric, seconds in parts[:_SHOWN])
            log.info(
                "evaluation at step %d: %.2f s (%s)", step, sum(findings.seconds.values()), shown
            )
        for metric, reason in findings.failures.items():
            if metric not in self._refused_told:
                self._refused_told.add(metric)
                log.warning("%s has no value at step %d: %s.", metric, step, reason)

    def _silent_long(self) -> bool:
        return time.monotonic() - self._last_line >= _QUIET_SECONDS

    def on_end(self, trainer: Trainer, error: BaseException | None) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


def _numbers(point: Point) -> str:
    estimate = point.values["critic/wasserstein"]
    speed = point.values.get("throughput/images_per_second", 0.0)
    return f"Wasserstein estimate {estimate:.4g}, {speed:.0f} images/s"
