"""The state of a run that checkpoints store, and the moving average of the generator."""

from __future__ import annotations

import copy
from dataclasses import InitVar, asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from wgan_cli.errors import CheckpointError
from wgan_cli.training.divergence import RollbackRecord
from wgan_cli.training.running_means import RunningMeans
from wgan_cli.training.updates import Updates


class ExponentialMovingAverage:
    """A moving average of a network's weights and BatchNorm statistics, kept in `module`.

    `module` is a copy of the network. After the network's first update it equals the network; each
    later update sets average = decay * average + (1 - decay) * weight. Integer buffers are copied.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay
        self.network = network
        self._started = False
        self._averages: list[Tensor] = list(self.module.parameters())
        self._weights: list[Tensor] = list(network.parameters())

    @torch.no_grad()
    def update(self) -> None:
        """Add the network's current weights to the average. Call this after every update."""
        # List the buffers each time, because a module may replace a buffer by another tensor.
        averages, weights = [*self._averages], [*self._weights]
        for average, buffer in zip(self.module.buffers(), self.network.buffers(), strict=True):
            if self._started and average.is_floating_point():
                averages.append(average)
                weights.append(buffer)
            else:
                average.copy_(buffer)
        if self._started:
            torch._foreach_lerp_(averages, weights, 1 - self.decay)
        else:
            torch._foreach_copy_(averages, weights)
        self._started = True

    def load_state_dict(self, state: dict[str, Any], *, started: bool) -> None:
        """Load the averages. `started` is true if the network had been updated before."""
        self.module.load_state_dict(state)
        self._started = started


@dataclass(eq=False)
class RunState:
    """Networks, optimizers, the generator's average, counters and running means.

    `step` counts finished generator updates, `inner` the critic updates since the last generator
    update. `unmeasured` is true until the measurements of the last step are complete. `rollbacks`
    lists the rollbacks so far. With `ema_decay` above 0, `generator` is a moving average and
    `raw_generator` the trained generator; otherwise `generator` is trained and `raw_generator` is
    None. Samples are drawn from `generator`.
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
