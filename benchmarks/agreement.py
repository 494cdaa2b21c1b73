"""Whether the tool trains what the textbook loop trains, and bfloat16 what float32 does."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.workloads import Tool, textbook, tool
from wgan_cli.data.dataset import Dataset
from wgan_cli.randomness import Draws, Stream
from wgan_cli.training.trainer import Trainer
from wgan_cli.training.updates import CRITIC_TERMS, GENERATOR_TERMS

TOLERANCE = 1e-4
SEEDS = range(5)
STEPS, WINDOW = 500, 50


class Losses(NamedTuple):
    """Every critic loss and every generator loss of some steps, in order."""

    critic: list[float]
    generator: list[float]


@dataclass(frozen=True)
class Agreement:
    """The largest distance of two losses as a share of the larger, over so many steps.

    Where that is more than `TOLERANCE`, also how far each loop is from the textbook's in float64.
    Rounding alone can do that: a weight whose gradient is 0, because real and fake samples cancel
    in it, gets a step of nearly full length from RMSprop where they cancel but for the last bit. A
    tool that rounds as well as the textbook loop is then about as near to float64, or nearer.
    """

    steps: int
    losses: int
    worst: float
    tool_from_float64: float | None = None
    textbook_from_float64: float | None = None

    @property
    def reached(self) -> bool:
        """Whether the two loops are one."""
        if self.tool_from_float64 is None or self.textbook_from_float64 is None:
            return self.worst <= TOLERANCE
        return self.tool_from_float64 <= 2 * self.textbook_from_float64


def agreement(words: Sequence[str], steps: int, dataset: Dataset | None = None) -> Agreement:
    """Both loops on the same weights, batches, noise and penalty points, in float32."""
    one = tool([*words, "precision=fp32"], dataset)
    expected = textbook_losses(one, steps)
    found = tool_losses(one.trainer, steps)
    worst, losses = farthest(found, expected), len(found.critic) + len(found.generator)
    if worst <= TOLERANCE:
        return Agreement(steps, losses, worst)
    exact = textbook_losses(tool([*words, "precision=fp32"], one.dataset), steps, torch.float64)
    return Agreement(steps, losses, worst, farthest(found, exact), farthest(expected, exact))


def apart(one: float, other: float) -> float:
    """The distance of two numbers as a share of the larger; NaN is far from everything."""
    if one == other:
        return 0.0
    share = abs(one - other) / max(abs(one), abs(other))
    return share if share == share else float("inf")


def farthest(one: Losses, other: Losses) -> float:
    """The largest distance of two losses of the same update."""
    pairs = zip((*one.critic, *one.generator), (*other.critic, *other.generator), strict=True)
    return max(apart(*pair) for pair in pairs)


def textbook_losses(one: Tool, steps: int, dtype: torch.dtype = torch.float32) -> Losses:
    """Of the textbook loop from a trainer's weights, on what the trainer will draw."""
    config, device, trainer = one.config, one.device, one.trainer
    n_critic, shape = config.n_critic or 0, (config.batch_size, config.latent_dim or 0)

    def noise() -> Iterator[Tensor]:
        for step in count():
            for inner in range(n_critic):
                yield Draws(config.seed, Stream.CRITIC_NOISE, step, inner).normal(shape, device)
            yield Draws(config.seed, Stream.GENERATOR_NOISE, step).normal(shape, device)

    def shares() -> Iterator[Tensor]:
        for update in count():
            draws = Draws(config.seed, Stream.PENALTY, *divmod(update, n_critic))
            yield draws.uniform((config.batch_size,), device)

    loop = textbook(config, device, one.dataset.sample_shape, trainer, dtype)
    loop.batches = (trainer.feed.batch(u).samples.contiguous().to(dtype) for u in count())
    latents, penalty_shares = noise(), shares()
    loop.latent = lambda: next(latents).to(dtype)
    loop.shares = lambda _: next(penalty_shares).to(dtype)
    for _ in range(steps):
        loop.step()
    return Losses(loop.critic_losses, loop.generator_losses)


def tool_losses(trainer: Trainer, steps: int) -> Losses:
    """Of the trainer's own steps, by listening to what each update reports."""
    updates, losses = trainer.updates, Losses([], [])

    def heard(update: Callable[..., Tensor], term: int, kept: list[float]) -> Callable[..., Tensor]:
        def listening(*given: object) -> Tensor:
            numbers = update(*given)
            kept.append(float(numbers[term]))
            return numbers

        return listening

    own = updates.critic_update, updates.generator_update
    updates.critic_update = heard(  # type: ignore[method-assign]
        own[0], CRITIC_TERMS.index("critic/loss"), losses.critic
    )
    updates.generator_update = heard(  # type: ignore[method-assign]
        own[1], GENERATOR_TERMS.index("generator/loss"), losses.generator
    )
    for _ in range(steps):
        trainer.train_step()
    updates.critic_update, updates.generator_update = own  # type: ignore[method-assign]
    return losses


@dataclass(frozen=True)
class Bfloat16:
    """The critic's estimate near step 500 of both precisions, a number a seed."""

    float32: list[float]
    bfloat16: list[float]

    @property
    def means(self) -> tuple[float, float]:
        """Over the seeds, in float32 and in bfloat16."""
        return statistics.mean(self.float32), statistics.mean(self.bfloat16)

    @property
    def deviations(self) -> tuple[float, float]:
        """Standard deviations of single seeds."""
        return statistics.stdev(self.float32), statistics.stdev(self.bfloat16)

    @property
    def pooled(self) -> float:
        """The standard deviation of both together, each about its own mean."""
        return statistics.fmean(each**2 for each in self.deviations) ** 0.5

    @property
    def reached(self) -> bool:
        """Whether the means differ by one pooled standard deviation at most."""
        return abs(self.means[0] - self.means[1]) <= self.pooled


def bfloat16(words: Sequence[str], dataset: Dataset | None = None) -> Bfloat16:
    """`critic/wasserstein` over the last 50 of 500 steps, of five seeds in both precisions."""
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
