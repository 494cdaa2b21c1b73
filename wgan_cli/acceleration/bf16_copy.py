"""A network's copy for forward passes in bfloat16.

Autocast converts every weight in every pass and every gradient back. The weights of a bfloat16 copy
are rounded once per update, and nothing is converted between its layers.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from wgan_cli.acceleration.cpu_convolutions import use_fast_convolutions
from wgan_cli.models.normalization import ClassNorm2d
from wgan_cli.models.precision import is_marked_float32

_IN_BFLOAT16 = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Embedding, ClassNorm2d)
# Their kernels take float32 scales and statistics with bfloat16 inputs.
_IN_FLOAT32 = (nn.BatchNorm1d, nn.BatchNorm2d)


def bf16_copy_of(network: nn.Module) -> nn.Module | None:
    """A copy with bfloat16 weights that shares the network's BatchNorm weights and all buffers.

    None for a network with parametrized weights or with layers that are not listed above. The
    network's code must support bfloat16, as `NetworkTraits.bf16_copy` states. Call the copy with
    bfloat16 inputs; it may return bfloat16 or float32.
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
    # Compare the exact type: parametrizing a layer derives a new class from the layer's.
    known = not parameters or type(module) in (*_IN_BFLOAT16, *_IN_FLOAT32)
    return known and all(parameter.requires_grad for parameter in parameters)
