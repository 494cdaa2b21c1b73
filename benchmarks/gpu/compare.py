"""Rules by which two results count as the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def relative_error(found: Tensor, exact: Tensor) -> float:
    """|found - exact| / |exact|, Euclidean, in float64; infinity if that is no number."""
    found, exact = found.detach().double().cpu(), exact.detach().double().cpu()
    error = float((found - exact).norm() / exact.norm().clamp_min(1e-300))
    return error if error == error else float("inf")


def movement(start: Mapping[str, Tensor], end: Mapping[str, Tensor]) -> Tensor:
    """How far all weights moved, as one vector in float64 on the CPU."""
    return torch.cat(
        [(end[name].double().cpu() - start[name].double().cpu()).flatten() for name in start]
    )


def cosine(one: Tensor, other: Tensor) -> float:
    """The cosine between two movements; 1 if neither moved, 0 if only one did."""
    lengths = float(one.norm()), float(other.norm())
    if lengths == (0.0, 0.0):
        return 1.0
    if 0.0 in lengths:
        return 0.0
    result = float(one @ other) / (lengths[0] * lengths[1])
    return result if result == result else 0.0


def leaves(state: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All values of nested dicts and lists, each with its path."""
    if isinstance(state, Mapping):
        for key in state:
            yield from leaves(state[key], f"{path}/{key}")
    elif isinstance(state, Sequence) and not isinstance(state, str):
        for index, value in enumerate(state):
            yield from leaves(value, f"{path}/{index}")
    else:
        yield path.lstrip("/"), state


def difference(one: Any, other: Any) -> dict[str, Any]:
    """Where two states of training differ: the number of unequal values, and the farthest tensor.

    `equal` is True if all values have the same bits. `largest` is the largest relative difference
    of two tensors, and `where` names it.
    """
    first, second = dict(leaves(one)), dict(leaves(other))
    unequal = sorted(first.keys() ^ second.keys())
    largest, where = 0.0, ""
    for path in first.keys() & second.keys():
        left, right = first[path], second[path]
        if not isinstance(left, Tensor) or not isinstance(right, Tensor):
            if left != right:
                unequal.append(path)
            continue
        if left.shape != right.shape or left.dtype != right.dtype:
            unequal.append(path)
            largest, where = float("inf"), path
        elif not torch.equal(_bits(left), _bits(right)):
            unequal.append(path)
            error = relative_error(left, right)
            if error >= largest:
                largest, where = error, path
    result: dict[str, Any] = {"equal": not unequal, "values": len(first), "unequal": len(unequal)}
    if unequal:
        result.update(largest=largest, where=where, names=unequal[:5])
    return result


def _bits(tensor: Tensor) -> Tensor:
    """The tensor's bytes, so that equal NaNs are equal and 0 is not -0."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
