"""Sample pictures as PNG files and, through the writer, in TensorBoard."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from wgan_cli.data.feeds import to_bytes, to_floats
from wgan_cli.evaluation.sampling import evaluating, generate
from wgan_cli.pictures import grid, plane, save_png, scatter, surface
from wgan_cli.randomness import Draws, Stream
from wgan_cli.run_folder import RunFolder
from wgan_cli.training.callbacks.protocol import Callback, Point
from wgan_cli.training.events import Events
from wgan_cli.training.trainer import Trainer

_COLUMNS = 8
_SAMPLES = 8 * _COLUMNS
_CLASS_ROWS = 20
_POINTS = 1024


def fixed_samples(trainer: Trainer, generator: nn.Module) -> Tensor:
    """A generator's samples of a run's fixed noise, (64, *sample shape), floats on the device.

    With classes a row of eight for each of the first 20, from the same noise in every row.
    """
    draws = Draws(trainer.seed, Stream.SAMPLES)
    if trainer.classes is None:
        return generate(generator, draws.normal((_SAMPLES, trainer.latent_dim), trainer.device))
    labels = trainer.classes.rows(_CLASS_ROWS, _COLUMNS)
    latent = draws.normal((_COLUMNS, trainer.latent_dim), trainer.device)
    return generate(generator, latent.repeat(len(labels) // _COLUMNS, 1), labels)


class SamplePictures(Callback):
    """A grid of images from fixed noise, or for points of the plane a scatter over the critic.

    Where samples come from an average of the generator, its raw ones stand beside them. `real` are
    samples as the data set keeps them, with their classes, if they have any: a conditional run's
    grids have a row a class. Samples that are neither images nor points of the plane have no
    picture.
    """

    phase = "samples"

    def __init__(
        self,
        folder: RunFolder,
        writer: Events,
        real: Tensor,
        labels: Tensor | None,
        *,
        first: bool,
    ) -> None:
        self.folder = folder
        self.writer = writer
        self.real = real
        self.labels = labels
        self.first = first

    def on_start(self, trainer: Trainer) -> None:
        """Real samples and the generator's as it starts, once in a folder."""
        if self.first:
            if _are_images(self.real):
                self._show("samples/real", grid(self._real_images(trainer)), trainer.step)
            self._draw(trainer)

    def on_step(self, trainer: Trainer, point: Point) -> None:
        """Draw where due."""
        if point.sample:
            self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        if _are_images(self.real):
            picture = grid(to_bytes(fixed_samples(trainer, trainer.generator)))
            self._show("samples/fake", picture, trainer.step)
            if trainer.raw_generator is not None:
                raw = grid(to_bytes(fixed_samples(trainer, trainer.raw_generator)))
                self._show("samples/fake_raw", raw, trainer.step)
        elif self.real.shape[1:] == (2,):
            picture = self._draw_plane(trainer)
        else:
            return
        path = self.folder.samples / f"step_{trainer.step:08d}.png"
        save_png(path, picture)

    def _draw_plane(self, trainer: Trainer) -> np.ndarray:
        real = to_floats(self.real[:_POINTS]).numpy()
        noise = Draws(trainer.seed, Stream.SAMPLES).normal(
            (_POINTS, trainer.latent_dim), trainer.device
        )
        classes = trainer.classes
        draws = Draws(trainer.seed, Stream.CLASSES)
        labels = None if classes is None else classes.draw(_POINTS, draws)
        fake = generate(trainer.generator, noise, labels).cpu().numpy()
        if trainer.raw_generator is not None:
            raw = generate(trainer.raw_generator, noise, labels).cpu().numpy()
            self._show("samples/scatter_raw", scatter(real, raw), trainer.step)
        xs, ys, points = plane(real)
        scores = _scores(trainer, points.to(trainer.device)).cpu().numpy()
        self._show("samples/scatter", scatter(real, fake), trainer.step)
        picture = surface(real, fake, scores.reshape(len(ys), len(xs)), xs, ys)
        self._show("critic/surface", picture, trainer.step)
        return picture

    def _real_images(self, trainer: Trainer) -> Tensor:
        if trainer.classes is None or self.labels is None:
            return self.real[:_SAMPLES]
        rows = trainer.classes.rows(_CLASS_ROWS, 1).tolist()
        blank = torch.full_like(self.real[:_COLUMNS], 255)
        # A class with fewer held-out images than columns leaves white ones.
        rows_of = (torch.cat([self.real[self.labels == k][:_COLUMNS], blank]) for k in rows)
        return torch.cat([row[:_COLUMNS] for row in rows_of])

    def _show(self, tag: str, picture: np.ndarray, step: int) -> None:
        self.writer.add_picture(tag, picture, step)


@torch.no_grad()
def _scores(trainer: Trainer, points: Tensor) -> Tensor:
    """The critic's scores (n,); of a conditional critic their mean over the data's classes."""
    critic, classes = trainer.updates.critic, trainer.classes
    with evaluating(critic):
        if classes is None:
            return critic(points).float()
        scores = torch.zeros(len(points), device=points.device)
        for label, share in enumerate(classes.shares.tolist()):
            labels = torch.full((len(points),), label, device=points.device)
            scores += share * critic(points, labels).float()
        return scores


def _are_images(samples: Tensor) -> bool:
    return samples.ndim == 4 and samples.shape[1] in (1, 3)
