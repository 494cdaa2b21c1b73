"""Roll a diverged run back to its newest checkpoint, with lower learning rates."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wgan_cli.errors import DivergedError
from wgan_cli.training.checkpoint import load_newest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RollbackRecord:
    """A rollback from step `at` to step `to`. `lr_factor` then multiplies the learning rates."""

    at: int
    to: int
    lr_factor: float
    reason: str


@dataclass(frozen=True)
class Rollback:
    """Implements `on_divergence=rollback`.

    A run may roll back at most `times` times; rollbacks before a resume count too. A rollback loads
    the newest checkpoint. If the run diverged again without passing the step of the previous
    divergence, a checkpoint older than that of the previous rollback is loaded. Each rollback
    multiplies all learning rates by `lr_factor`. Batches and noise depend only on (seed, step), so
    the repeated steps use the same ones.
    """

    checkpoints: Path
    times: int
    lr_factor: float

    def state_to_load(
        self, error: DivergedError, at: int, so_far: Sequence[RollbackRecord]
    ) -> dict[str, Any]:
        """Choose the checkpoint to load and return its state, with the new rollback added.

        The rollback is added to the state's list of rollbacks. `at` is the step at which the run
        diverged. `so_far` holds the earlier rollbacks. Raises `DivergedError` if the run has
        already rolled back `times` times, the maximum, or if there is no checkpoint.
        """
        if len(so_far) >= self.times:
            times = f"It went back {len(so_far)} times already."
            raise DivergedError(error.what, f"{times} {error.advice}")
        state, _, warnings = load_newest(self.checkpoints)
        for warning in warnings:
            log.warning("%s", warning)
        if so_far and at <= so_far[-1].at:
            # A lower rate did not help, so the weights in that checkpoint may already be the cause.
            older, _, _ = load_newest(self.checkpoints, before=so_far[-1].to)
            state = older or state
        if state is None:
            raise DivergedError(error.what, f"There is no checkpoint to go back to. {error.advice}")
        factor = self.lr_factor * (so_far[-1].lr_factor if so_far else 1.0)
        record = RollbackRecord(at, state["step"], factor, error.what)
        return {**state, "returns": [asdict(rollback) for rollback in (*so_far, record)]}
