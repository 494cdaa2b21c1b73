"""The critic's weights, for the loggers' histograms."""

from __future__ import annotations

from wgan_cli.metrics.weights import weights_in_use
from wgan_cli.training.callbacks.protocol import Callback, ObservedTrainer, Point


class WeightHistograms(Callback):
    """Add a copy of every critic weight, as it is used, at sample points."""

    def on_step(self, trainer: ObservedTrainer, point: Point) -> None:
        """Copy the weights: on the CPU an array shares its memory with the parameter."""
        if point.sample:
            for name, weight in weights_in_use(trainer.critic).items():
                copied = weight.detach().float().cpu().clone()
                point.histograms[f"critic_weights/{name}"] = copied.numpy()
