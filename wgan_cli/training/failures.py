"""Failures of the machine, as the errors a user meets."""

from __future__ import annotations

import errno
import re
import resource
import sys
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING

import torch

from wgan_cli.errors import ConfigError, OutOfMemoryError, WganError
from wgan_cli.files import disk_error

if TYPE_CHECKING:
    from wgan_cli.training.trainer import Trainer

# What torch's CPU allocator, CUDA's libraries, oneDNN, C++ and the loader of libraries say.
_NO_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|not enough memory|out of memory|alloc_failed"
    r"|bad_alloc|could not create a memory object|could not (create|execute) a primitive$"
    r"|failed to map segment",
    re.IGNORECASE,
)
_NOT_DETERMINISTIC = re.compile(r"(\w+) does not have a deterministic implementation")
_ASKED = re.compile(r"(?:tried|unable) to allocate ([\d.]+) ?([KMGTP]iB|bytes)", re.IGNORECASE)
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50}


def in_plain_words(error: Exception, batch_size: int) -> Exception:
    """The `WganError` that a full disk or memory or a kernel means; any other error as it is."""
    if isinstance(error, WganError):
        return error
    kernel = _NOT_DETERMINISTIC.match(str(error))
    if isinstance(error, RuntimeError) and kernel is not None:
        return ConfigError(
            f"deterministic=true: {kernel[1]} has no form on CUDA that repeats. Leave it out, or"
            " choose another model."
        )
    if is_out_of_memory(error):
        if _measuring(error):
            return OutOfMemoryError(
                f"Out of memory in an evaluation: {memory_used(error)}. Try smaller eval_samples"
                " and feature_samples, which may differ when a run goes on."
            )
        smaller = f"batch_size={batch_size // 2} or a" if batch_size > 1 else "a"
        return OutOfMemoryError(
            f"Out of memory at batch_size={batch_size}: {memory_used(error)}. Try"
            f" {smaller} smaller model."
        )
    if isinstance(error, OSError) and error.errno is not None:
        return disk_error(error, Path(error.filename) if error.filename else None)
    return error


def tell_of_end(trainer: Trainer, error: BaseException | None) -> None:
    """Every callback's `on_end`, the first one's, the record's, last. Raises what only they met.

    A failure of theirs hides no earlier error, and those still to come are told of it.
    """
    first = error
    for callback in reversed(trainer.callbacks):
        try:
            callback.on_end(trainer, first)
        except Exception as raised:
            first = first or in_plain_words(raised, trainer.batch_size)
    if error is None and first is not None:
        raise first


def is_out_of_memory(error: Exception) -> bool:
    """Whether the memory that torch, numpy or Python asked for was not to be had."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    said = isinstance(error, RuntimeError | ImportError)
    return said and _NO_MEMORY.search(str(error)) is not None


def memory_used(error: Exception) -> str:
    """The most memory that the process held so far, and what it asked for in vain."""
    asked = _ASKED.search(str(error))
    wish = ""
    if asked is not None:
        wish = f", and {_size(float(asked[1]) * _UNITS[asked[2]])} more were asked for"
    return f"the peak was {_peak(error)}{wish}"


def _measuring(error: Exception) -> bool:
    """Whether it was the evaluation that ran out; pictures are drawn by its `sampling` too."""
    modules = (frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__))
    package, alone = "wgan_cli.evaluation.", "wgan_cli.evaluation.sampling"
    return any(name.startswith(package) and name != alone for name in modules)


def _peak(error: Exception) -> str:
    """Of the fullest GPU where it is a GPU's memory that ran out, else of the process."""
    if "CUDA" in str(error) and torch.cuda.is_available():
        gpu = max(range(torch.cuda.device_count()), key=torch.cuda.max_memory_allocated)
        total = torch.cuda.get_device_properties(gpu).total_memory
        return f"{_size(torch.cuda.max_memory_allocated(gpu))} of the {_size(total)} of cuda:{gpu}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return _size(peak if sys.platform == "darwin" else peak * 1024)


def _size(count: float) -> str:
    """Bytes as people read them."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
