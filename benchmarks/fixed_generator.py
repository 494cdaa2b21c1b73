"""Critics of data against the same data plus noise: the setting of arXiv 1704.00028, figure 1.

The generator is fixed "at the real distribution plus unit-variance Gaussian noise" (section 3), so
that a critic can be trained to near its optimum, and both constraints have the same task. In the
paper, coordinates have standard deviation 1 (Swiss roll: 0.93). Here it is sqrt(2) for the grid and
sqrt(1/2) for the ring, and the noise is scaled in proportion.
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
# The number of points between each real-fake pair at which a critic's slope is measured.
ROUNDS = 16


@dataclass(frozen=True)
class Task:
    """A distribution; fakes are its points plus noise with the standard deviation `noise`."""

    title: str
    data: EndlessDataset
    noise: float

    def fake(self, points: Tensor, draws: Draws) -> Tensor:
        """Return real points (n, 2) plus noise."""
        return points + self.noise * draws.normal(points.shape, CPU)

    def held_out(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return disjoint real, fake and other real points, (count, 2) each; they are fixed."""
        real, base, more = self.data.held_out[: 3 * count].chunk(3)
        return real, self.fake(base, Draws(FIXED_SEED, Stream.EVALUATION)), more


GRID = Task("25 Gaussians", gaussians_grid(), 2**0.5)
RING = Task("8 Gaussians", gaussians_ring(), 0.5**0.5)
SWISS_ROLL = Task("Swiss roll", swiss_roll(), 1.0)


@dataclass(frozen=True)
class Recipe:
    """A constraint, and the optimizer for it.

    `within` bounds the critic's initial weights. PyTorch's default weights lie far outside a small
    clip, so that the first clipping would put most of them at the bound.
    """

    label: str
    constraint: Constraint
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    within: float | None = None


def clipping(clip: float) -> Recipe:
    """Return weight clipping to [-clip, clip] with RMSprop at 5e-5, as in arXiv 1701.07875."""
    label = f"weight clipping, c = {clip:g}"
    return Recipe(label, WeightClipping(clip), lambda weights: RMSprop(weights, 5e-5), clip)


def penalty(weight: float) -> Recipe:
    """Return the gradient penalty with Adam: the paper's betas, and ten times its learning rate."""
    label = f"gradient penalty, λ = {weight:g}"
    return Recipe(
        label,
        GradientPenalty(weight),
        lambda weights: torch.optim.Adam(weights, lr=1e-3, betas=(0.5, 0.9)),
    )


def starting_critic(recipe: Recipe, *, width: int, depth: int, seed: int) -> Critic:
    """Return an untrained critic of points in the plane, with initial weights for the recipe."""
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
    """Train a critic, in each update on new real and fake points from (seed, update)."""
    optimizer = recipe.optimizer(list(critic.parameters()))
    # The fakes are made by `task.fake`, and there are no generator updates.
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
    """A critic's measurements on real and fake samples, and the exact distances of these samples.

    `estimate` is E f(real) - E f(fake), and `slope` the steepest slope measured between them (at
    most the critic's Lipschitz constant). `exact` is the samples' W1, and `floor` the W1 of real
    samples to other real samples.
    """

    estimate: float
    slope: float
    exact: float
    floor: float

    @property
    def normalized(self) -> float:
        """The estimate in the data's units, like `wasserstein/normalized`."""
        return self.estimate / self.slope

    @property
    def share(self) -> float:
        """`normalized` over the exact distance; at most 1 if `slope` is the Lipschitz constant."""
        return self.normalized / self.exact


def look(critic: nn.Module, task: Task, count: int) -> Sight:
    """Measure a critic on `count` held-out real samples and `count` fake ones."""
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
    """Return a parser of the options that all three figures share, with a figure's defaults."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n\n", 1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--updates", type=int, default=updates, help="critic updates")
    parser.add_argument("--batch", type=int, default=batch, help="real points per update")
    parser.add_argument("--width", type=int, default=128, help="units of each hidden layer")
    parser.add_argument("--depth", type=int, default=depth, help="hidden layers")
    parser.add_argument("--weight", type=float, default=1.0, help="the penalty's λ")
    parser.add_argument("--seed", type=int, default=0)
    return parser
