"""What the updates report between two log points."""

from __future__ import annotations

from typing import Any

import torch

from wgan_cli.training.updates import CRITIC_TERMS, GENERATOR_TERMS


class RunningMeans:
    """Sums of what the updates report since the last regular log point, kept on the device."""

    def __init__(self, device: torch.device) -> None:
        self.critic = torch.zeros(len(CRITIC_TERMS), device=device)
        self.generator = torch.zeros(len(GENERATOR_TERMS), device=device)
        self.critic_updates = 0
        self.steps = 0

    def means(self) -> dict[str, float]:
        """The mean of every term; this waits for the device."""
        critic = (self.critic / max(self.critic_updates, 1)).tolist()
        generator = (self.generator / max(self.steps, 1)).tolist()
        return dict(zip((*CRITIC_TERMS, *GENERATOR_TERMS), (*critic, *generator), strict=True))

    def reset(self) -> None:
        """Start the next window."""
        self.critic.zero_()
        self.generator.zero_()
        self.critic_updates = self.steps = 0

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "critic": self.critic,
            "generator": self.generator,
            "critic_updates": self.critic_updates,
            "steps": self.steps,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on with a checkpoint's sums."""
        self.critic.copy_(state["critic"])
        self.generator.copy_(state["generator"])
        self.critic_updates, self.steps = state["critic_updates"], state["steps"]
