"""Means of the updates' terms between two log points, and the run's throughput."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from wgan_cli.training.updates import CRITIC_TERMS, GENERATOR_TERMS


class RunningMeans:
    """Sums of the updates' terms since the last regular log point, kept on the device."""

    def __init__(self, device: torch.device) -> None:
        self.critic = torch.zeros(len(CRITIC_TERMS), device=device)
        self.generator = torch.zeros(len(GENERATOR_TERMS), device=device)
        self.critic_updates = 0
        self.steps = 0

    def add_critic(self, terms: Tensor) -> None:
        """Count one critic update; `terms` (6,) are `CRITIC_TERMS`."""
        self.critic += terms
        self.critic_updates += 1

    def add_generator(self, terms: Tensor) -> None:
        """Count one generator update; `terms` (2,) are `GENERATOR_TERMS`."""
        self.generator += terms
        self.steps += 1

    def means(self) -> dict[str, float]:
        """The mean of every term by its tag. Waits for the device."""
        critic = (self.critic / max(self.critic_updates, 1)).tolist()
        generator = (self.generator / max(self.steps, 1)).tolist()
        return dict(zip((*CRITIC_TERMS, *GENERATOR_TERMS), (*critic, *generator), strict=True))

    def reset(self) -> None:
        """Start again from zero."""
        self.critic.zero_()
        self.generator.zero_()
        self.critic_updates = self.steps = 0

    def state_dict(self) -> dict[str, Any]:
        """The attributes, for a checkpoint."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a checkpoint's sums."""
        self.critic.copy_(state["critic"])
        self.generator.copy_(state["generator"])
        self.critic_updates, self.steps = state["critic_updates"], state["steps"]


class Throughput:
    """Steps and real images per second since the last regular log point, with all housekeeping."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.restart(0, 0)

    def restart(self, step: int, critic_updates: int) -> None:
        """Start measuring here; both numbers are totals of the run."""
        self._start = (time.perf_counter(), step, critic_updates)

    def report(self, step: int, critic_updates: int, *, restart: bool) -> dict[str, float]:
        """Values by tag, empty if no step was done. With `restart`, then start again from here."""
        now = time.perf_counter()
        start_time, start_step, start_updates = self._start
        if restart:
            self.restart(step, critic_updates)
        if step == start_step:
            return {}
        seconds = max(now - start_time, 1e-9)
        images = (critic_updates - start_updates) * self.batch_size
        return {
            "throughput/images_per_second": images / seconds,
            "throughput/step_ms": 1000 * seconds / (step - start_step),
        }
