"""A network's copy for passes in bfloat16.

Autocast converts every weight in every pass and every gradient back; a twin's weights are rounded
once an update, and nothing is converted between its layers.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from wgan_cli.acceleration.cpu_convolutions import use_fast_convolutions
from wgan_cli.models.normalization import ClassNorm2d
from wgan_cli.models.precision import is_marked_float32

_IN_BFLOAT16 = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Embedding, ClassNorm2d)
# Their kernels take float32 scales and statistics with bfloat16 maps.
_IN_FLOAT32 = (nn.BatchNorm1d, nn.BatchNorm2d)
_PACKAGE = "wgan_cli.models."


def bf16_copy_of(network: nn.Module) -> nn.Module | None:
    """A copy whose layers have bfloat16 weights, and share all else: BatchNorm and buffers.

    None for networks whose code may not go with that: of other packages, with parametrized weights,
    or with layers that are not known to. Call it with bfloat16; what it returns may be either.
    """
    ours = type(network).__module__.startswith(_PACKAGE)
    if not ours or not all(map(_known, network.modules())):
        return None
    twin = copy.deepcopy(network)
    for own, other in zip(network.modules(), twin.modules(), strict=True):
        other._buffers.update(own._buffers)
        if is_marked_float32(own) or not isinstance(own, _IN_BFLOAT16):
            other._parameters.update(own._parameters)
        else:
            for parameter in other.parameters(recurse=False):
                parameter.data = parameter.data.to(torch.bfloat16)
        use_fast_convolutions(other)
    return twin


def _known(module: nn.Module) -> bool:
    own = list(module.parameters(recurse=False))
    # Not isinstance: a parametrized layer's class is derived from its own.
    known = not own or type(module) in (*_IN_BFLOAT16, *_IN_FLOAT32)
    return known and all(parameter.requires_grad for parameter in own)
