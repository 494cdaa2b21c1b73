"""Gradients in a deep critic: python -m benchmarks.gradient_depth OUT.png [--updates N].

As in figure 1b (left) of arXiv 1704.00028: the norm of the critic's gradient at each layer of a
deep critic of the Swiss roll, with weight clipping at three bounds and with the gradient penalty.
Two differences: the generator is fixed at the data plus noise (`fixed_generator`), where the
paper's is trained; and the norms are taken after training, where the paper's are "during training".
All critics have the same network, batches and number of updates; clipping uses RMSprop at 5e-5, the
penalty Adam at 1e-3. If the gradient is far below RMSprop's epsilon of 1e-8, weights stay at their
initial values; the last column has the ratio before training, to show what training changed.
"""

from __future__ import annotations

import copy
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from benchmarks.fixed_generator import (
    SWISS_ROLL,
    arguments_of,
    clipping,
    penalty,
    starting_critic,
    train,
)
from wgan_cli.metrics.lipschitz import layer_gradient_norms
from wgan_cli.models.mlp import Critic

CLIPS = (0.001, 0.01, 0.1)
# Okabe and Ito's colours and markers: distinguishable with any colour vision, and in grey.
COLOURS, MARKERS = ("#56b4e9", "#0072b2", "#cc79a7", "#d55e00"), "v^so"


def main(words: list[str] | None = None) -> None:
    """Train the four critics, print a row for each, and draw the picture."""
    parser = arguments_of(__doc__, updates=600, batch=128, depth=12)
    parser.add_argument(
        "--samples", type=int, default=1024, help="number of held-out points to average over"
    )
    chosen = parser.parse_args(words)
    if chosen.depth < 2:
        parser.error("--depth must be at least 2: a factor per layer needs two hidden layers.")
    curves: dict[str, list[float]] = {}
    print(f"{'':<28} first layer  last hidden      ratio  factor per layer  before training")
    for recipe in (*map(clipping, CLIPS), penalty(chosen.weight)):
        critic = starting_critic(recipe, width=chosen.width, depth=chosen.depth, seed=chosen.seed)
        before = factor(norms_by_layer(critic, chosen.samples))
        train(
            critic, SWISS_ROLL, recipe, updates=chosen.updates, batch=chosen.batch, seed=chosen.seed
        )
        norms = norms_by_layer(critic, chosen.samples)
        curves[recipe.label] = norms
        print(
            f"{recipe.label:<28} {norms[0]:11.2g} {norms[-2]:12.2g} {norms[0] / norms[-2]:10.2g}"
            f" {factor(norms):17.3g} {before:16.3g}"
        )
    draw(curves, chosen.out)


def norms_by_layer(critic: Critic, count: int) -> list[float]:
    """Return the mean norm of df/d(output) of each layer on held-out data, first layer first.

    The last layer's output is f itself, so its norm is 1. Computed in float64: with a small clip,
    the squares of the gradients would underflow in float32.
    """
    precise = copy.deepcopy(critic).double()
    samples = SWISS_ROLL.data.held_out[:count].double()
    return [norm for _, norm in layer_gradient_norms(precise, samples)]


def factor(norms: list[float]) -> float:
    """Return the mean factor by which a hidden layer multiplies the gradient, towards the input."""
    *_, last, _ = norms
    return (norms[0] / last) ** (1 / (len(norms) - 2))


def draw(curves: dict[str, list[float]], out: Path) -> None:
    """Write the picture."""
    figure = Figure(figsize=(8.4, 5.2), dpi=100, layout="constrained")
    axes = figure.subplots()
    for (label, norms), colour, marker in zip(curves.items(), COLOURS, MARKERS, strict=True):
        axes.semilogy(
            range(1, len(norms) + 1),
            norms,
            color=colour,
            marker=marker,
            linewidth=2,
            label=f"{label}: × {factor(norms):.3g} per layer",
        )
    axes.axhline(1, color="0.6", linewidth=0.8, zorder=0)
    axes.xaxis.set_major_locator(MultipleLocator(1))
    axes.set_xlabel("layer of the critic: 1 is next to the input, the last gives the score f")
    axes.set_ylabel("mean norm of ∂f/∂(layer's output)")
    axes.set_title(
        "Gradients on their way back through a deep critic (Swiss roll):\n"
        "clipping lets them vanish or explode, the gradient penalty does not"
    )
    axes.grid(axis="y", color="0.9")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    FigureCanvasAgg(figure).print_png(str(out))


if __name__ == "__main__":
    main()
