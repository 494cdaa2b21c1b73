"""Failures of the machine, as the errors a user meets."""

from __future__ import annotations

import errno

import torch

from wgan_cli.errors import DiskError, OutOfMemoryError, WganError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def in_plain_words(error: Exception, batch_size: int) -> Exception:
    """The `WganError` that a full disk or memory means; any other error as it is."""
    if isinstance(error, WganError):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        where = f" ({error.filename})" if error.filename else ""
        if error.errno in _NO_SPACE:
            return DiskError(f"The disk is full{where}. Free some space and resume the run.")
        return DiskError(f"The run folder cannot be written{where}: {error.strerror or error}.")
    if is_out_of_memory(error):
        smaller = max(1, batch_size // 2)
        return OutOfMemoryError(
            f"Out of memory at batch_size={batch_size}. Try batch_size={smaller}, or a smaller"
            " model."
        )
    return error


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch or Python could not get the memory it asked for."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # What torch's CPU allocator raises.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
