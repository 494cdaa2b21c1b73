"""Find operations that wait for the GPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# torch warns of this when the mode is first set.
_NOTICE = "Synchronization debug mode is a prototype feature"


@contextmanager
def waits_are_errors() -> Iterator[None]:
    """Inside the block, torch raises `RuntimeError` for an operation that waits for the GPU.

    Afterwards, the mode is what it was.
    """
    before = torch.cuda.get_sync_debug_mode()
    _set_mode("error")
    try:
        yield
    finally:
        _set_mode(before)


def _set_mode(mode: int | str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _NOTICE, UserWarning)
        torch.cuda.set_sync_debug_mode(mode)
