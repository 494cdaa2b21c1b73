"""The callbacks that write `metrics.jsonl` and `status.json`, and watch `train.log`."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace

from wgan_cli.files import LogFile
from wgan_cli.run_folder import RunFolder
from wgan_cli.run_status import RunStatus, now, read_status, write_status
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
        """Delete the lines of steps that will be repeated. Restore the times of a resumed run."""
        self._drop_after(trainer.recorded)
        before = read_status(self.folder.path)
        if trainer.step or trainer.inner:
            self._started = before.started or self._started
            self._seconds_before = before.seconds or 0.0
            self._costs.update(before.evaluation_seconds)
        self._clock = time.perf_counter()
        self._write_running(trainer)

    def on_rollback(self, trainer: ObservedTrainer) -> None:
        """Delete the lines of steps that will be repeated. Write the rollback into the status."""
        self._drop_after(trainer.recorded)
        self._write_running(trainer)

    def on_step(self, trainer: ObservedTrainer, point: Point) -> None:
        """Write the scalars and, at log points, the status."""
        if point.evaluation is not None:
            for metric, seconds in point.evaluation.seconds.items():
                self._costs[metric] = self._costs.get(metric, 0.0) + seconds
        if point.scalars:
            self.final.update(point.scalars)
            self.folder.append_metrics(point.step, point.scalars)
        if point.log:
            self._write_running(trainer)

    def on_end(self, trainer: ObservedTrainer, error: BaseException | None) -> None:
        """Write the status of the finished or failed run."""
        status = self._status(trainer)
        if error is None:
            status = replace(status, state="finished", exit_code=0, ended=now())
        else:
            status = status.failed(error)
        write_status(self.folder.path, status)

    def _drop_after(self, step: int) -> None:
        self.folder.forget_metrics_after(step)
        self.final.clear()
        for line in self.folder.read_metrics():
            self.final.update({tag: value for tag, value in line.items() if tag != "step"})

    def _write_running(self, trainer: ObservedTrainer) -> None:
        write_status(self.folder.path, self._status(trainer))

    def _status(self, trainer: ObservedTrainer) -> RunStatus:
        return RunStatus(
            state="running",
            step=trainer.step,
            steps=trainer.steps,
            final=self.final,
            returns=[asdict(rollback) for rollback in trainer.rollbacks],
            started=self._started,
            evaluation_seconds={metric: round(s, 3) for metric, s in self._costs.items()},
            seconds=round(self._seconds_before + time.perf_counter() - self._clock, 3),
        )


@dataclass(eq=False)
class LogWatch(Callback):
    """End the run at the next log point if `train.log` could not be written."""

    file: LogFile

    def on_step(self, trainer: ObservedTrainer, point: Point) -> None:
        """At log points, raise the error of a failed write. `Checkpoints` has saved the step."""
        if point.log:
            self._raise()

    def on_end(self, trainer: ObservedTrainer, error: BaseException | None) -> None:
        """Raise the error of a write that failed since the last log point."""
        self._raise()

    def _raise(self) -> None:
        if self.file.failure is not None:
            raise self.file.failure
