"""The checksum of event files against tensorboard's."""

from __future__ import annotations

import numpy as np
import pytest
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow

from wgan_cli.training.crc import crc32c, masked_crc32c


@pytest.mark.parametrize("size", [0, 1, 8, 4095, 4096, 4097, 5119, 5120, 5121, 70_000])
def test_it_is_tensorboards_at_every_size(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert crc32c(data) == pywrap_tensorflow.crc32c(data)
    assert masked_crc32c(data) == pywrap_tensorflow.masked_crc32c(data)


def test_it_is_the_published_one() -> None:
    # RFC 3720, appendix B.4.
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43


def test_zeros_and_ones_at_the_start_count() -> None:
    rest = np.random.default_rng(0).bytes(6000)
    seen = {crc32c(start + rest) for start in (b"", b"\0", b"\0\0", b"\xff", b"\xff" * 4)}
    assert len(seen) == 5
