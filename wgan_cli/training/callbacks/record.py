"""`metrics.jsonl` and `status.json`."""

from __future__ import annotations

import time
from typing import Any

from wgan_cli.errors import WganError
from wgan_cli.run_folder import RunFolder, now
from wgan_cli.training.callbacks.protocol import Callback, ObservedTrainer, Point


class Record(Callback):
    """Write a line of `metrics.jsonl` for each measured step, and `status.json` at log points.

    `final` holds the newest value of every tag.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.final: dict[str, float] = {}
        self._costs: dict[str, float] = {}
        self._started = now()
        self._clock = time.perf_counter()
        self._seconds_before = 0.0

    def on_start(self, trainer: ObservedTrainer, point: Point) -> None:
        """Drop the lines that a resume measures again; continue the clock of earlier starts."""
        self._drop_after(trainer.recorded)
        before = self.folder.read_status()
        started, seconds = before.get("started"), before.get("seconds")
        costs = before.get("evaluation_seconds")
        if trainer.step or trainer.inner:
            self._started = started if isinstance(started, str) else self._started
            self._seconds_before = seconds if isinstance(seconds, float) else 0.0
            self._costs.update(costs if isinstance(costs, dict) else {})
        self._clock = time.perf_counter()
        self._write(trainer, "running")

    def on_rollback(self, trainer: ObservedTrainer) -> None:
        """Drop the lines that are measured again, and write the rollback at once."""
        self._drop_after(trainer.recorded)
        self._write(trainer, "running")

    def on_step(self, trainer: ObservedTrainer, point: Point) -> None:
        """Write the scalars."""
        if point.evaluation is not None:
            for metric, seconds in point.evaluation.seconds.items():
                self._costs[metric] = self._costs.get(metric, 0.0) + seconds
        if point.scalars:
            self.final.update(point.scalars)
            self.folder.append_metrics(point.step, point.scalars)
        if point.log:
            self._write(trainer, "running")

    def on_end(self, trainer: ObservedTrainer, error: BaseException | None) -> None:
        """Write the outcome."""
        if error is None:
            self._write(trainer, "finished", 0, "")
        elif isinstance(error, WganError):
            self._write(trainer, error.state, error.exit_code, str(error))
        else:
            self._write(trainer, "failed", 1, f"{type(error).__name__}: {error}")

    def _drop_after(self, step: int) -> None:
        self.folder.forget_metrics_after(step)
        self.final.clear()
        for line in self.folder.read_metrics():
            self.final.update({tag: value for tag, value in line.items() if tag != "step"})

    def _write(
        self, trainer: ObservedTrainer, state: str, exit_code: int | None = None, message: str = ""
    ) -> None:
        status: dict[str, Any] = {
            "state": state,
            "exit_code": exit_code,
            "step": trainer.step,
            "steps": trainer.steps,
            "message": message,
            "final": self.final,
            "returns": trainer.returns.state(),
            "started": self._started,
            "ended": now() if exit_code is not None else None,
            "evaluation_seconds": {metric: round(s, 3) for metric, s in self._costs.items()},
            "seconds": round(self._seconds_before + time.perf_counter() - self._clock, 3),
        }
        self.folder.write_status(status)
