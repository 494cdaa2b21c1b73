"""Layers that stay in float32 where a network runs in bfloat16."""

from contextlib import nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

Layer = TypeVar("Layer", bound=nn.Module)


def mark_float32(layer: Layer) -> Layer:
    """The layer, marked; `is_marked_float32` tells. To be called by `run_in_float32`."""
    layer.marked_float32 = True  # type: ignore[assignment]
    return layer


def is_marked_float32(layer: nn.Module) -> bool:
    """Whether a bfloat16 copy of its network shares this layer."""
    return getattr(layer, "marked_float32", False)


def run_in_float32(layer: nn.Module, inputs: Tensor) -> Tensor:
    """What a `mark_float32` layer makes of its inputs.

    Scores of real and generated samples can be closer together than bfloat16's eight bits tell
    apart, and all scores of a batch would then be rounded the same way.
    """
    device = inputs.device.type
    lowered = torch.is_autocast_enabled(device)
    with torch.autocast(device, enabled=False) if lowered else nullcontext():
        result: Tensor = layer(to_float32(inputs))
    return result


def to_float32(values: Tensor) -> Tensor:
    """Low precision raised to float32; float32 and float64 as they are."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
