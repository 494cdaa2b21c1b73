"""Checks that the tool trains like the textbook loop, and in bfloat16 like in float32."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.workloads import Tool, textbook, tool
from wgan_cli.data.dataset import Dataset
from wgan_cli.randomness import Stream
from wgan_cli.training.trainer import Trainer
from wgan_cli.training.updates import CRITIC_TERMS, GENERATOR_TERMS

TOLERANCE = 1e-4
SEEDS = range(5)
STEPS, WINDOW = 500, 50


class Losses(NamedTuple):
    """The losses of all critic updates and of all generator updates, in order."""

    critic: list[float]
    generator: list[float]


@dataclass(frozen=True)
class Agreement:
    """The largest relative difference between the two loops' losses, over `steps` steps.

    If it exceeds `TOLERANCE`, both loops are also compared with the textbook loop in float64.
    Rounding alone can cause such a difference: if real and fake samples cancel in the gradient of
    a weight up to the last bit, RMSprop still makes a step of nearly full length. A tool that
    rounds as well as the textbook loop is then about as near to float64 as that, or nearer.
    """

    steps: int
    losses: int
    worst: float
    tool_from_float64: float | None = None
    textbook_from_float64: float | None = None

    @property
    def reached(self) -> bool:
        """Whether the two loops agree."""
        if self.tool_from_float64 is None or self.textbook_from_float64 is None:
            return self.worst <= TOLERANCE
        return self.tool_from_float64 <= 2 * self.textbook_from_float64


def agreement(words: Sequence[str], steps: int, dataset: Dataset | None = None) -> Agreement:
    """Compare both loops with the same weights, batches, noise and penalty points, in float32."""
    one = tool([*words, "precision=fp32"], dataset)
    expected = textbook_losses(one, steps)
    found = tool_losses(one.trainer, steps)
    worst, losses = farthest(found, expected), len(found.critic) + len(found.generator)
    if worst <= TOLERANCE:
        return Agreement(steps, losses, worst)
    exact = textbook_losses(tool([*words, "precision=fp32"], one.dataset), steps, torch.float64)
    return Agreement(steps, losses, worst, farthest(found, exact), farthest(expected, exact))


def apart(one: float, other: float) -> float:
    """Return the relative difference of two numbers; infinity for NaN."""
    if one == other:
        return 0.0
    share = abs(one - other) / max(abs(one), abs(other))
    return share if share == share else float("inf")


def farthest(one: Losses, other: Losses) -> float:
    """Return the largest relative difference of two losses of the same update."""
    pairs = zip((*one.critic, *one.generator), (*other.critic, *other.generator), strict=True)
    return max(apart(*pair) for pair in pairs)


def textbook_losses(one: Tool, steps: int, dtype: torch.dtype = torch.float32) -> Losses:
    """Return the textbook loop's losses, from a trainer's weights and with its random numbers."""
    config, device, trainer = one.config, one.device, one.trainer
    loop = textbook(config, device, one.dataset.sample_shape, trainer, dtype)
    for step in range(steps):
        drawn = drawn_step(trainer, step)
        latents, penalty_shares = iter(drawn.latents), iter(drawn.shares)
        loop.batches = (real.contiguous().to(dtype) for real in drawn.real)
        loop.latent = lambda latents=latents: next(latents).to(dtype)  # type: ignore[misc]
        loop.shares = lambda _, shares=penalty_shares: next(shares).to(dtype)  # type: ignore[misc]
        loop.step()
    return Losses(loop.critic_losses, loop.generator_losses)


@dataclass(frozen=True)
class Drawn:
    """What a step trains on: real samples, the noise of all its updates, the penalty's numbers."""

    real: list[Tensor]
    latents: list[Tensor]
    shares: list[Tensor]


def drawn_step(trainer: Trainer, step: int) -> Drawn:
    """Return what the trainer would train on in step `step`. The trainer must not be trained."""
    inputs, device = trainer.inputs, trainer.device
    inputs.restart()
    inputs.begin(step, step + 1, trainer.training_step.rates.at)
    shape = trainer.batch_size, trainer.latent_dim
    # The order in which a step requests its numbers: on CUDA they depend on it.
    of_generator = inputs.generator_draws(Stream.GENERATOR_NOISE).normal(shape, device)
    drawn = Drawn([], [], [])
    for inner in range(inputs.updates):
        drawn.real.append(inputs.real(inner).samples)
        draws = (inputs.critic_draws(s, inner) for s in (Stream.CRITIC_NOISE, Stream.PENALTY))
        drawn.latents.append(next(draws).normal(shape, device))
        drawn.shares.append(next(draws).uniform(shape[:1], device))
    drawn.latents.append(of_generator)
    return drawn


def tool_losses(trainer: Trainer, steps: int) -> Losses:
    """Return the losses of the trainer's steps, recorded from its updates."""
    updates, losses = trainer.updates, Losses([], [])

    def recorded(
        update: Callable[..., Tensor], term: int, kept: list[float]
    ) -> Callable[..., Tensor]:
        def listening(*given: object) -> Tensor:
            numbers = update(*given)
            kept.append(float(numbers[term]))
            return numbers

        return listening

    own = updates.critic_update, updates.generator_update
    updates.critic_update = recorded(  # type: ignore[method-assign]
        own[0], CRITIC_TERMS.index("critic/loss"), losses.critic
    )
    updates.generator_update = recorded(  # type: ignore[method-assign]
        own[1], GENERATOR_TERMS.index("generator/loss"), losses.generator
    )
    for _ in range(steps):
        trainer.train_step()
    updates.critic_update, updates.generator_update = own  # type: ignore[method-assign]
    return losses


@dataclass(frozen=True)
class Bfloat16:
    """The critic's estimate near step 500 in both precisions, one number per seed."""

    float32: list[float]
    bfloat16: list[float]

    @property
    def means(self) -> tuple[float, float]:
        """The means over the seeds, in float32 and in bfloat16."""
        return statistics.mean(self.float32), statistics.mean(self.bfloat16)

    @property
    def deviations(self) -> tuple[float, float]:
        """The standard deviations over the seeds, in float32 and in bfloat16."""
        return statistics.stdev(self.float32), statistics.stdev(self.bfloat16)

    @property
    def pooled(self) -> float:
        """The pooled standard deviation of both precisions."""
        return statistics.fmean(each**2 for each in self.deviations) ** 0.5

    @property
    def reached(self) -> bool:
        """Whether the means differ by at most one pooled standard deviation."""
        return abs(self.means[0] - self.means[1]) <= self.pooled


def bfloat16(words: Sequence[str], dataset: Dataset | None = None) -> Bfloat16:
    """Measure `critic/wasserstein` over the last 50 of 500 steps, five seeds, both precisions."""
    found: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for seed in SEEDS:
        for precision, estimates in found.items():
            one = tool([*words, f"seed={seed}", f"precision={precision}"], dataset)
            dataset, trainer = one.dataset, one.trainer
            for step in range(STEPS):
                if step == STEPS - WINDOW:
                    trainer.means.reset()
                trainer.train_step()
            estimates.append(trainer.means.means()["critic/wasserstein"])
    return Bfloat16(found["fp32"], found["bf16"])
