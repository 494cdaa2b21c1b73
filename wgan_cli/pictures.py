"""Draw samples: grids of images, and scatter plots of 2D points."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wgan_cli.files import write_atomically

# Functions that draw import Matplotlib themselves: most commands do not need it.
if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDE = 32
REAL, FAKE = "#e8a33d", "#d0322d"


def grid(images: Tensor, columns: int = 8, gap: int = 2) -> np.ndarray:
    """Arrange uint8 images (n, 1 or 3, h, w) as an RGB picture (H, W, 3), row by row on white.

    Images with sides of at most 16 pixels are enlarged by an integer factor, to at most 32 pixels.
    """
    count, _, height, width = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    scale = max(1, _SIDE // max(height, width))
    pixels = images.cpu().permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy()
    pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    high, wide = height * scale + gap, width * scale + gap
    picture = np.full((rows * high + gap, columns * wide + gap, 3), 255, dtype=np.uint8)
    for index, image in enumerate(pixels):
        top, left = gap + index // columns * high, gap + index % columns * wide
        picture[top : top + high - gap, left : left + wide - gap] = image
    return picture


def scatter(
    real: np.ndarray,
    fake: np.ndarray,
    scores: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Draw real and generated 2D points, (n, 2) each, as an RGB picture (H, W, 3).

    `scores` holds x values, y values and the critic's scores (len(ys), len(xs)). If it is given,
    filled contours of the scores are drawn behind the points.
    """
    figure, axes = _axes(real)
    if scores is not None:
        contours = axes.contourf(*scores, levels=16, cmap="viridis", alpha=0.85)
        figure.colorbar(contours, ax=axes, label="critic score f(x)")
    axes.scatter(real[:, 0], real[:, 1], s=6, color=REAL, label="real", linewidths=0)
    axes.scatter(fake[:, 0], fake[:, 1], s=6, color=FAKE, label="generated", linewidths=0)
    axes.legend(loc="upper right", markerscale=2.5)
    return rendered(figure)


def points(samples: np.ndarray) -> np.ndarray:
    """Draw generated 2D points (n, 2), without real ones, as an RGB picture (H, W, 3)."""
    figure, axes = _axes(samples)
    axes.scatter(samples[:, 0], samples[:, 1], s=6, color=FAKE, linewidths=0)
    return rendered(figure)


def plane(real: np.ndarray, size: int = 80) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """Return the x values, y values and points (size², 2) of a square grid around `real`."""
    low, high = _limits(real)
    xs, ys = np.linspace(low[0], high[0], size), np.linspace(low[1], high[1], size)
    points = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2).astype(np.float32)
    return xs, ys, torch.from_numpy(points)


def save_png(path: Path, picture: np.ndarray) -> None:
    """Write an RGB picture (H, W, 3) atomically as PNG. Raises `DiskError`."""
    write_atomically(path, as_png(picture), durable=False)


def as_png(picture: np.ndarray) -> bytes:
    """Return an RGB picture (H, W, 3) encoded as PNG."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()


def _limits(real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = real.min(axis=0), real.max(axis=0)
    centre, half = (low + high) / 2, (high - low).max() * 0.65 + 1e-6
    return centre - half, centre + half


def _axes(real: np.ndarray) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    low, high = _limits(real)
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    axes.set_aspect("equal")
    return figure, axes


def rendered(figure: Figure) -> np.ndarray:
    """Return the figure rendered as an RGB picture (H, W, 3), uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
