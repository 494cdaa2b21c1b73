"""Draw samples from a generator in batches, and write them to a file as they come."""

from __future__ import annotations

import bisect
import io
import math
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from wgan_cli.data.feeds import to_bytes
from wgan_cli.errors import ConfigError, DivergedError
from wgan_cli.evaluation.sampling import generate
from wgan_cli.files import replacing
from wgan_cli.pictures import MOST_PIXELS, Grid, points, save_png
from wgan_cli.randomness import Draws, Stream

# The seeds of the noise count these batches, so another size would give other samples.
_BATCH = 256
COLUMNS = 8


def draw(
    generator: nn.Module,
    latent_dim: int,
    count: int,
    seed: int,
    *,
    classes: int = 0,
    chosen: int | None = None,
) -> Iterator[Tensor]:
    """Yield float32 samples (n, *shape) in batches, in eval mode. Sample i does not depend on n.

    A conditional generator has `classes`: all samples are of the class `chosen`, or else eight of
    each class in turn. Raises `DivergedError` for samples that are NaN or infinite.
    """
    cpu = torch.device("cpu")
    for batch, start in enumerate(range(0, count, _BATCH)):
        draws = Draws(seed, Stream.SAMPLES, step=1, inner=batch)
        latent = draws.normal((_BATCH, latent_dim), cpu)[: count - start]
        labels = None
        if chosen is not None:
            labels = torch.full((len(latent),), chosen)
        elif classes:
            labels = torch.arange(start, start + len(latent)) // COLUMNS % classes
        samples = generate(generator, latent, labels)
        if not samples.isfinite().all():
            raise DivergedError("The generator gives samples that are NaN or infinite.")
        yield samples


def write(path: Path, batches: Iterator[Tensor], count: int, *, rows_of_classes: bool) -> None:
    """Write `count` samples, which come in batches, to a .npy file or as a .png picture.

    If an error ends the batches, no file is left. With `rows_of_classes`, a grid of images has
    eight columns. Raises `ConfigError` for samples that no picture can show.
    """
    first = next(batches)
    batches = chain([first], batches)
    shape = tuple(first.shape[1:])
    if path.suffix == ".npy":
        _write_npy(path, batches, (count, *shape))
    elif len(shape) == 3 and shape[0] in (1, 3):
        _write_grid(path, batches, count, shape[1:], rows_of_classes=rows_of_classes)
    elif shape == (2,):
        # One array from the start: small tensors that stay between large ones that are freed
        # would keep the C library from using the memory again.
        samples = np.empty((count, 2), np.float32)
        for start, batch in zip(range(0, count, _BATCH), batches, strict=True):
            samples[start : start + _BATCH] = batch.numpy()
        save_png(path, points(samples))
    else:
        raise ConfigError(f"Samples of shape {shape} make no picture: name a .npy file.")


def _write_npy(path: Path, batches: Iterator[Tensor], shape: tuple[int, ...]) -> None:
    """Write what `numpy.save` writes for all samples together: images as uint8, else float32."""
    images = len(shape) == 4
    kind = np.dtype(np.uint8 if images else np.float32)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header,
        {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape},
    )
    with replacing(path, header.tell() + math.prod(shape) * kind.itemsize) as file:
        file.write(header.getbuffer())
        for batch in batches:
            array = (to_bytes(batch) if images else batch).numpy()
            file.write(np.ascontiguousarray(array, kind).data)


def _write_grid(
    path: Path,
    batches: Iterator[Tensor],
    count: int,
    size: tuple[int, ...],
    *,
    rows_of_classes: bool,
) -> None:
    def grid(n: int) -> Grid:
        return Grid(n, size, COLUMNS if rows_of_classes else max(COLUMNS, math.isqrt(n)))

    if count > 1 and grid(count).pixels > MOST_PIXELS:
        fitting = range(1, count + 1)
        most = bisect.bisect_right(fitting, MOST_PIXELS, key=lambda n: grid(n).pixels)
        raise ConfigError(
            f"--n {count}: a .png holds at most {max(1, most)} of these images; name a .npy file"
            " with --out."
        )
    picture = grid(count)
    for batch in batches:
        picture.add(to_bytes(batch))
    save_png(path, picture.picture)
