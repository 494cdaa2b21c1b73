"""The effective weights of a network, after its parametrizations."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized


@torch.no_grad()
def weights_in_use(network: nn.Module) -> dict[str, Tensor]:
    """Return all weights by name; a parametrised weight has the value that the network uses."""
    weights: dict[str, Tensor] = {}
    for path, module in network.named_modules():
        if isinstance(module, ParametrizationList):
            continue
        names = [name for name, _ in module.named_parameters(recurse=False)]
        if is_parametrized(module):
            names += list(cast(nn.ModuleDict, module.parametrizations))
        prefix = f"{path}." if path else ""
        weights.update({prefix + name: getattr(module, name) for name in names})
    return weights
