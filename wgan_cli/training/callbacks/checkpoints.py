"""The callback that writes checkpoints and deletes old ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from wgan_cli.run_folder import RunFolder
from wgan_cli.training.callbacks.protocol import Callback, ObservedTrainer, Point
from wgan_cli.training.checkpoint import (
    checkpoint_name,
    find_checkpoints,
    prune_checkpoints,
    save_checkpoint,
    step_of,
)

KEPT = 2


@dataclass(eq=False)
class Checkpoints(Callback):
    """Write checkpoints; keep the two newest and the one with the lowest `wasserstein/exact`.

    With `keep_every`, also keep checkpoints whose step is a multiple of `keep_every`. With
    `from_start`, save a checkpoint before the first step, because a rollback needs one. `facts`
    (the config, the samples' shape and more) is stored with the trainer's state, so that generating
    samples from a checkpoint needs no other file.
    """

    phase = "checkpoint"

    folder: RunFolder
    facts: dict[str, Any]
    keep_every: int | None = None
    from_start: bool = field(default=False, kw_only=True)
    # Distance, number of samples and path of the best checkpoint.
    _best: tuple[float, float, Path] | None = field(default=None, init=False)

    def on_start(self, trainer: ObservedTrainer, point: Point) -> None:
        """Delete checkpoints of later steps, because they are damaged. Find the best checkpoint."""
        self._forget_after(trainer.step)
        if self.from_start and not find_checkpoints(self.folder.checkpoints):
            self.save(trainer)

    def on_rollback(self, trainer: ObservedTrainer) -> None:
        """Save a checkpoint at once, so that a rollback counts even if the process is killed."""
        self.save(trainer)
        self._forget_after(trainer.step)

    def on_step(self, trainer: ObservedTrainer, point: Point) -> None:
        """If a checkpoint is due, save it and delete checkpoints that are no longer needed."""
        if point.save:
            self.save(trainer)
            self._note_best(point.step, point.scalars)
            kept = [self._best[2]] if self._best else []
            if self.keep_every is not None:
                saved = find_checkpoints(self.folder.checkpoints)
                kept += [path for path in saved if step_of(path) % self.keep_every == 0]
            prune_checkpoints(self.folder.checkpoints, KEPT, kept)

    def on_stop(self, trainer: ObservedTrainer) -> None:
        """Save a checkpoint, even in the middle of a step."""
        self.save(trainer)

    def save(self, trainer: ObservedTrainer) -> None:
        """Write a checkpoint of the trainer's current step."""
        path = self.folder.checkpoints / checkpoint_name(trainer.step)
        self.folder.sync()
        versions = {"torch": str(torch.__version__)}
        save_checkpoint(path, {**self.facts, "versions": versions, **trainer.state_dict()})

    def _forget_after(self, step: int) -> None:
        """Delete the checkpoints of steps after `step`. Find the best remaining checkpoint."""
        for path in find_checkpoints(self.folder.checkpoints):
            if step_of(path) > step:
                path.unlink()
        self._best = None
        for line in self.folder.read_metrics():
            self._note_best(int(line["step"]), line)

    def _note_best(self, step: int, scalars: Mapping[str, float]) -> None:
        path = self.folder.checkpoints / checkpoint_name(step)
        # An edited file may hold one of the two.
        distance, n = scalars.get("wasserstein/exact"), scalars.get("wasserstein/exact_n")
        if distance is None or n is None or not path.exists():
            return
        # Distances from different numbers of samples are not comparable.
        if self._best is None or self._best[1] != n or distance < self._best[0]:
            self._best = (distance, n, path)
