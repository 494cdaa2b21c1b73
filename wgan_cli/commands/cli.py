"""Code that all commands share: arguments, error messages and exit codes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from wgan_cli.commands.streams import failure_of, set_up_streams
from wgan_cli.errors import (
    CheckpointError,
    DiskError,
    InterruptedRunError,
    OutOfMemoryError,
    WganError,
)
from wgan_cli.files import disk_error, is_full
from wgan_cli.stop_signals import Terminated, leaving_when_asked
from wgan_cli.terminal_text import printable
from wgan_cli.waiting.policy import set_wait_policy


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments RUN, --raw and --trust to the parser."""
    parser.add_argument(
        "run", type=path_argument, metavar="RUN", help="a run folder, or one checkpoint"
    )
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


def path_argument(text: str) -> Path:
    """Return the path that an argument names; argparse reports a name that no file can have."""
    try:
        if b"\0" not in os.fsencode(text):
            return Path(text)
    except UnicodeEncodeError:
        pass
    raise argparse.ArgumentTypeError(f"{text!a}: no file's name can hold this")


def exit_code_of(
    command: str, work: Callable[[], int], *, smaller: str = ".", interrupted: str = "."
) -> int:
    """Call `work` and return the exit code; print expected errors as one sentence on stderr.

    `smaller` is the end of the out-of-memory message, and `interrupted` the end of the message
    after Ctrl-C.
    """
    try:
        return work()
    except WganError as error:
        print_error(f"{command}: {error}")
        return error.exit_code
    except (MemoryError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and is_full(error):
            print_error(f"{command}: {disk_error(error)}")
            return DiskError.exit_code

        from wgan_cli.out_of_memory import is_out_of_memory, memory_used, what_was_read

        if not is_out_of_memory(error):
            # What these commands write has errors of its own, so this is about reading.
            if isinstance(error, OSError) and error.errno is not None:
                what = error.filename or "A file"
                print_error(f"{command}: {what} cannot be read: {error.strerror}.")
                return CheckpointError.exit_code
            raise
        if what := what_was_read(error):
            print_error(f"{command}: out of memory while reading {what}: {memory_used(error)}.")
        else:
            print_error(f"{command}: out of memory: {memory_used(error)}{smaller}")
        return OutOfMemoryError.exit_code
    except KeyboardInterrupt:
        print_error(f"{command}: interrupted{interrupted}")
        return 130


def exit_code_of_training(
    command: str, work: Callable[[], int], stopped: Callable[[], WganError]
) -> int:
    """Call `work`, which may train; return the exit code, and print expected errors on stderr.

    `stopped` returns the error to report if a stop signal comes while no run is training.
    """
    try:
        with leaving_when_asked():
            return work()
    except WganError as error:
        print_error(f"{command}: {error}")
        return error.exit_code
    except OSError as error:
        if error.errno is None:
            raise
        print_error(
            f"{command}: {disk_error(error, Path(error.filename) if error.filename else None)}"
        )
        return DiskError.exit_code
    except KeyboardInterrupt:
        print_error(f"{command}: interrupted.")
        return InterruptedRunError.exit_code
    except Terminated:
        print_error(f"{command}: {stopped()}")
        return stopped().exit_code


def shown(path: Path) -> Path:
    """Return the path relative to the current folder if it is inside, else the absolute path."""
    try:
        return path.absolute().relative_to(Path.cwd())
    except ValueError:
        return path.absolute()


def print_error(message: str) -> None:
    """Print the message on stderr; do nothing if stderr cannot be written."""
    with suppress(OSError):
        print(printable(message, "\n"), file=sys.stderr)


def print_text(text: str) -> None:
    """Print text on stdout that may hold names or texts of somebody else's files."""
    print(printable(text, "\n"), flush=True)


def entry_point(run: Callable[[Sequence[str]], int]) -> Callable[[], NoReturn]:
    """Return a function that calls `run` with the command's arguments and exits with its code.

    Output that cannot be written, for example because the reader of a pipe has ended, neither ends
    the command nor changes its exit code; only a full disk does.
    """

    def main() -> NoReturn:
        set_up_streams()
        set_wait_policy()
        try:
            code = run(sys.argv[1:])
        except SystemExit as end:
            # argparse raises this after --help or a mistake.
            if not isinstance(end.code, int | None):
                raise
            code = end.code or 0
        exit_process(code)

    return main


def exit_process(code: int) -> NoReturn:
    """Exit with `code`, even if output could not be written.

    If output was lost because the disk is full and `code` is 0, exit with 7 (the code of
    `DiskError`).
    """
    for stream in (sys.stdout, sys.stderr):
        failure = failure_of(stream)
        if failure is not None and is_full(failure):
            code = code or DiskError.exit_code
    sys.exit(code)
