"""The kinds of layers that constraints distinguish."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

NORMALIZATION = (_BatchNorm, _InstanceNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
LINEAR = (nn.Linear, _ConvNd)


def batch_norm_layers(critic: nn.Module) -> list[str]:
    """Return the names of the BatchNorm layers, which make samples of a batch interdependent."""
    return [name for name, module in critic.named_modules() if isinstance(module, _BatchNorm)]


def normalization_layers(critic: nn.Module) -> list[str]:
    """Return the names of all normalisation layers, including BatchNorm."""
    return [name for name, module in critic.named_modules() if isinstance(module, NORMALIZATION)]


def has_linear_layers(critic: nn.Module) -> bool:
    """Return whether the critic has a linear or convolution layer."""
    return any(isinstance(module, LINEAR) for module in critic.modules())
