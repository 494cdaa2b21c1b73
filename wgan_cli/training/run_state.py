"""The state of a run that checkpoints store."""

from __future__ import annotations

from dataclasses import InitVar, asdict, dataclass, field
from typing import Any

from wgan_cli.errors import CheckpointError
from wgan_cli.training.ema import ExponentialMovingAverage
from wgan_cli.training.optimizer_state import refuse_unusable_state
from wgan_cli.training.rollback import RollbackRecord
from wgan_cli.training.running_means import RunningMeans
from wgan_cli.training.updates import Updates


@dataclass(eq=False)
class RunState:
    """Networks, optimizers, the generator's average, counters and running means.

    `step` is the number of finished generator updates. `inner` is the number of critic updates
    since the last generator update. `unmeasured` is True until the measurements of the last step
    are complete. `rollbacks` lists the rollbacks so far. With `ema_decay` above 0, `generator` is a
    moving average of the trained generator, which is `raw_generator`. Otherwise `generator` is the
    trained generator, and `raw_generator` is None. Samples are drawn from `generator`.
    """

    updates: Updates
    ema_decay: InitVar[float] = field(kw_only=True)

    def __post_init__(self, ema_decay: float) -> None:
        updates = self.updates
        self.device = next(updates.critic.parameters()).device
        self.ema: ExponentialMovingAverage | None = None
        if ema_decay > 0:
            self.ema = ExponentialMovingAverage(updates.generator, ema_decay)
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
        """The last step whose measurements and pictures are complete."""
        return self.step - self.unmeasured

    def state_dict(self) -> dict[str, Any]:
        """Return the run's state for a checkpoint, as plain dicts of tensors and numbers."""
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
        """Load a checkpoint's state. Raise `CheckpointError` if it does not fit this run."""
        try:
            self.updates.load_state_dict(state)
            for _, optimizer in self.updates.networks().values():
                refuse_unusable_state(optimizer)
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
