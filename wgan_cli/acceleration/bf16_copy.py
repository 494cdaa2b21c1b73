"""A copy of a network for forward passes in bfloat16.

Autocast converts every weight to bfloat16 in every pass, and every gradient back to float32. The
weights of a bfloat16 copy are rounded once per update, and its layers need no conversions.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from wgan_cli.acceleration.fast_convolutions import use_fast_convolutions
from wgan_cli.models.normalization import ClassNorm2d
from wgan_cli.models.precision import is_marked_float32

_IN_BFLOAT16 = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Embedding, ClassNorm2d)
# The kernels of these layers take float32 scales and statistics with bfloat16 inputs.
_IN_FLOAT32 = (nn.BatchNorm1d, nn.BatchNorm2d)


def bf16_copy_of(network: nn.Module) -> nn.Module | None:
    """Return a copy of the network with bfloat16 weights, or None if no copy is possible.

    The copy shares the network's BatchNorm weights and all buffers. No copy is possible if a layer
    is parametrized, or has weights but is not listed above. The network's code must support
    bfloat16; the trait `NetworkTraits.bf16_copy` states this. Call the copy with bfloat16 inputs.
    Its output may be bfloat16 or float32.
    """
    if not all(map(_known, network.modules())):
        return None
    bf16_copy = copy.deepcopy(network)
    for module, copied in zip(network.modules(), bf16_copy.modules(), strict=True):
        copied._buffers.update(module._buffers)
        if is_marked_float32(module) or not isinstance(module, _IN_BFLOAT16):
            copied._parameters.update(module._parameters)
        else:
            for parameter in copied.parameters(recurse=False):
                parameter.data = parameter.data.to(torch.bfloat16)
        use_fast_convolutions(copied)
    return bf16_copy


def _known(module: nn.Module) -> bool:
    parameters = list(module.parameters(recurse=False))
    # Compare the exact type, because parametrizing a layer gives it a subclass of its type.
    known = not parameters or type(module) in (*_IN_BFLOAT16, *_IN_FLOAT32)
    return known and all(parameter.requires_grad for parameter in parameters)
