"""Checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from wgan_cli.run_folder import RunFolder
from wgan_cli.training.callbacks.protocol import Callback, Point
from wgan_cli.training.checkpoint import (
    checkpoint_name,
    find_checkpoints,
    prune_checkpoints,
    save_checkpoint,
    step_of,
)
from wgan_cli.training.trainer import Trainer

KEPT = 2


class Saving(Callback):
    """Writes checkpoints; keeps the two newest and the best, by `wasserstein/exact`.

    With `keep_every`, every such step's is kept too; with `from_start` the networks are saved
    before their first step here, so that there always is something to go back to. `facts` go into
    every checkpoint beside the trainer's state: the config and the sample's shape, so that sampling
    needs neither the run folder's other files nor the data.
    """

    phase = "checkpoint"

    def __init__(
        self,
        folder: RunFolder,
        facts: dict[str, Any],
        keep_every: int | None = None,
        *,
        from_start: bool = False,
    ) -> None:
        self.folder = folder
        self.facts = facts
        self.keep_every = keep_every
        self.from_start = from_start
        # The distance, of how many samples, and the checkpoint.
        self._best: tuple[float, float, Path] | None = None

    def on_start(self, trainer: Trainer) -> None:
        """Find the best of an earlier start; drop later checkpoints, which were damaged."""
        self._drop_after(trainer.step)
        self._find_best()
        if self.from_start and not find_checkpoints(self.folder.checkpoints):
            self.save(trainer)

    def on_rollback(self, trainer: Trainer) -> None:
        """Note the return in the checkpoint, so that it counts also after a kill."""
        self.save(trainer)
        self._drop_after(trainer.step)
        self._find_best()

    def on_step(self, trainer: Trainer, point: Point) -> None:
        """Save where due."""
        if point.save:
            self.save(trainer)
            self._note_best(point.step, point.values)
            prune_checkpoints(self.folder.checkpoints, KEPT, self._kept())

    def on_stop(self, trainer: Trainer) -> None:
        """Save where the run is, amid a step too."""
        self.save(trainer)

    def save(self, trainer: Trainer) -> Path:
        """Write a checkpoint of the trainer as it is."""
        path = self.folder.checkpoints / checkpoint_name(trainer.step)
        self.folder.sync()
        versions = {"torch": str(torch.__version__)}
        save_checkpoint(path, {**self.facts, "versions": versions, **trainer.state_dict()})
        return path

    def _drop_after(self, step: int) -> None:
        for path in find_checkpoints(self.folder.checkpoints):
            if step_of(path) > step:
                path.unlink()

    def _kept(self) -> list[Path]:
        """What stays beside the newest."""
        kept = [self._best[2]] if self._best else []
        if self.keep_every is not None:
            found = find_checkpoints(self.folder.checkpoints)
            kept += [path for path in found if step_of(path) % self.keep_every == 0]
        return kept

    def _find_best(self) -> None:
        self._best = None
        for point in self.folder.read_metrics():
            self._note_best(int(point["step"]), point)

    def _note_best(self, step: int, values: Mapping[str, float]) -> None:
        path = self.folder.checkpoints / checkpoint_name(step)
        if "wasserstein/exact" not in values or not path.exists():
            return
        distance, n = values["wasserstein/exact"], values["wasserstein/exact_n"]
        # Distances of other numbers of samples have another floor.
        if self._best is None or self._best[1] != n or distance < self._best[0]:
            self._best = (distance, n, path)
