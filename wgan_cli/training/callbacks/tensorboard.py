"""Curves, histograms, the config and the final numbers in TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf
from torch.utils.tensorboard.summary import hparams

from wgan_cli.metrics.weights import weights_in_use
from wgan_cli.training.callbacks.protocol import Callback, Point
from wgan_cli.training.events import Events
from wgan_cli.training.trainer import Trainer
from wgan_cli.validation import flatten


class TensorBoard(Callback):
    """Scalars and charts where measured, critic weights at sample points, one HParams entry.

    `settings` is the run's config; `first` writes it under Text. `final` is the record's.
    """

    def __init__(
        self,
        writer: Events,
        settings: dict[str, Any],
        final: Mapping[str, float],
        *,
        first: bool,
    ) -> None:
        self.writer = writer
        self.settings = settings
        self.first = first
        self.final = final

    def on_start(self, trainer: Trainer) -> None:
        """Open the event file; write the config at the first start."""
        # At a first start there is nothing to hide, but TensorBoard heeds a later file's start only
        # if the first file had one too.
        self.writer.open(0 if self.first else trainer.recorded + 1)
        if self.first:
            text = OmegaConf.to_yaml(OmegaConf.create(self.settings))
            self.writer.add_text("config", f"```yaml\n{text}\n```", trainer.step)

    def on_step(self, trainer: Trainer, point: Point) -> None:
        """Write what was measured."""
        for tag, value in point.values.items():
            self.writer.add_scalar(tag, value, point.step)
        if point.findings is not None:
            for tag, picture in point.findings.pictures.items():
                self.writer.add_picture(tag, picture, point.step)
        if point.sample:
            for name, weight in weights_in_use(trainer.updates.critic).items():
                values = weight.detach().float().cpu()
                self.writer.add_histogram(f"critic_weights/{name}", values, point.step)

    def on_rollback(self, trainer: Trainer) -> None:
        """Hide what comes again, as after a resume, and say why."""
        self.writer.restart(trainer.recorded + 1)
        last = trainer.returns.last
        text = f"after step {last.at} back to {last.to}, rates x {last.lr_factor:g}: {last.reason}"
        self.writer.add_text("returns", text, trainer.step)

    def on_end(self, trainer: Trainer, error: BaseException | None) -> None:
        """The HParams entry of a finished run, in this writer: `add_hparams` makes a second run."""
        if error is None and self.final:
            for summary in hparams(_hyperparameters(self.settings), dict(self.final)):
                self.writer._get_file_writer().add_summary(summary)
        self.writer.close()


def _hyperparameters(settings: dict[str, Any]) -> dict[str, bool | int | float | str]:
    """What decides a result, dotted key to plain value; no cadences, no recommendations."""
    left_out = ("_target_", "_every", "_samples", "dataset.recommended.", "metrics", "profile")
    return {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in flatten(settings).items()
        if value is not None and not key.endswith(left_out) and not key.startswith(left_out)
    }
