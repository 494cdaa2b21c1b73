"""Leading singular vectors of many matrices, without waiting for the device.

Lanczos iterations need an eigenvalue solver, which makes the CPU wait for a GPU and cannot be part
of a CUDA graph, and many small kernels. Here a GPU computes a high power of each Gram matrix by
repeated squaring, for all matrices of similar size at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Smaller Gram matrices are padded to this size, because launching kernels takes longer than their
# work.
_LEAST_SIZE = 32
# The largest eigenvalue is between 1 and the size m right after scaling, so at most m^8 after three
# squarings. This is within float32's range for m up to 2^15.
_SQUARINGS_PER_SCALING = 3


@torch.no_grad()
def leading_left_vectors(matrices: Sequence[Tensor], squarings: int) -> list[Tensor]:
    """Return an approximate leading left singular vector u of each matrix, as unit vectors.

    For a matrix W (rows, columns), let m be the smaller side, G the m x m Gram matrix W W^T or
    W^T W, and p = 2^squarings. The column of G^p with the largest diagonal entry is p power
    iterations from the best unit vector to start with. Then |W^T u| is below the largest singular
    value by at most a factor m^(-1 / (2 p)), for any W. The relative error is about ln(m) / (2 p):
    0.6% for m = 512 and p = 512. Weights may be of any scale. For a W of 0 and for weights that are
    not finite, u is 0, or 1 for a W of one row.
    """
    largest = torch._foreach_norm(list(matrices), float("inf"))
    # The squares in a Gram matrix of unscaled weights could overflow.
    scaled = [matrix / scale for matrix, scale in zip(matrices, largest, strict=True)]
    groups: dict[object, list[int]] = {}
    vectors: dict[int, Tensor] = {}
    for index, matrix in enumerate(scaled):
        if len(matrix) == 1:
            vectors[index] = matrix.new_ones(1)
            continue
        key = (_padded_size(matrix), matrix.dtype, matrix.device)
        groups.setdefault(key, []).append(index)
    for members in groups.values():
        own = [scaled[index] for index in members]
        vectors.update(zip(members, _of_similar_size(own, squarings), strict=True))
    return [vectors[index] for index in range(len(scaled))]


def _padded_size(matrix: Tensor) -> int:
    """Return the smallest power of two that is at least the smaller side."""
    return max(_LEAST_SIZE, 1 << (min(matrix.shape) - 1).bit_length())


def _of_similar_size(matrices: Sequence[Tensor], squarings: int) -> list[Tensor]:
    """Return the vectors of matrices with the same padded size, scaled to entries of at most 1."""
    size = _padded_size(matrices[0])
    power = matrices[0].new_zeros(len(matrices), size, size)
    for gram, matrix in zip(power, matrices, strict=True):
        wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
        side = len(wide)
        torch.mm(wide, wide.mT, out=gram[:side, :side])
    for index in range(squarings):
        if index % _SQUARINGS_PER_SCALING == 0:
            power /= power.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        power = power @ power
    highest, best = power.diagonal(dim1=1, dim2=2).max(1)
    columns = power.gather(1, best[:, None, None].expand(-1, 1, size)).squeeze(1)
    # No entry of a Gram matrix's column is larger than the largest diagonal entry.
    columns = _units(columns / highest[:, None])
    vectors = []
    for column, matrix in zip(columns, matrices, strict=True):
        vector = column[: min(matrix.shape)]
        # For a tall matrix this is the right singular vector.
        tall = matrix.shape[0] > matrix.shape[1]
        vectors.append(_units(matrix @ vector) if tall else vector)
    return vectors


def _units(vectors: Tensor) -> Tensor:
    """Return vectors (..., n) scaled to length 1; 0 for a vector with an entry that is NaN."""
    lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return (vectors / lengths).nan_to_num(0.0, 0.0, 0.0)
