"""Layers that stay in float32 when the rest of a network runs in bfloat16."""

from contextlib import nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

Layer = TypeVar("Layer", bound=nn.Module)


def mark_float32(layer: Layer) -> Layer:
    """Mark a layer to stay in float32, and return the layer.

    In `forward`, call the layer with `run_in_float32(layer, inputs)`.
    """
    layer.marked_float32 = True  # type: ignore[assignment]
    return layer


def is_marked_float32(layer: nn.Module) -> bool:
    """Return whether a layer is marked. A bfloat16 copy of a network shares marked layers."""
    return getattr(layer, "marked_float32", False)


def run_in_float32(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Run a layer in float32, even under autocast. The last layer of a critic needs this.

    The scores of real and generated samples may differ so little that bfloat16, which has eight
    significant bits, would round them to the same number.
    """
    device = inputs.device.type
    autocast = torch.is_autocast_enabled(device)
    with torch.autocast(device, enabled=False) if autocast else nullcontext():
        result: Tensor = layer(to_float32(inputs))
    return result


def to_float32(values: Tensor) -> Tensor:
    """Convert bfloat16 and float16 values to float32. Leave float32 and float64 unchanged."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
