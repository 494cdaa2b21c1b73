"""Recognise out-of-memory errors of the CPU and of GPUs; report how much memory was in use."""

from __future__ import annotations

import errno
import re
from traceback import walk_tb

import torch

from wgan_cli.operating_system import peak_memory

# Messages of torch's CPU allocator, CUDA's libraries, oneDNN, C++ and the dynamic linker.
_NO_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|not enough memory|out of memory|alloc_failed"
    r"|bad_alloc|could not create a memory object|could not (create|execute) a primitive$"
    r"|failed to map segment",
    re.IGNORECASE,
)
_REQUESTED = re.compile(r"(?:tried|unable) to allocate ([\d.]+) ?([KMGTP]iB|bytes)", re.IGNORECASE)
# The functions that read files, by module, and what they read.
_READ = {"build_dataset": "the data", "load_checkpoint": "a checkpoint"}
_READERS = {
    "wgan_cli.build.data": ("build_dataset",),
    "wgan_cli.training.checkpoint": ("load_checkpoint",),
}
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50}


def is_out_of_memory(error: Exception) -> bool:
    """Return whether the error means that torch, numpy or Python could not allocate memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    has_message = isinstance(error, RuntimeError | ImportError)
    return has_message and _NO_MEMORY.search(str(error)) is not None


def what_was_read(error: Exception) -> str:
    """Return what the failed code was reading, "the data" or "a checkpoint"; otherwise ""."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    for frame in frames:
        if frame.f_code.co_name in _READERS.get(frame.f_globals.get("__name__", ""), ()):
            return _READ[frame.f_code.co_name]
    return ""


def memory_used(error: Exception) -> str:
    """Return a text with the peak memory use and, if known, the size of the failed allocation."""
    requested = _REQUESTED.search(str(error))
    more = ""
    if requested is not None:
        more = f", and {_size(float(requested[1]) * _UNITS[requested[2]])} more were asked for"
    return f"the peak was {_peak(error)}{more}"


def _peak(error: Exception) -> str:
    """Return the peak memory use: of the fullest GPU if a GPU ran out, else of this process.

    On Windows, that of a process is unknown.
    """
    if "CUDA" in str(error) and torch.cuda.is_available():
        gpu = max(range(torch.cuda.device_count()), key=torch.cuda.max_memory_allocated)
        total = torch.cuda.get_device_properties(gpu).total_memory
        return f"{_size(torch.cuda.max_memory_allocated(gpu))} of the {_size(total)} of cuda:{gpu}"
    peak = peak_memory()
    return "unknown" if peak is None else _size(peak)


def _size(count: float) -> str:
    """Return a number of bytes as text in MiB or GiB."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
