"""The number of critic updates per step, and the decay of the learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class CriticSchedule:
    """The number of critic updates before each generator update.

    The usual number is `n_critic`. It is `warmup_n_critic` for the first `warmup_steps` generator
    updates and, if `warmup_every` is not 0, for every `warmup_every`-th generator update, as in the
    authors' code.
    """

    n_critic: int
    warmup_steps: int = 0
    warmup_n_critic: int = 100
    warmup_every: int = 0

    @property
    def most_updates(self) -> int:
        """The largest number of critic updates that a step can have."""
        warm = bool(self.warmup_steps or self.warmup_every)
        return max(self.n_critic, self.warmup_n_critic if warm else 0)

    def updates(self, step: int) -> int:
        """Return the number of critic updates in step `step`, counted from 0."""
        return self.updates_before(step + 1) - self.updates_before(step)

    def updates_before(self, step: int) -> int:
        """Return the number of critic updates in all steps before `step`."""
        warm = min(step, self.warmup_steps)
        if self.warmup_every:
            # Multiples of warmup_every in [0, step), minus those within the first warmup_steps.
            multiples = math.ceil(step / self.warmup_every)
            warm += multiples - math.ceil(warm / self.warmup_every)
        return warm * self.warmup_n_critic + (step - warm) * self.n_critic


@dataclass(frozen=True)
class LearningRateDecay:
    """The factor by which all learning rates are multiplied.

    If `kind` is "none", the factor is 1. If `kind` is "linear" or "cosine", the factor falls from 1
    to 0 over `steps` steps.
    """

    kind: str = "none"
    steps: int | None = None

    def factor(self, step: int) -> float:
        """Return the factor for the critic updates and the generator update of step `step`."""
        if self.kind == "none" or self.steps is None:
            return 1.0
        progress = min(step / self.steps, 1.0)
        if self.kind == "linear":
            return 1.0 - progress
        return 0.5 * (1.0 + math.cos(math.pi * progress))


class LearningRates:
    """Sets the learning rate of every parameter group in each step.

    The rate is the group's initial rate, times the factor of `decay`, times `factor`, which is
    below 1 after a rollback. A rate is a number, or a tensor on the device if CUDA graphs read it.
    """

    def __init__(self, decay: LearningRateDecay, *optimizers: torch.optim.Optimizer) -> None:
        self.decay = decay
        self.factor = 1.0
        self._optimizers = optimizers
        self._initial = [float(group["lr"]) for group in self._groups()]

    def at(self, step: int) -> list[float]:
        """Return the rate of each group in step `step`."""
        factor = self.decay.factor(step) * self.factor
        return [initial * factor for initial in self._initial]

    def set(self, step: int, on_device: Callable[[], Tensor] | None) -> None:
        """Set the rates of step `step`. `on_device()` returns them as a tensor (groups,).

        With `on_device`, rates that the optimizers keep on the host are rounded to float32, too, so
        that a run trains the same bits with and without graphs.
        """
        groups = self._groups()
        tensors = [group["lr"] for group in groups if isinstance(group["lr"], Tensor)]
        if tensors and on_device is not None:
            torch._foreach_copy_(tensors, list(on_device().unbind()))
            return
        for group, rate in zip(groups, self.at(step), strict=True):
            group["lr"] = rate if on_device is None else float(np.float32(rate))

    def _groups(self) -> list[dict[str, Any]]:
        # Do not store the groups, because loading an optimizer's state replaces them.
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]
