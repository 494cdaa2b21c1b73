"""Going back to the newest checkpoint, at a lower learning rate, where a run diverges."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wgan_cli.errors import DivergedError
from wgan_cli.training.checkpoint import load_newest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RollbackRecord:
    """One return: after step `at` to step `to`, and the factor on every learning rate since."""

    at: int
    to: int
    lr_factor: float
    reason: str


class Rollback:
    """What `on_divergence=rollback` does: at most `times` returns in a run, resumed ones included.

    To the newest checkpoint; where the run came no further than the time before, to one before that
    time's. Each multiplies every learning rate by `lr_factor`. Batches and noise follow from (seed,
    step), so a run goes through the same ones again and only the rates differ.
    """

    def __init__(self, checkpoints: Path, times: int, lr_factor: float) -> None:
        self.checkpoints = checkpoints
        self.times = times
        self.lr_factor = lr_factor

    def state_to_return_to(
        self, error: DivergedError, at: int, so_far: RollbackHistory
    ) -> dict[str, Any]:
        """The newest checkpoint's state with this return noted in it, or the error."""
        if len(so_far) >= self.times:
            raise DivergedError(
                error.what, f"It went back {len(so_far)} times already. {error.advice}"
            )
        state, _, warnings = load_newest(self.checkpoints)
        for warning in warnings:
            log.warning("%s", warning)
        if so_far and at <= so_far.last.at:
            # A lower rate did not help from there: that checkpoint may be lost already.
            older, _, _ = load_newest(self.checkpoints, before=so_far.last.to)
            state = older or state
        if state is None:
            raise DivergedError(error.what, f"There is no checkpoint to go back to. {error.advice}")
        factor = self.lr_factor * so_far.lr_factor
        state["returns"] = [
            *so_far.state(),
            asdict(RollbackRecord(at, state["step"], factor, error.what)),
        ]
        return state


class RollbackHistory:
    """The returns of a run so far, as its checkpoints keep them."""

    def __init__(self, state: list[dict[str, Any]] | None = None) -> None:
        self._all = [RollbackRecord(**entry) for entry in state or []]

    def __len__(self) -> int:
        return len(self._all)

    @property
    def lr_factor(self) -> float:
        """What every learning rate is multiplied by."""
        return self._all[-1].lr_factor if self._all else 1.0

    @property
    def last(self) -> RollbackRecord:
        """The newest."""
        return self._all[-1]

    def state(self) -> list[dict[str, Any]]:
        """For checkpoints and `status.json`."""
        return [asdict(entry) for entry in self._all]
