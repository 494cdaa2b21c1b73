"""Compute in float64 where the device can. Apple's GPUs (mps) cannot: there the CPU does it."""

from __future__ import annotations

import torch
from torch import Tensor


def has_float64(device: torch.device) -> bool:
    """Return whether the device computes in float64."""
    return device.type != "mps"


def in_float64(tensor: Tensor) -> Tensor:
    """Return the tensor as float64, on its device; on the CPU if the device has no float64."""
    return (tensor if has_float64(tensor.device) else tensor.cpu()).double()
