"""The weights that a network multiplies by."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized


@torch.no_grad()
def weights_in_use(network: nn.Module) -> dict[str, Tensor]:
    """All weights by name, as they are used and not what parametrizations make them from."""
    found: dict[str, Tensor] = {}
    for path, module in network.named_modules():
        if isinstance(module, ParametrizationList):
            continue
        names = [name for name, _ in module.named_parameters(recurse=False)]
        if is_parametrized(module):
            names += list(cast(nn.ModuleDict, module.parametrizations))
        prefix = f"{path}." if path else ""
        found.update({prefix + name: getattr(module, name) for name in names})
    return found
