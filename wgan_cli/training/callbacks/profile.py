"""The callback that traces a few steps for Perfetto and TensorBoard's profiler."""

from __future__ import annotations

import json
import logging
import os
import warnings
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from wgan_cli.errors import DiskError
from wgan_cli.files import write_atomically
from wgan_cli.run_folder import RunFolder, make_folder
from wgan_cli.training.callbacks.protocol import Callback, ObservedTrainer, Point

log = logging.getLogger(__name__)
_WARM_UP = 10
_TRACED = 10


class Profile(Callback):
    """Trace steps 11 to 20 after each start.

    If fewer than 20 steps are left, trace the second half of them. The file
    `profile/steps_<first>-<last>.pt.trace.json` is a Chrome trace with the trainer's phases as
    named ranges. It includes logging and saving, because this callback comes after `Checkpoints`.
    """

    phase = "profile"

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder.path / "profile"
        self._first = self._last = 0
        self._running: profile | None = None

    def on_start(self, trainer: ObservedTrainer, point: Point) -> None:
        """Choose the steps to trace."""
        before = trainer.step + min(_WARM_UP, (trainer.steps - trainer.step) // 2)
        self._first, self._last = before + 1, min(before + _TRACED, trainer.steps)
        self._follow(trainer)

    def on_step(self, trainer: ObservedTrainer, point: Point) -> None:
        """Start the profiler before the first traced step; write the trace after the last one."""
        self._follow(trainer)

    def on_end(self, trainer: ObservedTrainer, error: BaseException | None) -> None:
        """If the run ends during the trace, write the trace of the steps so far."""
        if self._running is not None:
            self._finish(trainer)

    def _follow(self, trainer: ObservedTrainer) -> None:
        if self._running is None and trainer.step == self._first - 1 < self._last:
            self._begin(trainer)
        elif self._running is not None and trainer.step >= self._last:
            self._finish(trainer)

    def _begin(self, trainer: ObservedTrainer) -> None:
        # Otherwise the profiler's library prints every start and every missing GPU on stderr. Its
        # errors are silent too, so `_finish` looks for kernels in the trace.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        activities = [ProfilerActivity.CPU]
        if trainer.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._running = profile(activities=activities)
        with warnings.catch_warnings():
            # Some versions of torch warn of this even if nothing is repeated, as here.
            warnings.filterwarnings("ignore", "(Warning: )?Profiler clears events", UserWarning)
            self._running.start()
        trainer.phase = record_function

    def _finish(self, trainer: ObservedTrainer) -> None:
        running, self._running = self._running, None
        assert running is not None
        trainer.phase = nullcontext
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)
        running.stop()
        # Do not trace again if a rollback repeats the first traced step.
        first, self._first = self._first, 0
        if trainer.step < first:
            message = (
                "profile: no trace: the run ended at step %d and the first to be traced was %d."
            )
            log.warning(message, trainer.step, first)
            return
        path = self.folder / f"steps_{first:08d}-{trainer.step:08d}.pt.trace.json"
        trace, kinds = _exported(running)
        make_folder(self.folder)
        write_atomically(path, trace, durable=False)
        log.info(
            "profile: steps %d to %d are in %s; drop it on https://ui.perfetto.dev, or see it in"
            " TensorBoard with torch-tb-profiler: tensorboard --logdir %s",
            first,
            trainer.step,
            path,
            self.folder,
        )
        if trainer.device.type == "cuda" and "kernel" not in kinds:
            log.warning(
                "profile: the trace shows no kernels, because CUPTI, NVIDIA's library for it, did"
                " not work here. KINETO_LOG_LEVEL=1 in the environment prints the reason."
            )


def _exported(running: profile) -> tuple[bytes, set[str]]:
    """Return the trace as JSON, and the kinds of its events.

    Raises `DiskError` if the temporary file cannot be written.
    """
    # The profiler can only write to a path, and does not report a full disk.
    with TemporaryDirectory() as temporary:
        path = Path(temporary, "trace.json")
        running.export_chrome_trace(str(path))
        try:
            trace = path.read_bytes()
            events = json.loads(trace)["traceEvents"]
        except (OSError, ValueError):
            raise DiskError(
                f"A trace cannot be written whole in {path.parent.parent}. Free some space there,"
                " or set TMPDIR to another folder."
            ) from None
    return trace, {event["cat"] for event in events if "cat" in event}
