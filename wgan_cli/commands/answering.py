"""What the commands that look at a run share: their arguments, and answers in plain words."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from wgan_cli.errors import OutOfMemoryError, WganError


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
        print(f"{command}: {error}", file=sys.stderr)
        return error.exit_code
    except (MemoryError, RuntimeError) as error:
        from wgan_cli.training.failures import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        print(f"{command}: out of memory{smaller}", file=sys.stderr)
        return OutOfMemoryError.exit_code
    except KeyboardInterrupt:
        print(f"{command}: interrupted{interrupted}", file=sys.stderr)
        return 130
