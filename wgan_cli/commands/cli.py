"""What the commands that look at a run share: their arguments, and answers in plain words."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from wgan_cli.errors import (
    DiskError,
    InterruptedRunError,
    OutOfMemoryError,
    WganError,
)
from wgan_cli.files import disk_error, is_full
from wgan_cli.stop_signals import Terminated, leaving_when_asked


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, which generator of it, and whose classes its config may name."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, or one checkpoint")
    parser.add_argument(
        "--raw",
        action="store_true",
        help="the trained generator itself where an averaged one is kept",
    )
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PREFIX",
        help="allow the run's config to name classes under PREFIX",
    )


def answered(command: str, work: Callable[[], int], *, smaller: str, interrupted: str) -> int:
    """The exit code of `work`; a failure that a user can meet is a sentence on stderr.

    `smaller` says what needs less memory, `interrupted` what Ctrl-C leaves.
    """
    try:
        return work()
    except WganError as error:
        complain(f"{command}: {error}")
        return error.exit_code
    except (MemoryError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and is_full(error):
            complain(f"{command}: {disk_error(error)}")
            return DiskError.exit_code

        from wgan_cli.out_of_memory import is_out_of_memory, memory_used

        if not is_out_of_memory(error):
            raise
        complain(f"{command}: out of memory: {memory_used(error)}{smaller}")
        return OutOfMemoryError.exit_code
    except KeyboardInterrupt:
        complain(f"{command}: interrupted{interrupted}")
        return 130


def answered_while_training(
    command: str, work: Callable[[], int], why: Callable[[], WganError]
) -> int:
    """The same of a command that trains; `why` is what a signal that finds no run ends it by."""
    try:
        with leaving_when_asked():
            return work()
    except WganError as error:
        complain(f"{command}: {error}")
        return error.exit_code
    except OSError as error:
        complain(
            f"{command}: {disk_error(error, Path(error.filename) if error.filename else None)}"
        )
        return DiskError.exit_code
    except KeyboardInterrupt:
        complain(f"{command}: interrupted.")
        return InterruptedRunError.exit_code
    except Terminated:
        complain(f"{command}: {why()}")
        return why().exit_code


def complain(message: str) -> None:
    """Say it on stderr, if that can be written."""
    with suppress(OSError):
        print(message, file=sys.stderr)


def leave(code: int) -> NoReturn:
    """End the process with this code, also where stdout or stderr is a file on a full disk."""
    for stream in (sys.stdout, sys.stderr):
        # None where the shell has closed it.
        if stream is None:
            continue
        try:
            stream.flush()
        except OSError as error:
            # Python tries again at its end, and would then exit with 120.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if is_full(error):
                code = code or DiskError.exit_code
    sys.exit(code)
