"""Find out whether there is a CUDA device, and whether its kernels compute real numbers."""

from __future__ import annotations

from typing import Any

import torch


def probe() -> dict[str, Any]:
    """Facts of the first CUDA device; `available` is False if there is none.

    `values_are_real` says whether a product of known matrices is right. Where the CUDA runtime is
    replaced by one without kernels, as in a rehearsal, it is not.
    """
    if not torch.cuda.is_available():
        return {"available": False}
    properties = torch.cuda.get_device_properties(0)
    left = torch.arange(1.0, 17.0, device="cuda").reshape(4, 4)
    right = torch.full((4, 4), 2.0, device="cuda")
    wanted = [[2.0 * sum(range(4 * row + 1, 4 * row + 5))] * 4 for row in range(4)]
    return {
        "available": True,
        "name": properties.name,
        "memory": properties.total_memory,
        "values_are_real": (left @ right).tolist() == wanted,
    }
