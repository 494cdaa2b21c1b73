"""The callback that shows progress: a bar on a terminal, otherwise log lines."""

from __future__ import annotations

import logging
import time

from wgan_cli.evaluation.evaluation import EvaluationResult
from wgan_cli.progress_bar import ProgressBar
from wgan_cli.training.callbacks.protocol import Callback, ObservedTrainer, Point

log = logging.getLogger(__name__)
_QUIET_SECONDS = 10.0
_SHOWN = 5


class Progress(Callback):
    """Show the step, the time left, the Wasserstein estimate and images/s.

    Without a terminal, log a line at most every ten seconds.
    """

    def __init__(self) -> None:
        self._bar: ProgressBar | None = None
        self._last_line = 0.0
        self._costs_shown = False
        self._explained: set[str] = set()

    def on_start(self, trainer: ObservedTrainer, point: Point) -> None:
        """Open the bar on a terminal; otherwise start the clock for the log lines."""
        self._last_line = time.monotonic()
        bar = ProgressBar(
            total=trainer.steps,
            initial=trainer.recorded,
            unit="step",
            smoothing=0.05,
            mininterval=0.2,
        )
        self._bar = None if bar.disable else bar

    def on_rollback(self, trainer: ObservedTrainer) -> None:
        """Log the reason for the rollback, and set the bar back."""
        last = trainer.rollbacks[-1]
        message = "%s Back to step %d, learning rates times %g from there."
        log.warning(message, last.reason, last.to, last.lr_factor)
        if self._bar is not None:
            self._bar.n = trainer.step
            self._bar.refresh()

    def on_step(self, trainer: ObservedTrainer, point: Point) -> None:
        """Show the progress, with the numbers of the last log point."""
        if point.evaluation is not None:
            self._report(point.evaluation, point.step)
        if self._bar is not None:
            if point.log:
                self._bar.set_postfix_str(_numbers(point), refresh=False)
            self._bar.update()
        elif point.log and (
            time.monotonic() - self._last_line >= _QUIET_SECONDS or point.step == trainer.steps
        ):
            self._last_line = time.monotonic()
            numbers = _numbers(point)
            left = (trainer.steps - point.step) * point.scalars.get("throughput/step_ms", 0) / 1000
            log.info("step %d of %d, %s, %.0f s left", point.step, trainer.steps, numbers, left)

    def _report(self, evaluation: EvaluationResult, step: int) -> None:
        """Log the time of the first evaluation. If a metric has no value, log the reason once."""
        if not self._costs_shown:
            self._costs_shown = True
            costs = sorted(evaluation.seconds.items(), key=lambda cost: -cost[1])
            shown = ", ".join(f"{metric} {seconds:.2f}" for metric, seconds in costs[:_SHOWN])
            total = sum(evaluation.seconds.values())
            log.info("evaluation at step %d: %.2f s (%s)", step, total, shown)
        for metric, reason in evaluation.failures.items():
            if metric not in self._explained:
                self._explained.add(metric)
                log.warning("%s has no value at step %d: %s.", metric, step, reason)

    def on_end(self, trainer: ObservedTrainer, error: BaseException | None) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


def _numbers(point: Point) -> str:
    estimate = point.scalars["critic/wasserstein"]
    speed = point.scalars.get("throughput/images_per_second", 0.0)
    return f"Wasserstein estimate {estimate:.4g}, {speed:.0f} images/s"
