"""A picture of a run: python -m benchmarks.figure RUN OUT.png.

Left: curves of `metrics.jsonl`, namely the critic's estimate, the normalised estimate, and the
exact distance with its floor. Right: the last samples.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from wgan_cli.run_folder import RunFolder

BLUE, RED, GREEN = "#1f6fb4", "#d0322d", "#2a8f5a"


def main() -> None:
    """Draw a run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    draw(RunFolder(arguments.run), arguments.out)


def draw(folder: RunFolder, out: Path) -> None:
    """Write the picture of a run's folder."""
    points = folder.read_metrics()
    figure = Figure(figsize=(11, 4.6), dpi=100, layout="constrained")
    curves, samples = figure.subplots(1, 2, width_ratios=[1.25, 1])
    steps, estimate = _curve(points, "critic/wasserstein")
    curves.plot(steps, estimate, color=BLUE, linewidth=1.2)
    curves.set_xlabel("generator updates")
    curves.set_ylabel("critic/wasserstein", color=BLUE)
    curves.set_ylim(bottom=0)
    distances = curves.twinx()
    steps, distance = _curve(points, "wasserstein/exact")
    distances.plot(steps, distance, color=RED, marker="o", markersize=3, label="wasserstein/exact")
    steps, floor = _curve(points, "wasserstein/exact_real_real")
    distances.plot(steps, floor, color=RED, linestyle=":", label="real against real (the floor)")
    steps, normalized = _curve(points, "wasserstein/normalized")
    label = "wasserstein/normalized"
    distances.plot(steps, normalized, color=GREEN, marker="s", markersize=3, label=label)
    distances.set_ylabel("distance to held-out samples, in data units")
    distances.set_ylim(0, 1.25 * max(distance.max(), normalized.max()))
    distances.legend(loc="upper right", frameon=False)
    picture = sorted(folder.samples.glob("step_*.png"))[-1]
    samples.imshow(np.asarray(Image.open(picture)))
    samples.set_title(f"samples after {int(picture.stem.removeprefix('step_'))} generator updates")
    samples.axis("off")
    FigureCanvasAgg(figure).print_png(str(out))


def _curve(points: list[dict[str, float]], tag: str) -> tuple[np.ndarray, np.ndarray]:
    chosen = [(point["step"], point[tag]) for point in points if tag in point]
    steps, values = np.array(chosen).T
    return steps, values


if __name__ == "__main__":
    main()
