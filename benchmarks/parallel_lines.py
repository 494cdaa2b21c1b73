"""Which distances are continuous: python -m benchmarks.parallel_lines OUT.png [--folder DIR].

Trains Example 1 of arXiv 1701.07875 with three losses, by the real command. Left: the divergences
between the lines at 0 and at theta in closed form, with the estimates of the 1-Lipschitz critic
during training. Right: theta during training. Runs that exist in DIR are not trained again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from wgan_cli.run_folder import CONFIG, RunFolder, read_config

RUNS = {
    "wasserstein": ["experiment=parallel_lines"],
    "minimax": ["experiment=parallel_lines_gan"],
    "non_saturating": ["experiment=parallel_lines_gan", "loss.saturating=false"],
}
LABELS = {
    "wasserstein": "Wasserstein, 1-Lipschitz critic",
    "minimax": "GAN, minimax",
    "non_saturating": "GAN, non-saturating",
}
# Okabe and Ito's colours: told apart with any colour vision.
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
COLOURS = {"wasserstein": BLUE, "minimax": ORANGE, "non_saturating": GREEN}
STYLES = {"wasserstein": "-", "minimax": "--", "non_saturating": "-."}
CEILING = 1.3


def main() -> None:
    """Train the runs that do not exist yet, print the last theta of each, and draw the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--folder", type=Path, help="folder of the runs (default: a temporary one)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        parent = arguments.folder or Path(temporary)
        runs = {name: _run(parent / name, words) for name, words in RUNS.items()}
        for name, folder in runs.items():
            steps, thetas = _path(folder)
            print(f"{LABELS[name]:<32} theta {thetas[-1]:+.4f} after {steps[-1]:.0f} updates")
        draw(runs, arguments.out)


def _run(path: Path, words: list[str]) -> RunFolder:
    folder = RunFolder(path)
    if not folder.holds_run():
        command = [str(Path(sys.executable).with_name("wgan-train")), *words]
        done = subprocess.run([*command, f"hydra.run.dir={path}"], check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)} ended with exit code {done.returncode}.")
    return folder


def draw(runs: dict[str, RunFolder], out: Path) -> None:
    """Write the picture."""
    figure = Figure(figsize=(11, 5.4), dpi=100, layout="constrained")
    distances, training = figure.subplots(1, 2)
    _draw_closed_forms(distances)
    _draw_estimates(distances, runs["wasserstein"])
    distances.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3, fontsize=9)
    for name, folder in runs.items():
        steps, thetas = _path(folder)
        training.plot(
            steps,
            thetas,
            STYLES[name],
            color=COLOURS[name],
            linewidth=2,
            label=f"{LABELS[name]}: θ ends at {thetas[-1]:.3f}",
        )
    training.axhline(0, color="0.6", linewidth=0.8)
    training.set_title("Training: the generator's θ")
    training.set_xlabel("generator updates (one SGD rate for all)")
    training.set_ylabel("θ")
    training.set_ylim(distances.get_ylim())
    training.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), fontsize=9)
    FigureCanvasAgg(figure).print_png(str(out))


def _draw_closed_forms(axes: Axes) -> None:
    """Plot Example 1's divergences: W1 is |theta|; the others are 0 at 0 and constant elsewhere."""
    ends = np.array([-1.0, 0.0, 1.0])
    axes.plot(ends, np.abs(ends), color=BLUE, linewidth=2, label="W1 = |θ|")
    constants = (
        ("TV = 1 for θ ≠ 0", 1.0, PURPLE, "--"),
        ("JS = log 2 for θ ≠ 0", float(np.log(2)), ORANGE, "-."),
    )
    for label, level, colour, style in constants:
        axes.plot(ends[::2], [level, level], style, color=colour, linewidth=2, label=label)
        axes.plot(0, level, "o", markersize=7, markerfacecolor="white", color=colour)
    top = CEILING - 0.13
    axes.plot(ends[::2], [top, top], ":", color="black", linewidth=1.5, label="KL = ∞ for θ ≠ 0")
    axes.plot(0, top, "o", markersize=7, markerfacecolor="white", color="black")
    for theta in (-0.9, -0.6, -0.3, 0.3, 0.6, 0.9):
        axes.annotate(
            "",
            xy=(theta, CEILING),
            xytext=(theta, top),
            arrowprops={"arrowstyle": "->", "color": "black"},
        )
    axes.plot(0, 0, "o", markersize=7, color="black", label="all four at θ = 0", zorder=4)
    axes.set_title("Closed forms: data on the line at 0, samples on the line at θ")
    axes.set_xlabel("θ")
    axes.set_ylabel("divergence of samples from data")
    axes.set_ylim(-0.08, CEILING)
    # The infinite divergence is drawn at CEILING, so no tick has a number there.
    axes.set_yticks(np.linspace(0, 1, 6))


def _draw_estimates(axes: Axes, folder: RunFolder) -> None:
    """Plot the critic's estimates at the thetas that the generator passed."""
    tags = ("generator/theta", "wasserstein/normalized")
    visited = [[point[tag] for tag in tags] for point in folder.read_metrics() if tags[1] in point]
    thetas, estimates = np.array(visited).T
    axes.plot(
        thetas,
        estimates,
        "D",
        color="black",
        markerfacecolor="#56b4e9",
        markersize=4.5,
        linewidth=0,
        label="the critic's estimate",
        zorder=3,
    )


def _path(folder: RunFolder) -> tuple[np.ndarray, np.ndarray]:
    """Return the generator updates and theta at each, from the initial value."""
    start = read_config(folder.path / CONFIG)["model"]["generator"]["theta"]
    logged = [
        (point["step"], point["generator/theta"])
        for point in folder.read_metrics()
        if "generator/theta" in point
    ]
    steps, thetas = np.array([(0, start), *logged]).T
    return steps, thetas


if __name__ == "__main__":
    main()
