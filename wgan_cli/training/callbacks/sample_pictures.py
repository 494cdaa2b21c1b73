"""Callbacks that draw pictures of samples and record histograms of the critic's weights."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from wgan_cli.data.feeds import to_bytes, to_floats
from wgan_cli.evaluation.sampling import evaluating, generate
from wgan_cli.metrics.lipschitz import weights_in_use
from wgan_cli.pictures import grid, plane, save_png, scatter
from wgan_cli.randomness import Draws, Stream
from wgan_cli.run_folder import RunFolder
from wgan_cli.training.callbacks.protocol import Callback, ObservedTrainer, Point

_COLUMNS = 8
_SAMPLES = 8 * _COLUMNS
_CLASS_ROWS = 20
_POINTS = 1024


def fixed_samples(trainer: ObservedTrainer, generator: nn.Module) -> Tensor:
    """Return samples (n, *sample shape) from the run's fixed noise, on the device.

    An unconditional generator gives n = 64 samples. A conditional generator gives eight samples of
    each of the first 20 classes, with the same noise for every class.
    """
    draws = Draws(trainer.seed, Stream.SAMPLES)
    if trainer.classes is None:
        return generate(generator, draws.normal((_SAMPLES, trainer.latent_dim), trainer.device))
    labels = trainer.classes.rows(_CLASS_ROWS, _COLUMNS)
    latent = draws.normal((_COLUMNS, trainer.latent_dim), trainer.device)
    return generate(generator, latent.repeat(len(labels) // _COLUMNS, 1), labels)


@dataclass(eq=False)
class SamplePictures(Callback):
    """Draw images in a grid, and samples with two numbers as points over the critic's scores.

    Other samples get no picture. If the run keeps a moving average of the generator, samples of the
    trained generator are drawn too. `real` holds held-out samples in the data set's own format, and
    `labels` holds their classes, if any. In a conditional run, each row of a grid shows one class.
    `first` is True in a new run.
    """

    phase = "samples"

    folder: RunFolder
    real: Tensor
    labels: Tensor | None
    first: bool = field(kw_only=True)

    def on_start(self, trainer: ObservedTrainer, point: Point) -> None:
        """In a new run, draw real images, and samples of the untrained generator."""
        if self.first:
            if _are_images(self.real):
                point.pictures["samples/real"] = grid(self._real_images(trainer))
            self._draw(trainer, point)

    def on_step(self, trainer: ObservedTrainer, point: Point) -> None:
        """Draw samples if they are due."""
        if point.sample:
            self._draw(trainer, point)

    def _draw(self, trainer: ObservedTrainer, point: Point) -> None:
        if _are_images(self.real):
            tag = "samples/fake"
            self._draw_grids(trainer, point)
        elif self.real.shape[1:] == (2,):
            tag = "critic/surface"
            self._draw_plane(trainer, point)
        else:
            return
        save_png(self.folder.samples / f"step_{point.step:08d}.png", point.pictures[tag])

    def _draw_grids(self, trainer: ObservedTrainer, point: Point) -> None:
        point.pictures["samples/fake"] = grid(to_bytes(fixed_samples(trainer, trainer.generator)))
        if trainer.raw_generator is not None:
            raw = fixed_samples(trainer, trainer.raw_generator)
            point.pictures["samples/fake_raw"] = grid(to_bytes(raw))

    def _draw_plane(self, trainer: ObservedTrainer, point: Point) -> None:
        real = to_floats(self.real[:_POINTS]).numpy()
        shape, classes = (_POINTS, trainer.latent_dim), trainer.classes
        noise = Draws(trainer.seed, Stream.SAMPLES).normal(shape, trainer.device)
        draws = Draws(trainer.seed, Stream.CLASSES)
        labels = None if classes is None else classes.draw(_POINTS, draws)
        fake = generate(trainer.generator, noise, labels).cpu().numpy()
        if trainer.raw_generator is not None:
            raw = generate(trainer.raw_generator, noise, labels).cpu().numpy()
            point.pictures["samples/scatter_raw"] = scatter(real, raw)
        xs, ys, points = plane(real)
        scores = _scores(trainer, points.to(trainer.device)).cpu().numpy()
        surface = xs, ys, scores.reshape(len(ys), len(xs))
        point.pictures["samples/scatter"] = scatter(real, fake)
        point.pictures["critic/surface"] = scatter(real, fake, surface)

    def _real_images(self, trainer: ObservedTrainer) -> Tensor:
        if trainer.classes is None or self.labels is None:
            return self.real[:_SAMPLES]
        classes = trainer.classes.rows(_CLASS_ROWS, 1).tolist()
        blank = torch.full_like(self.real[:_COLUMNS], 255)
        # If a class has too few held-out images, fill its row with white ones.
        filled = (torch.cat([self.real[self.labels == k], blank]) for k in classes)
        return torch.cat([row[:_COLUMNS] for row in filled])


class WeightHistograms(Callback):
    """When samples are due, record all critic weights as the forward pass uses them."""

    def on_step(self, trainer: ObservedTrainer, point: Point) -> None:
        """If samples are due, copy the critic's weights into `point.histograms`.

        Without the copy, the arrays would share memory with the parameters on the CPU.
        """
        if point.sample:
            for name, weight in weights_in_use(trainer.critic).items():
                copied = weight.detach().float().cpu().clone()
                point.histograms[f"critic_weights/{name}"] = copied.numpy()


@torch.no_grad()
def _scores(trainer: ObservedTrainer, points: Tensor) -> Tensor:
    """Return the critic's scores (n,). With classes, average them, weighted by class frequency."""
    critic, classes = trainer.critic, trainer.classes
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
