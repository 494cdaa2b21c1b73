"""TF32: float32 matrix products and convolutions with ten bits of precision, on recent GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def use_ieee_float32() -> None:
    """Compute in float32 what is float32: no TF32 in products, convolutions and recurrent layers.

    torch has old and new switches for TF32, and raises in a user's code if they disagree. Setting
    the old ones first and then the new ones makes both the same in torch 2.10 to 2.14.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    _set("ieee")


@contextmanager
def tf32_allowed() -> Iterator[None]:
    """Use TF32 inside the block, for products and convolutions of float32 numbers on CUDA."""
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    _set("tf32")
    try:
        yield
    finally:
        use_ieee_float32()


def _set(precision: str) -> None:
    torch.backends.cuda.matmul.fp32_precision = precision
    # A user's `cudnn.flags()` sets the next two to this one when it ends.
    torch.backends.cudnn.fp32_precision = precision
    torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]
    torch.backends.cudnn.rnn.fp32_precision = precision  # type: ignore[attr-defined]
