"""Measuring a run on held-out data, off the hot path and without touching what is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wgan_cli.data.feeds import as_floats
from wgan_cli.errors import DivergedError
from wgan_cli.metrics.lipschitz import gradient_norms
from wgan_cli.metrics.neighbours import precision_recall
from wgan_cli.metrics.wasserstein import exact_wasserstein
from wgan_cli.randomness import Draws, Stream

_BATCH = 256


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Inside, the networks are in eval mode; each module's own mode is restored after."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def generate(generator: nn.Module, latent: Tensor) -> Tensor:
    """Samples (n, *shape) for noise (n, latent_dim) in eval mode, in batches, in float32."""
    with evaluating(generator):
        return torch.cat([generator(part).float() for part in latent.split(_BATCH)])


class Evaluation:
    """The metrics of `metrics`, always on the same held-out samples and the same noise.

    `real` and `other_real` are disjoint held-out samples of one size n; every number compares n
    generated with the n of `real`.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        real: Tensor,
        other_real: Tensor,
        latent_dim: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.metrics = metrics
        self.real = as_floats(real.to(device))
        self.n = len(real)
        self.device = device
        self.seed = seed
        self.latent = Draws(seed, Stream.EVALUATION).normal((self.n, latent_dim), device)
        self._other_real = as_floats(other_real.to(device))
        self._floor: float | None = None

    def __call__(self, generator: nn.Module, critic: nn.Module) -> dict[str, float]:
        """The chosen metrics by tag."""
        fake = generate(generator, self.latent)
        values: dict[str, float] = {}
        if not fake.isfinite().all():
            raise DivergedError("The generator's samples became NaN or infinite.")
        estimate, steepest = self._critic_on(critic, fake)
        if "critic/wasserstein_heldout" in self.metrics:
            values["critic/wasserstein_heldout"] = estimate
        if "critic/lipschitz" in self.metrics:
            values["critic/lipschitz"] = steepest
        if "wasserstein/normalized" in self.metrics:
            values["wasserstein/normalized"] = estimate / steepest if steepest > 0 else 0.0
        if "wasserstein/exact" in self.metrics:
            if self._floor is None:
                self._floor = exact_wasserstein(self._other_real, self.real)
            values["wasserstein/exact"] = exact_wasserstein(fake, self.real)
            values["wasserstein/exact_n"] = self.n
            values["wasserstein/exact_real_real"] = self._floor
        shares = {"metrics/precision_pixel", "metrics/recall_pixel"}.intersection(self.metrics)
        if shares:
            precision, recall = precision_recall(self.real, fake)
            for tag in sorted(shares):
                value = precision if "precision" in tag else recall
                values[f"{tag}_{self.n}"] = value
        return values

    def _critic_on(self, critic: nn.Module, fake: Tensor) -> tuple[float, float]:
        """E f(real) - E f(fake), and the steepest gradient seen between the two."""
        with evaluating(critic):
            estimate = self._mean_score(critic, self.real) - self._mean_score(critic, fake)
            steepest = max(
                float(gradient_norms(critic, real, part, self._draws(batch)).max())
                for batch, (real, part) in enumerate(
                    zip(self.real.split(_BATCH), fake.split(_BATCH), strict=True)
                )
            )
        return estimate, steepest

    def _draws(self, batch: int) -> Draws:
        # Step 0 of the stream is the latent noise.
        return Draws(self.seed, Stream.EVALUATION, step=1, inner=batch)

    @staticmethod
    @torch.no_grad()
    def _mean_score(critic: nn.Module, samples: Tensor) -> float:
        scores = torch.cat([critic(part).double() for part in samples.split(_BATCH)])
        return float(scores.mean())
