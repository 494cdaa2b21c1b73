"""The state of a run, as checkpoints keep it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from wgan_cli.errors import CheckpointError
from wgan_cli.training.ema import ExponentialMovingAverage
from wgan_cli.training.rollback import RollbackRecord
from wgan_cli.training.running_means import RunningMeans
from wgan_cli.training.updates import Updates


class RunState:
    """Networks, optimizers, the generator's average, counters and running means.

    `step` counts finished generator updates, `inner` the critic updates since the last one.
    `unmeasured` is set while the last step is not logged, evaluated, drawn and saved yet.
    `rollbacks` are those so far. Samples are drawn from `generator`, the average if there is one;
    `raw_generator` is then the generator as it is trained, else None.
    """

    def __init__(self, updates: Updates, ema: float) -> None:
        self.updates = updates
        self.device = next(updates.critic.parameters()).device
        self.ema = ExponentialMovingAverage(updates.generator, ema) if ema > 0 else None
        self.generator = updates.generator if self.ema is None else self.ema.module
        self.raw_generator = None if self.ema is None else updates.generator
        self.critic = updates.critic
        self.step = 0
        self.inner = 0
        self.unmeasured = False
        self.rollbacks: list[RollbackRecord] = []
        self.means = RunningMeans(self.device)
        self.guard_reset_at = 0

    @property
    def recorded(self) -> int:
        """The last step that was measured, logged and drawn completely."""
        return self.step - self.unmeasured

    def state_dict(self) -> dict[str, Any]:
        """The run's part of a checkpoint, as plain dicts of tensors and numbers."""
        state = {
            "step": self.step,
            "inner": self.inner,
            "unmeasured": self.unmeasured,
            "returns": [asdict(rollback) for rollback in self.rollbacks],
            "world": self.updates.ranks.world,
            **self.updates.state_dict(),
            "window": self.means.state_dict(),
        }
        if self.ema is not None:
            state["generator_ema"] = self.ema.module.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state. Raises `CheckpointError` if it does not fit."""
        try:
            self.updates.load_state_dict(state)
            self.means.load_state_dict(state["window"])
            if self.ema is not None:
                self.ema.load_state_dict(state["generator_ema"], started=state["step"] > 0)
            self.step = int(state["step"])
            self.inner = int(state.get("inner", 0))
            self.unmeasured = bool(state.get("unmeasured", False))
            self.rollbacks = [RollbackRecord(**entry) for entry in state.get("returns", ())]
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"The checkpoint does not fit this run: {reason}") from None
        self.updates.nan_guard.reset()
        self.guard_reset_at = self.step
