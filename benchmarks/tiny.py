"""The smallest training: two steps of narrow networks, which write what every run writes."""

from __future__ import annotations

TINY = [
    "steps=2",
    "batch_size=16",
    "n_critic=2",
    "latent_dim=4",
    "threads=1",
    "device=cpu",
    "model.generator.width=8",
    "model.critic.width=8",
]
