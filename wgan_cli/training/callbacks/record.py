"""The run's own small files: `metrics.jsonl` and `status.json`."""

from __future__ import annotations

import time
from typing import Any

from wgan_cli.errors import WganError
from wgan_cli.run_folder import RunFolder, now
from wgan_cli.training.callbacks.protocol import Callback, Point
from wgan_cli.training.trainer import Trainer


class Record(Callback):
    """A line of `metrics.jsonl` wherever something was measured; `status.json` follows.

    `final` holds the newest value of every tag, `evaluation_seconds` what each metric took in all.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.final: dict[str, float] = {}
        self._costs: dict[str, float] = {}
        self._started = now()
        self._clock = time.perf_counter()
        self._seconds_before = 0.0

    def on_start(self, trainer: Trainer) -> None:
        """Drop what a resume measures again; go on with the clock of an earlier start."""
        self._forget_after(trainer.recorded)
        before = self.folder.read_status()
        started, seconds = before.get("started"), before.get("seconds")
        costs = before.get("evaluation_seconds")
        if trainer.step or trainer.inner:
            self._started = started if isinstance(started, str) else self._started
            self._seconds_before = seconds if isinstance(seconds, float) else 0.0
            self._costs.update(costs if isinstance(costs, dict) else {})
        self._clock = time.perf_counter()
        self._write(trainer, "running")

    def on_rollback(self, trainer: Trainer) -> None:
        """Drop what comes again, and tell of the return at once."""
        self._forget_after(trainer.recorded)
        self._write(trainer, "running")

    def on_step(self, trainer: Trainer, point: Point) -> None:
        """Write what was measured."""
        if point.findings is not None:
            for metric, seconds in point.findings.seconds.items():
                self._costs[metric] = self._costs.get(metric, 0.0) + seconds
        if point.values:
            self.final.update(point.values)
            self.folder.append_metrics(point.step, point.values)
        if point.log:
            self._write(trainer, "running")

    def on_end(self, trainer: Trainer, error: BaseException | None) -> None:
        """The outcome."""
        if error is None:
            self._write(trainer, "finished", 0, "")
        elif isinstance(error, WganError):
            self._write(trainer, error.state, error.exit_code, str(error))
        else:
            self._write(trainer, "failed", 1, f"{type(error).__name__}: {error}")

    def _forget_after(self, step: int) -> None:
        self.folder.forget_metrics_after(step)
        self.final.clear()
        for point in self.folder.read_metrics():
            self.final.update({tag: value for tag, value in point.items() if tag != "step"})

    def _write(
        self, trainer: Trainer, state: str, exit_code: int | None = None, message: str = ""
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
