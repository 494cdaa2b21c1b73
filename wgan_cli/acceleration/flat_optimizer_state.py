"""The state of an optimizer whose parameters are the pieces of one flat tensor.

A checkpoint holds torch's own form, with one entry per parameter of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wgan_cli.flat_tensors import FlatBuffer

# The step count, one number for all weights. All other tensors in the states of the package's
# optimizers have the shape of the weights.
_COUNT = "step"


def split_state(state: dict[str, Any], flat: FlatBuffer, indices: Sequence[int]) -> dict[str, Any]:
    """Return the state dict with one entry per network parameter.

    `indices` holds the index of the network's parameter for each part of `flat`.
    """
    entries: dict[int, dict[str, Any]] = {index: {} for index in range(len(indices))}
    pieces = [state["state"][index] for index in sorted(state["state"])]
    for key, value in (pieces[0] if pieces else {}).items():
        if _is_shared(key, value):
            values = [value] * len(entries)
        else:
            values = flat.split(torch.cat([piece[key] for piece in pieces]))
        for index, each in zip(indices, values, strict=True):
            entries[index][key] = each.clone() if isinstance(each, Tensor) else each
    (group,) = state["param_groups"]
    return {
        "state": entries if pieces else {},
        "param_groups": [{**group, "params": list(entries)}],
    }


def join_state(
    state: dict[str, Any], flat: FlatBuffer, indices: Sequence[int], sizes: Sequence[int]
) -> dict[str, Any]:
    """Do the reverse of `split_state`; `sizes` are the lengths of the pieces.

    Raise KeyError, ValueError or RuntimeError if the state belongs to another network.
    """
    (group,) = state["param_groups"]
    if group["params"] != list(range(len(indices))):
        raise ValueError("an optimizer's state is of another network")
    pieces: dict[int, dict[str, Any]] = {index: {} for index in range(len(sizes))}
    entries = state["state"]
    for key, value in entries.get(indices[0], {}).items() if entries else ():
        if not _is_shared(key, value):
            joined = torch.zeros_like(flat.flat)
            for index, part in zip(indices, flat.split(joined), strict=True):
                part.copy_(entries[index][key])
            values: list[Any] = list(joined.split(list(sizes)))
        elif isinstance(value, Tensor):
            # Optimizers increment the count of each parameter, so each needs its own.
            values = [value.clone() for _ in sizes]
        else:
            values = [value] * len(sizes)
        for index, each in zip(pieces, values, strict=True):
            pieces[index][key] = each
    return {
        "state": pieces if entries else {},
        "param_groups": [{**group, "params": list(pieces)}],
    }


def _is_shared(key: str, value: Any) -> bool:
    """Return True if all parameters share this state of the optimizer, such as the step count."""
    return key == _COUNT or not isinstance(value, Tensor)
