"""Curves, histograms, the config and the final numbers in TensorBoard."""

from __future__ import annotations

from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from wgan_cli.training.trainer import Callback, Point, Trainer


class TensorBoard(Callback):
    """Scalars at log points, critic weights at sample points, one HParams entry at the end.

    `settings` are the run's settings, dotted key to value; `config_text` is shown under Text.
    """

    def __init__(self, writer: SummaryWriter, settings: dict[str, Any], config_text: str) -> None:
        self.writer = writer
        self.settings = settings
        self.config_text = config_text
        self._final: dict[str, float] = {}

    def on_start(self, trainer: Trainer) -> None:
        """The config, at the first start."""
        if trainer.step == 0:
            self.writer.add_text("config", f"```yaml\n{self.config_text}\n```", 0)

    def on_step(self, trainer: Trainer, point: Point) -> None:
        """Write what was measured."""
        for tag, value in point.values.items():
            self.writer.add_scalar(tag, value, point.step)
        self._final.update(point.values)
        if point.sample:
            for name, parameter in trainer.updates.critic.named_parameters():
                values = parameter.detach().float().cpu()
                self.writer.add_histogram(f"critic_weights/{name}", values, point.step)

    def on_end(self, trainer: Trainer, error: BaseException | None) -> None:
        """The HParams entry of a finished run, in this writer: `add_hparams` makes a second run."""
        if error is None and self._final:
            plain = {
                key: value if isinstance(value, bool | int | float | str) else str(value)
                for key, value in self.settings.items()
                if value is not None
            }
            for summary in hparams(plain, self._final):
                self.writer._get_file_writer().add_summary(summary)
        self.writer.close()


def open_writer(folder: str, done: int) -> SummaryWriter:
    """A writer that hides what an earlier process wrote after step `done`.

    `purge_step` is set at a first start too: without it TensorBoard ignores a later one's.
    """
    return SummaryWriter(folder, purge_step=done + 1 if done else 0, flush_secs=10)
