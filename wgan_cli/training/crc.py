"""CRC-32C, which seals every record of an event file."""

from __future__ import annotations

import numpy as np
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow

_LANES = 512
# Below so many bytes tensorboard's own loop is as fast; it takes 0.1 ms for each thousand.
_FEW = 4096
_TABLE = np.array(pywrap_tensorflow.CRC_TABLE, dtype=np.uint32)
_BITS = np.arange(32, dtype=np.uint32)


def crc32c(data: bytes) -> int:
    """The checksum of `data`, of long data in pieces side by side."""
    if len(data) < _FEW:
        checksum: int = pywrap_tensorflow.crc32c(data)
        return checksum
    length = -(-len(data) // _LANES)
    padded = np.zeros(_LANES * length, dtype=np.uint8)
    # Zeros before all else change nothing, and to begin with ones is to turn the first four bytes.
    padded[-len(data) :] = np.frombuffer(data, dtype=np.uint8)
    padded[-len(data) :][:4] ^= 0xFF
    columns = padded.reshape(_LANES, length).T
    # The second part learns what `length` zeros make of each bit.
    pieces, shift = np.zeros(_LANES, dtype=np.uint32), np.uint32(1) << _BITS
    for column in columns:
        pieces = _TABLE[(pieces ^ column) & 0xFF] ^ (pieces >> 8)
        shift = _TABLE[shift & 0xFF] ^ (shift >> 8)
    # A checksum is linear: that of two pieces is the first one's, shifted, and the second one's.
    while len(pieces) > 1:
        pieces = _shifted(pieces[::2], shift) ^ pieces[1::2]
        shift = _shifted(shift, shift)
    return int(pieces[0]) ^ 0xFFFFFFFF


def masked_crc32c(data: bytes) -> int:
    """As records hold it: turned by 15 bits and moved, so that a checksum of one is not trivial."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _shifted(crcs: np.ndarray, shift: np.ndarray) -> np.ndarray:
    bits = crcs[:, None] >> _BITS & 1
    moved: np.ndarray = np.bitwise_xor.reduce(bits * shift, axis=1)
    return moved
