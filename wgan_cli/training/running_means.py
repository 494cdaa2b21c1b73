"""The means of the updates' terms since the last log point, and the run's throughput."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from wgan_cli.training.updates import CRITIC_TERMS, GENERATOR_TERMS


class RunningMeans:
    """The means of the updates' terms since the last step that is a multiple of `log_every`.

    The sums are kept on the device, so adding a term does not wait for the device. The trainer
    counts the updates in `critic_updates` and `steps`, because a CUDA graph adds terms only.
    """

    def __init__(self, device: torch.device) -> None:
        self.critic = torch.zeros(len(CRITIC_TERMS), device=device)
        self.generator = torch.zeros(len(GENERATOR_TERMS), device=device)
        self.critic_updates = 0
        self.steps = 0

    def add_critic(self, terms: Tensor) -> None:
        """Add the terms of a critic update; `terms` (6,) has the order of `CRITIC_TERMS`."""
        self.critic += terms

    def add_generator(self, terms: Tensor) -> None:
        """Add the terms of a generator update; `terms` (2,) has the order of `GENERATOR_TERMS`."""
        self.generator += terms

    def means(self) -> dict[str, float]:
        """Return the mean of every term, by tag. This waits for the device."""
        critic = (self.critic / max(self.critic_updates, 1)).tolist()
        generator = (self.generator / max(self.steps, 1)).tolist()
        return dict(zip((*CRITIC_TERMS, *GENERATOR_TERMS), (*critic, *generator), strict=True))

    def reset(self) -> None:
        """Set all sums and counts to zero."""
        self.critic.zero_()
        self.generator.zero_()
        self.critic_updates = self.steps = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the sums and counts for a checkpoint."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the sums and counts of a checkpoint. Raises `ValueError` for a wrong count."""
        self.critic.copy_(state["critic"])
        self.generator.copy_(state["generator"])
        self.critic_updates, self.steps = state["critic_updates"], state["steps"]
        for count in (self.critic_updates, self.steps):
            if type(count) is not int or not 0 <= count < 2**53:
                raise ValueError(f"{count!r:.40} is no count of updates")


class Throughput:
    """Images per second and time per step since the last step that is a multiple of `log_every`.

    The time includes logging, evaluation and saving.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.restart(0, 0)

    def restart(self, step: int, critic_updates: int) -> None:
        """Start a new measurement. Both arguments are totals since the start of the run."""
        self._start = (time.perf_counter(), step, critic_updates)

    def report(self, step: int, critic_updates: int, *, restart: bool) -> dict[str, float]:
        """Return the values by tag, or {} if no step was done since the start of the measurement.

        If `restart` is true, also start a new measurement.
        """
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
