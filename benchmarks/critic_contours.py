"""Value surfaces of critics: python -m benchmarks.critic_contours OUT.png [--updates N] [--seed S].

As in figure 1a of arXiv 1704.00028: critics trained to separate data from the data plus noise
(`fixed_generator`), with weight clipping (above) and with the gradient penalty (below). All have
the same network, batches and number of updates; clipping uses RMSprop at 5e-5, the penalty Adam at
1e-3 (the paper's toy code: 1e-4, lambda = 0.1, width 512, 500,000 updates). Each surface is divided
by the steepest slope measured, so that all are in the units of the data. The number on a surface is
the critic's estimate in these units, divided by the exact W1 of the same samples.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from benchmarks.fixed_generator import (
    GRID,
    RING,
    SWISS_ROLL,
    Recipe,
    Sight,
    Task,
    arguments_of,
    clipping,
    look,
    penalty,
    starting_critic,
    train,
)
from wgan_cli.models.mlp import Critic
from wgan_cli.pictures import rendered

TASKS = (GRID, RING, SWISS_ROLL)
ORANGE = "#d55e00"
CELLS = 160
Panel = tuple[Task, Recipe, Critic, Sight]


def main(words: list[str] | None = None) -> None:
    """Train all six critics, print their estimates, and draw the picture."""
    parser = arguments_of(__doc__, updates=2000, batch=256, depth=3)
    parser.add_argument("--clip", type=float, default=0.01)
    parser.add_argument(
        "--samples", type=int, default=1024, help="number of real and of fake samples to measure on"
    )
    chosen = parser.parse_args(words)
    most = GRID.data.held_out_size // 3
    if not 1 <= chosen.samples <= most:
        parser.error(f"--samples must lie between 1 and {most}: three held-out parts are taken.")
    panels: list[Panel] = []
    print(f"{'':<14} {'':<26} estimate  slope est/slope   W1  floor  seen")
    for recipe in (clipping(chosen.clip), penalty(chosen.weight)):
        for task in TASKS:
            critic = starting_critic(
                recipe, width=chosen.width, depth=chosen.depth, seed=chosen.seed
            )
            train(
                critic, task, recipe, updates=chosen.updates, batch=chosen.batch, seed=chosen.seed
            )
            sight = look(critic, task, chosen.samples)
            panels.append((task, recipe, critic, sight))
            print(
                f"{task.title:<14} {recipe.label:<26} {sight.estimate:8.3g} {sight.slope:6.3g}"
                f" {sight.normalized:9.3f} {sight.exact:5.3f} {sight.floor:5.3f} {sight.share:5.2f}"
            )
    draw(panels, chosen.out)


def draw(panels: list[Panel], out: Path) -> None:
    """Write the picture: a row per recipe, and a column with one colour scale per task."""
    figure = Figure(figsize=(11, 8.2), dpi=100, layout="constrained")
    axes = figure.subplots(2, len(TASKS))
    for column, task in enumerate(TASKS):
        here = [panel for panel in panels if panel[0] is task]
        reach = 1.45 * float(task.data.held_out.abs().max())
        line = np.linspace(-reach, reach, CELLS, dtype=np.float32)
        surfaces = [_surface(critic, line) / sight.slope for _, _, critic, sight in here]
        surfaces = [surface - surface.max() for surface in surfaces]
        lowest = min(float(surface.min()) for surface in surfaces)
        levels = MaxNLocator(20).tick_values(lowest, 0)
        for ax, surface, (_, recipe, _, sight) in zip(axes[:, column], surfaces, here, strict=True):
            filled = ax.contourf(line, line, surface, levels, cmap="Blues_r")
            ax.contour(
                line, line, surface, levels, colors="#08306b", linewidths=0.5, linestyles="-"
            )
            ax.plot(*task.data.held_out[:600].T, ".", color=ORANGE, markersize=2.5)
            ax.set_aspect("equal")
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_title(
                f"sees {sight.share:.0%} of the distance:"
                f" {sight.normalized:.2f} of W₁ = {sight.exact:.2f}",
                fontsize=10,
            )
            if column == 0:
                ax.set_ylabel(recipe.label, fontsize=13)
        axes[1, column].set_xlabel(task.title, fontsize=13)
        bar = figure.colorbar(
            filled, ax=axes[:, column], orientation="horizontal", aspect=32, pad=0.02
        )
        bar.set_ticks(MaxNLocator(4).tick_values(lowest, 0), minor=False)
        bar.ax.set_xlim(levels[0], 0)
        bar.set_label(f"a line every {levels[1] - levels[0]:.2g}, 0 at the highest point")
    figure.suptitle(
        "Critics trained to tell real points (dots) from real points plus noise:\n"
        "their value f over its steepest slope, in the data's units: the lighter, the more real",
        fontsize=12,
    )
    # Reduce the colours: smooth shades in full colour would take half a megabyte.
    Image.fromarray(rendered(figure)).quantize(128).save(out, optimize=True)


def _surface(critic: Critic, line: np.ndarray) -> np.ndarray:
    """Return the critic's values on the grid line x line, (cells, cells); rows are the y axis."""
    across, up = np.meshgrid(line, line)
    points = torch.from_numpy(np.stack([across.ravel(), up.ravel()], axis=1))
    with torch.no_grad():
        values: np.ndarray = critic(points).numpy().reshape(across.shape)
    return values


if __name__ == "__main__":
    main()
