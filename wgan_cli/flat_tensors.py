"""Store tensors next to each other in memory, so that one kernel can process all of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class FlatBuffer:
    """One block of zeros that holds tensors with the shapes and strides of `like`, without gaps.

    `flat` (n,) contains the elements of all tensors. `parts` are views of `flat`, one for each
    tensor of `like`. `whole` (n + room,) is `flat` followed by `room` extra elements.
    """

    def __init__(self, like: Sequence[Tensor], room: int = 0) -> None:
        self._shapes = [(tensor.shape, torch.empty_like(tensor).stride()) for tensor in like]
        size = sum(tensor.numel() for tensor in like)
        self.whole = torch.zeros(size + room, dtype=like[0].dtype, device=like[0].device)
        self.flat = self.whole[:size]
        self.parts = self.split(self.flat)

    def split(self, flat: Tensor) -> list[Tensor]:
        """Return views of the argument `flat`, with the same shapes and offsets as `parts`.

        The argument is contiguous and has at least n elements; any after the first n are not used.
        """
        parts, start = [], flat.storage_offset()
        for shape, stride in self._shapes:
            parts.append(flat.as_strided(shape, stride, start))
            start += shape.numel()
        return parts


def flatten_in_place(tensors: Sequence[Tensor]) -> FlatBuffer:
    """Move tensors of one dtype and device into a new buffer, as views. Return the buffer."""
    buffer = FlatBuffer(tensors)
    for tensor, part in zip(tensors, buffer.parts, strict=True):
        part.copy_(tensor.detach())
        tensor.data = part
    return buffer


def merge_adjacent(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Join tensors that are adjacent in memory, so that elementwise operations need fewer calls.

    Return views of the same memory, in order of address: a view (n,) for each group of adjacent
    tensors. A tensor that is adjacent to no other keeps its shape.
    """
    merged: list[Tensor] = []
    for tensor in sorted(tensors, key=_address):
        last = merged[-1] if merged else None
        if last is not None and _follows(tensor, last):
            merged[-1] = last.as_strided((last.numel() + tensor.numel(),), (1,))
        else:
            merged.append(tensor.detach())
    return merged


def _address(tensor: Tensor) -> tuple[int, int]:
    return tensor.untyped_storage().data_ptr(), int(tensor.storage_offset())


def _follows(tensor: Tensor, last: Tensor) -> bool:
    return (
        tensor.dtype == last.dtype
        and _address(tensor) == (_address(last)[0], last.storage_offset() + last.numel())
        and _without_gaps(tensor)
        and _without_gaps(last)
    )


def _without_gaps(tensor: Tensor) -> bool:
    """Return whether the tensor's elements are contiguous in memory, in any order of dimensions."""
    reach = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return reach + 1 == tensor.numel()
