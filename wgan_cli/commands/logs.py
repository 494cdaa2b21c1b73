"""Log a run's messages on stderr, and with times in `train.log`."""

from __future__ import annotations

import logging
import logging.handlers
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm.contrib.logging import logging_redirect_tqdm

from wgan_cli.errors import WganError
from wgan_cli.log_file import LogFile

log = logging.getLogger("wgan_cli")
# Errors of a sweep's jobs. A job's other messages go only to its train.log.
jobs = logging.getLogger("wgan_cli.jobs")


@contextmanager
def console_log(level: int = logging.INFO) -> Iterator[logging.handlers.MemoryHandler]:
    """Show the run's messages from `level` on, on stderr, above the progress bar if there is one.

    Messages of `jobs` are always shown. The handler that the context gives keeps all messages until
    `file_log` takes them.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(lambda record: record.levelno >= level or record.name == jobs.name)
    early = logging.handlers.MemoryHandler(1000, flushLevel=logging.CRITICAL + 1)
    with _handling(handler), _handling(early), logging_redirect_tqdm([log]):
        yield early


@contextmanager
def file_log(handler: LogFile, early: logging.handlers.MemoryHandler) -> Iterator[None]:
    """Write the messages to `train.log`: the early ones, those within, and the error at the end."""
    handler.open()
    early.setTarget(handler)
    early.flush()
    early.setTarget(None)
    log.removeHandler(early)
    with _handling(handler):
        try:
            yield
        except Exception as error:
            expected = isinstance(error, WganError)
            trace = traceback.format_exc().rstrip()
            text = str(error) if expected else f"unexpected error:\n{trace}"
            # To the file only: the caller writes the error to stderr.
            handler.handle(log.makeRecord(log.name, logging.ERROR, __file__, 0, text, (), None))
            raise


@contextmanager
def _handling(handler: logging.Handler) -> Iterator[None]:
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
