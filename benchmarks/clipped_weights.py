"""The weights of trained critics: python -m benchmarks.clipped_weights OUT.png [--updates N].

As in figure 1b (right) of arXiv 1704.00028: the weights of a critic of the Swiss roll, trained with
weight clipping and with the gradient penalty. The generator is fixed at the data plus noise
(`fixed_generator`). The initial weights of the clipped critic are spread within its bounds, so that
weights at the bounds come from training. Both critics have the same network, batches and number of
updates; clipping uses RMSprop at 5e-5, the penalty Adam at 1e-3.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from benchmarks.fixed_generator import (
    SWISS_ROLL,
    arguments_of,
    clipping,
    penalty,
    starting_critic,
    train,
)
from wgan_cli.models.mlp import Critic

BLUE, ORANGE = "#0072b2", "#d55e00"
BINS = 81


def main(words: list[str] | None = None) -> None:
    """Train both critics, print how many weights are at the bounds, and draw the picture."""
    parser = arguments_of(__doc__, updates=1500, batch=128, depth=3)
    parser.add_argument("--clip", type=float, default=0.01)
    chosen = parser.parse_args(words)
    ends: dict[str, tuple[np.ndarray, np.ndarray, float | None]] = {}
    print(f"{'':<26} {'':<6} largest |w|  at 0.99 of it  outermost bins")
    for recipe in (clipping(chosen.clip), penalty(chosen.weight)):
        critic = starting_critic(recipe, width=chosen.width, depth=chosen.depth, seed=chosen.seed)
        before = weights_of(critic)
        train(
            critic, SWISS_ROLL, recipe, updates=chosen.updates, batch=chosen.batch, seed=chosen.seed
        )
        after = weights_of(critic)
        for moment, weights in (("start", before), ("end", after)):
            share = float((np.abs(weights) >= 0.99 * reach(weights, recipe.within)).mean())
            print(
                f"{recipe.label:<26} {moment:<6} {np.abs(weights).max():11.4f} {share:14.2%}"
                f" {outermost(weights, recipe.within):15.2%}"
            )
        ends[recipe.label] = (before, after, recipe.within)
    draw(ends, chosen.out)


def weights_of(critic: Critic) -> np.ndarray:
    """Return all parameters in one array; biases too, because clipping clips them."""
    row: np.ndarray = torch.cat([p.detach().flatten() for p in critic.parameters()]).numpy()
    return row


def reach(weights: np.ndarray, bound: float | None) -> float:
    """Return the bound of the weights: the clip, or without clipping the largest weight."""
    return bound or float(np.abs(weights).max())


def shares_by_bin(weights: np.ndarray, end: float) -> np.ndarray:
    """Return the fractions of weights in `BINS` equal bins from -end to end."""
    counts, _ = np.histogram(weights, bins=BINS, range=(-end, end))
    return counts / len(weights)


def outermost(weights: np.ndarray, bound: float | None) -> float:
    """Return the fraction of weights in the first and the last bin of their range."""
    return float(shares_by_bin(weights, reach(weights, bound))[[0, -1]].sum())


def draw(ends: dict[str, tuple[np.ndarray, np.ndarray, float | None]], out: Path) -> None:
    """Write the picture: for each critic a panel with its weights before and after training."""
    figure = Figure(figsize=(10, 4.4), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(ends))
    pairs = zip(panels, ends.items(), (BLUE, ORANGE), strict=True)
    for axes, (label, (before, after, bound)), colour in pairs:
        end = reach(after, bound)
        shares = shares_by_bin(after, end)
        axes.stairs(shares, np.linspace(-end, end, BINS + 1), fill=True, color=colour)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlim(-1.06 * end, 1.06 * end)
        axes.set_xlabel("weight of the critic")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_title(
            f"{label}\n{outermost(after, bound):.1%} in the two outermost bins"
            f" ({outermost(before, bound):.1%} before training)",
            fontsize=11,
        )
    panels[0].set_ylabel(f"share of all weights, in {BINS} bins")
    figure.suptitle(
        "All weights of a trained critic (Swiss roll): clipping drives them to its bounds"
    )
    FigureCanvasAgg(figure).print_png(str(out))


if __name__ == "__main__":
    main()
