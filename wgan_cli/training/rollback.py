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
    """One rollback from step `at` to step `to`, and the factor on every learning rate since."""

    at: int
    to: int
    lr_factor: float
    reason: str


class Rollback:
    """`on_divergence=rollback`: at most `times` rollbacks in a run, those before a resume included.

    A rollback loads the newest checkpoint. If the run diverged no later than the previous time, it
    loads one older than was loaded then. Each multiplies every learning rate by `lr_factor`.
    Batches and noise follow from (seed, step), so only the rates differ from the first time.
    """

    def __init__(self, checkpoints: Path, times: int, lr_factor: float) -> None:
        self.checkpoints = checkpoints
        self.times = times
        self.lr_factor = lr_factor

    def state_to_load(
        self, error: DivergedError, at: int, so_far: Sequence[RollbackRecord]
    ) -> dict[str, Any]:
        """The newest checkpoint's state with this rollback, from step `at`, added to it.

        Raises `DivergedError` if no rollback or no checkpoint is left.
        """
        if len(so_far) >= self.times:
            times = f"It went back {len(so_far)} times already."
            raise DivergedError(error.what, f"{times} {error.advice}")
        state, _, warnings = load_newest(self.checkpoints)
        for warning in warnings:
            log.warning("%s", warning)
        if so_far and at <= so_far[-1].at:
            # A lower rate did not help: the weights of that checkpoint may be bad already.
            older, _, _ = load_newest(self.checkpoints, before=so_far[-1].to)
            state = older or state
        if state is None:
            raise DivergedError(error.what, f"There is no checkpoint to go back to. {error.advice}")
        factor = self.lr_factor * (so_far[-1].lr_factor if so_far else 1.0)
        record = RollbackRecord(at, state["step"], factor, error.what)
        return {**state, "returns": [asdict(rollback) for rollback in (*so_far, record)]}
