"""The callback that adds histograms of the critic's weights."""

from __future__ import annotations

from wgan_cli.metrics.weights import weights_in_use
from wgan_cli.training.callbacks.protocol import Callback, ObservedTrainer, Point


class WeightHistograms(Callback):
    """At sample points, add every critic weight as the forward pass uses it."""

    def on_step(self, trainer: ObservedTrainer, point: Point) -> None:
        """Add copies: on the CPU the arrays would otherwise share the parameters' memory."""
        if point.sample:
            for name, weight in weights_in_use(trainer.critic).items():
                copied = weight.detach().float().cpu().clone()
                point.histograms[f"critic_weights/{name}"] = copied.numpy()
