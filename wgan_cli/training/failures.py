"""Translate failures of the machine into errors for users, and call a run's `on_end` functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb

from wgan_cli.errors import ConfigError, OutOfMemoryError, WganError
from wgan_cli.files import disk_error
from wgan_cli.out_of_memory import is_out_of_memory, memory_used, what_was_read

_NOT_DETERMINISTIC = re.compile(r"(\w+) does not have a deterministic implementation")

# A function that is called at the end of a run, with the error that ended the run or with None.
OnEnd = Callable[[BaseException | None], None]


def in_plain_words(error: Exception, batch_size: int) -> Exception:
    """Return a `WganError` for a full disk, exhausted memory or a missing deterministic kernel.

    Any other error is returned unchanged.
    """
    if isinstance(error, WganError):
        return error
    kernel = _NOT_DETERMINISTIC.match(str(error))
    if isinstance(error, RuntimeError) and kernel is not None:
        return ConfigError(
            f"deterministic=true: {kernel[1]} has no deterministic form on CUDA. Leave it out, or"
            " choose another model."
        )
    if is_out_of_memory(error):
        if _in_evaluation(error):
            return OutOfMemoryError(
                f"Out of memory in an evaluation: {memory_used(error)}. Try smaller eval_samples"
                " and feature_samples, which may differ when a run goes on."
            )
        if what := what_was_read(error):
            return OutOfMemoryError(
                f"Out of memory while reading {what}: {memory_used(error)}. Free some memory, or"
                " use a machine with more."
            )
        smaller = f"batch_size={batch_size // 2} or a" if batch_size > 1 else "a"
        return OutOfMemoryError(
            f"Out of memory at batch_size={batch_size}: {memory_used(error)}. Try"
            f" {smaller} smaller model."
        )
    if isinstance(error, OSError) and error.errno is not None:
        return disk_error(error, Path(error.filename) if error.filename else None)
    return error


@contextmanager
def reported_end(on_end: Sequence[OnEnd], batch_size: int) -> Iterator[None]:
    """Run the block, then call all `on_end` functions. Translate errors by `in_plain_words`."""
    error: BaseException | None = None
    try:
        yield
    except BaseException as raised:
        error = in_plain_words(raised, batch_size) if isinstance(raised, Exception) else raised
        if error is raised:
            raise
        raise error from raised
    finally:
        call_on_end(on_end, error, batch_size)


def call_on_end(on_end: Sequence[OnEnd], error: BaseException | None, batch_size: int) -> None:
    """Call every `on_end` function with the error that ended the run, or with None.

    If the run ended without an error and a function raises one, the remaining functions get that
    error, and it is raised at the end. If the run ended with an error, errors that the functions
    raise are dropped, because they must not hide the error of the run.
    """
    first = error
    for call in on_end:
        try:
            call(first)
        except Exception as raised:
            first = first or in_plain_words(raised, batch_size)
    if error is None and first is not None:
        raise first


def _in_evaluation(error: Exception) -> bool:
    """Return True for an error in an evaluation. `sampling` does not count: pictures use it too."""
    modules = (frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__))
    package, sampling = "wgan_cli.evaluation.", "wgan_cli.evaluation.sampling"
    return any(name.startswith(package) and name != sampling for name in modules)
