"""Critics of data against the same data plus noise: the setting of arXiv 1704.00028, figure 1.

The generator is held fixed "at the real distribution plus unit-variance Gaussian noise" (section
3), so that a critic can be trained towards its optimum and both constraints face one task. The
paper's sets have coordinates of standard deviation 1 (Swiss roll: 0.93); here the grid's is
sqrt(2) and the ring's sqrt(1/2), and the noise goes with them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from wgan_cli.constraints import Constraint, GradientPenalty, WeightClipping
from wgan_cli.data.dataset import FIXED_SEED, EndlessDataset
from wgan_cli.data.synthetic import gaussians_grid, gaussians_ring, swiss_roll
from wgan_cli.losses import Wasserstein
from wgan_cli.metrics.lipschitz import gradient_norms
from wgan_cli.metrics.wasserstein import exact_wasserstein
from wgan_cli.models.mlp import Critic
from wgan_cli.optimizers import RMSprop
from wgan_cli.randomness import Draws, Stream
from wgan_cli.training.updates import Updates

CPU = torch.device("cpu")
# Points between each real and fake sample at which a critic's slope is taken.
ROUNDS = 16


@dataclass(frozen=True)
class Task:
    """A distribution, and the standard deviation of the noise that makes its fakes."""

    title: str
    data: EndlessDataset
    noise: float

    def fake(self, points: Tensor, draws: Draws) -> Tensor:
        """These real points (n, 2), moved by noise."""
        return points + self.noise * draws.normal(points.shape, CPU)

    def held_out(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Real, fake and more real points, (count, 2) each, apart and the same for every seed."""
        real, base, more = self.data.held_out[: 3 * count].chunk(3)
        return real, self.fake(base, Draws(FIXED_SEED, Stream.EVALUATION)), more


GRID = Task("25 Gaussians", gaussians_grid(), 2**0.5)
RING = Task("8 Gaussians", gaussians_ring(), 0.5**0.5)
SWISS_ROLL = Task("Swiss roll", swiss_roll(), 1.0)


@dataclass(frozen=True)
class Recipe:
    """A constraint with the optimizer it is trained by.

    `within` bounds the weights a critic starts from: PyTorch's own lie far outside a small clip, so
    that the first cut alone would put most of them at its bound.
    """

    label: str
    constraint: Constraint
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    within: float | None = None


def clipping(clip: float) -> Recipe:
    """Weights in [-clip, clip], RMSprop at 5e-5, as in arXiv 1701.07875."""
    label = f"weight clipping, c = {clip:g}"
    return Recipe(label, WeightClipping(clip), lambda weights: RMSprop(weights, 5e-5), clip)


def penalty(weight: float) -> Recipe:
    """The gradient penalty, Adam with the paper's betas at ten times its rate, for few updates."""
    label = f"gradient penalty, λ = {weight:g}"
    return Recipe(
        label,
        GradientPenalty(weight),
        lambda weights: torch.optim.Adam(weights, lr=1e-3, betas=(0.5, 0.9)),
    )


def starting_critic(recipe: Recipe, *, width: int, depth: int, seed: int) -> Critic:
    """A critic of points in the plane with the weights that training starts from."""
    with Draws(seed, Stream.CRITIC_WEIGHTS).global_seed():
        critic = Critic((2,), width, depth)
    if recipe.within is not None:
        with torch.no_grad():
            for weights in critic.parameters():
                weights.mul_(min(1.0, recipe.within / float(weights.abs().max())))
    return critic


def train(
    critic: Critic, task: Task, recipe: Recipe, *, updates: int, batch: int, seed: int
) -> None:
    """So many critic updates, each on fresh real and fake points of (seed, update)."""
    optimizer = recipe.optimizer(list(critic.parameters()))
    # The noised points pass as they are, and no generator update is ever made.
    generator = nn.Identity()
    step = Updates(generator, critic, optimizer, optimizer, Wasserstein(), recipe.constraint)
    feed = task.data.feed(batch, seed, CPU)
    for update in range(updates):
        real = feed.batch(2 * update).samples
        base = feed.batch(2 * update + 1).samples
        fake = task.fake(base, Draws(seed, Stream.CRITIC_NOISE, update))
        step.critic_update(real, fake, Draws(seed, Stream.PENALTY, update))


@dataclass(frozen=True)
class Sight:
    """What a critic says of real and fake samples, beside the truth about the very same samples.

    `estimate` is E f(real) - E f(fake), `slope` the steepest slope seen between them (at most the
    critic's Lipschitz constant), `exact` the samples' W1, `floor` that of real against real.
    """

    estimate: float
    slope: float
    exact: float
    floor: float

    @property
    def normalized(self) -> float:
        """The estimate in the data's units, as `wasserstein/normalized`."""
        return self.estimate / self.slope

    @property
    def share(self) -> float:
        """How much of the exact distance the critic sees; at most 1 if `slope` is the constant."""
        return self.normalized / self.exact


def look(critic: nn.Module, task: Task, count: int) -> Sight:
    """Measure a critic on `count` held-out real and as many fake samples."""
    real, fake, more = task.held_out(count)
    slopes = [
        gradient_norms(critic, real, fake, Draws(FIXED_SEED, Stream.PENALTY, 0, inner))
        for inner in range(ROUNDS)
    ]
    with torch.no_grad():
        estimate = float(critic(real).mean() - critic(fake).mean())
    return Sight(
        estimate,
        float(torch.cat(slopes).max()),
        exact_wasserstein(real, fake),
        exact_wasserstein(real, more),
    )


def arguments_of(
    description: str | None, *, updates: int, batch: int, depth: int
) -> argparse.ArgumentParser:
    """The words that all three figures take, with a figure's own defaults."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n\n", 1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--updates", type=int, default=updates, help="critic updates, all alike")
    parser.add_argument("--batch", type=int, default=batch, help="real points an update")
    parser.add_argument("--width", type=int, default=128, help="units of each hidden layer")
    parser.add_argument("--depth", type=int, default=depth, help="hidden layers")
    parser.add_argument("--weight", type=float, default=1.0, help="the penalty's λ")
    parser.add_argument("--seed", type=int, default=0)
    return parser
