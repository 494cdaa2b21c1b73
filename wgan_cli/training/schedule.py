"""How often the critic is updated, and how the learning rate falls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class CriticSchedule:
    """Critic updates before each generator update.

    `n_critic` of them, but `warmup_n_critic` before each of the first `warmup_steps` generator
    updates and before every `warmup_every`-th (0: none), as in the authors' code.
    """

    n_critic: int
    warmup_steps: int = 0
    warmup_n_critic: int = 100
    warmup_every: int = 0

    def updates(self, step: int) -> int:
        """Critic updates that go before generator update `step`, counted from 0."""
        return self.warmup_n_critic if self._warm(step) else self.n_critic

    def updates_before(self, step: int) -> int:
        """Critic updates in all that go before those of generator update `step`."""
        warm = min(step, self.warmup_steps)
        if self.warmup_every:
            # Multiples of warmup_every in [0, step), less those that the start covers already.
            multiples = math.ceil(step / self.warmup_every)
            warm += multiples - math.ceil(warm / self.warmup_every)
        return warm * self.warmup_n_critic + (step - warm) * self.n_critic

    def _warm(self, step: int) -> bool:
        if step < self.warmup_steps:
            return True
        return self.warmup_every > 0 and step % self.warmup_every == 0


@dataclass(frozen=True)
class LearningRateDecay:
    """The factor on every learning rate: none (always 1), linear or cosine to 0 over `steps`."""

    kind: str = "none"
    steps: int | None = None

    def factor(self, step: int) -> float:
        """The factor in generator update `step` and the critic updates before it."""
        if self.kind == "none" or self.steps is None:
            return 1.0
        progress = min(step / self.steps, 1.0)
        if self.kind == "linear":
            return 1.0 - progress
        return 0.5 * (1.0 + math.cos(math.pi * progress))


class LearningRates:
    """Every parameter group's first rate, and what it is now."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self._optimizers = optimizers
        self._first = [float(group["lr"]) for group in self._groups()]

    def set(self, factor: float) -> None:
        """Every group's rate, as a share of its first."""
        for group, first in zip(self._groups(), self._first, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(first * factor)
            else:
                group["lr"] = first * factor

    def _groups(self) -> list[dict[str, Any]]:
        # Asked for each time: loading an optimizer's state replaces them.
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]
