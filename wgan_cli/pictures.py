"""Draw samples and charts as RGB pictures, which are uint8 arrays (H, W, 3)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wgan_cli.files import write_atomically

# Matplotlib is imported inside the functions that draw, because most commands do not need it.
if TYPE_CHECKING:
    from wgan_cli.plain_matplotlib import Axes, Figure

# Pillow warns of pictures with more pixels when it opens them, and other programs fail.
MOST_PIXELS = 2**30 // 12
_SIDE = 32
_BINS = 81
_BARS = 64
REAL, FAKE, ESTIMATE = "#e8a33d", "#d0322d", "#1f6fb4"


def grid(images: Tensor, columns: int = 8, gap: int = 2) -> np.ndarray:
    """Arrange uint8 images (n, 1 or 3, h, w) as an RGB picture (H, W, 3), row by row on white.

    Images with sides of at most 16 pixels are enlarged by an integer factor, to at most 32 pixels.
    """
    made = Grid(len(images), images.shape[2:], columns, gap)
    made.add(images)
    return made.picture


class Grid:
    """The picture that `grid` returns, made from images that come in batches.

    `picture` is complete when `add` has been called with `count` images of the given height and
    width.
    """

    def __init__(self, count: int, size: Sequence[int], columns: int = 8, gap: int = 2) -> None:
        self._scale = max(1, _SIDE // max(size))
        self._step = size[0] * self._scale + gap, size[1] * self._scale + gap
        self._columns, self._gap, self._done = min(columns, count), gap, 0
        rows = -(-count // self._columns)
        self._size = rows * self._step[0] + gap, self._columns * self._step[1] + gap

    @property
    def pixels(self) -> int:
        """The number of pixels of the picture."""
        return self._size[0] * self._size[1]

    @cached_property
    def picture(self) -> np.ndarray:
        """The RGB picture (H, W, 3), which takes memory from its first use."""
        return np.full((*self._size, 3), 255, dtype=np.uint8)

    def add(self, images: Tensor) -> None:
        """Put uint8 images (n, 1 or 3, h, w) on the next places."""
        high, wide = self._step
        for index, image in enumerate(images.cpu().permute(0, 2, 3, 1).numpy(), self._done):
            enlarged = image.repeat(self._scale, axis=0).repeat(self._scale, axis=1)
            top = self._gap + index // self._columns * high
            left = self._gap + index % self._columns * wide
            self.picture[top : top + high - self._gap, left : left + wide - self._gap] = enlarged
        self._done += len(images)


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
    # A view, because a large picture needs no second copy.
    with _encoded(picture).getbuffer() as data:
        write_atomically(path, data, durable=False)


def as_png(picture: np.ndarray) -> bytes:
    """Return an RGB picture (H, W, 3) encoded as PNG."""
    return _encoded(picture).getvalue()


def _encoded(picture: np.ndarray) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file


def _limits(real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = real.min(axis=0), real.max(axis=0)
    centre, half = (low + high) / 2, (high - low).max() * 0.65 + 1e-6
    return centre - half, centre + half


def _axes(real: np.ndarray) -> tuple[Figure, Axes]:
    from wgan_cli.plain_matplotlib import Figure

    figure = Figure(figsize=(6, 5), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    low, high = _limits(real)
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    axes.set_aspect("equal")
    return figure, axes


def rendered(figure: Figure) -> np.ndarray:
    """Return the figure rendered as an RGB picture (H, W, 3), uint8."""
    from wgan_cli.plain_matplotlib import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def layer_norms(curves: Mapping[str, Sequence[tuple[str, float]]]) -> np.ndarray:
    """Return a chart of gradient norms by layer of the critic (arXiv 1704.00028, figure 1b).

    `curves` maps "real" and "generated" to their (layer, norm) pairs, from input to output. A flat
    curve means that gradients neither vanish nor explode in the critic.
    """
    figure, axes = _figure()
    for (kind, norms), colour, marker in zip(curves.items(), (REAL, FAKE), "os", strict=True):
        depths, values = range(1, len(norms) + 1), [norm for _, norm in norms]
        axes.plot(depths, values, color=colour, marker=marker, label=f"{kind} samples")
    # A logarithmic scale needs a positive value, but norms are 0 if layers get no gradient.
    if any(norm > 0 for norms in curves.values() for _, norm in norms):
        _logarithmic(axes)
    _whole_numbers(axes)
    axes.set_xlabel("layer of the critic, 1 next to the input")
    axes.set_ylabel("mean norm of ∂f/∂(layer's output)")
    axes.legend(frameon=False)
    return rendered(figure)


def weight_histogram(weights: np.ndarray, clip: float | None) -> np.ndarray:
    """Return a histogram of a critic's weights (n,). If `clip` is given, lines mark ±`clip`."""
    figure, axes = _figure()
    reach = clip or float(np.abs(weights).max()) or 1.0
    counts, edges = np.histogram(weights, bins=_BINS, range=(-reach, reach))
    axes.stairs(counts, edges, fill=True, color=ESTIMATE)
    axes.set_xlim(-1.08 * reach, 1.08 * reach)
    if counts.any():
        _logarithmic(axes)
    axes.set_xlabel("weight of the critic")
    axes.set_ylabel("how many")
    if clip is not None:
        for bound in (-clip, clip):
            axes.axvline(bound, color=FAKE, linestyle="--", linewidth=1.2)
        share = float((np.abs(weights) >= 0.99 * clip).mean())
        axes.set_title(f"{share:.0%} at the clip bounds ±{clip:g}", fontsize=10, y=1)
    return rendered(figure)


def class_histogram(real: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """Return a chart of the share of each class among held-out samples and among generated samples.

    `real` and `fake` count the samples of each class (classes,). Up to 64 classes are drawn as
    bars. With more classes, the shares are sorted and drawn as two curves. If the curve of the
    generated samples is steeper, the generator prefers some classes. If that curve ends earlier,
    the generator misses some classes.
    """
    figure, axes = _figure()
    shares = (real / real.sum(), REAL, "held-out data"), (fake / fake.sum(), FAKE, "generated")
    if len(real) > _BARS:
        for share, colour, label in shares:
            present = np.sort(share[share > 0])[::-1]
            rank = np.arange(1, len(present) + 1)
            # A curve of one class has no line, so mark the first point of each curve.
            axes.plot(rank, present, color=colour, label=label, marker="o", markevery=[0])
        axes.set_xlim(-0.02 * len(real), 1.02 * len(real))
        _logarithmic(axes)
        axes.set_xlabel("classes, by the classifier, the most frequent first")
    else:
        for side, (share, colour, label) in zip((-0.2, 0.2), shares, strict=True):
            axes.bar(np.arange(len(share)) + side, share, 0.4, color=colour, label=label)
        axes.set_xlabel("class, by the classifier")
    _whole_numbers(axes)
    axes.set_ylabel("share")
    axes.legend(frameon=False)
    return rendered(figure)


def curves(
    estimate: tuple[Sequence[float], Sequence[float]],
    panels: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float] | None]],
) -> np.ndarray:
    """Return a chart with a panel for the critic's estimate and a panel for each metric.

    `estimate` holds steps and values. `panels` maps a metric to its steps, its values and its
    values for real samples (None if unknown).
    """
    from wgan_cli.plain_matplotlib import Figure

    columns = min(3, len(panels) + 1)
    rows = -(-(len(panels) + 1) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.1 * rows), dpi=100, layout="constrained")
    grid: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).flat)
    grid[0].plot(*estimate, color=ESTIMATE)
    grid[0].set_title("critic/wasserstein", fontsize=10)
    for axes, (tag, (steps, values, floor)) in zip(grid[1:], panels.items(), strict=False):
        axes.plot(steps, values, color=FAKE, marker="o", markersize=3)
        if floor is not None:
            axes.plot(steps, floor, color=REAL, linestyle=":", label="real against real")
            axes.legend(frameon=False, fontsize=9)
        axes.set_title(tag, fontsize=10)
    for axes in grid[: len(panels) + 1]:
        axes.set_xlabel("generator updates", fontsize=9)
    for axes in grid[len(panels) + 1 :]:
        axes.axis("off")
    return rendered(figure)


def _whole_numbers(axes: Axes) -> None:
    """Put the ticks of the x axis at whole numbers only."""
    from wgan_cli.plain_matplotlib import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _logarithmic(axes: Axes) -> None:
    """Make the y axis logarithmic. Its labels are plain numbers, because typesetting 10^k is slow.

    Minor ticks are only at 2, 3 and 5 times a power of ten, because drawing a tick takes a third of
    a millisecond.
    """
    from wgan_cli.plain_matplotlib import LogFormatter, LogLocator

    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    axes.yaxis.set_major_formatter(LogFormatter())
    axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))


def _figure() -> tuple[Figure, Axes]:
    """Return a small figure with fixed margins, because computing them is as slow as drawing."""
    from wgan_cli.plain_matplotlib import Figure

    figure = Figure(figsize=(5.2, 3.6), dpi=90)
    axes = figure.add_axes((0.19, 0.15, 0.78, 0.75))
    axes.set_title("", y=1)
    axes.xaxis.set_label_coords(0.5, -0.1)
    axes.yaxis.set_label_coords(-0.17, 0.5)
    return figure, axes
