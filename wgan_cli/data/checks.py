"""Checks of every data set: enough samples, finite values, not all samples equal."""

from __future__ import annotations

import torch
from torch import Tensor

from wgan_cli.errors import DataError


def check_count(name: str, part: str, count: int) -> None:
    """Raise `DataError` for a part of fewer than 8 samples."""
    if count < 8:
        raise DataError(f"{name}: the {part} part has {count} samples; it needs 8 or more.")


def check_samples(name: str, part: str, samples: Tensor) -> None:
    """Raise `DataError` for NaN, for images that are not uint8, and if all samples are equal."""
    if samples.is_floating_point() and not samples.isfinite().all():
        raise DataError(f"{name}: the {part} part holds NaN or infinite values.")
    if samples.ndim == 4 and samples.dtype != torch.uint8:
        raise DataError(f"{name}: images must be uint8, not {samples.dtype}.")
    # Compare a few samples first: almost always they differ.
    if all(bool((some == samples[0]).all()) for some in (samples[:64], samples[64:])):
        raise DataError(
            f"{name}: all {len(samples)} samples of the {part} part are equal, so there is nothing"
            " to learn or to measure."
        )


def check_batch_size(name: str, batch_size: int, size: int) -> None:
    """Raise `DataError` if a batch is larger than the training part."""
    if batch_size > size:
        raise DataError(
            f"batch_size={batch_size} is larger than the training part of {name}: {size} samples."
        )
