"""Log a run's messages to stderr, and to `train.log` with their times."""

from __future__ import annotations

import logging
import logging.handlers
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm.contrib.logging import logging_redirect_tqdm

from wgan_cli.errors import WganError
from wgan_cli.files import LogFile, PrintableFormatter

log = logging.getLogger("wgan_cli")
# For errors of a sweep's jobs. Other messages of a job go only to its train.log.
jobs = logging.getLogger("wgan_cli.jobs")


@contextmanager
def console_log(level: int = logging.INFO) -> Iterator[logging.handlers.MemoryHandler]:
    """Within the context, show messages of `level` or higher on stderr, above any progress bar.

    Messages of the logger `jobs` are always shown. The context yields a handler that stores all
    messages until `file_log` writes them.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(message)s"))
    handler.addFilter(lambda record: record.levelno >= level or record.name == jobs.name)
    early = logging.handlers.MemoryHandler(1000, flushLevel=logging.CRITICAL + 1)
    with _handling(handler), _handling(early), logging_redirect_tqdm([log]):
        yield early


@contextmanager
def file_log(handler: LogFile, early: logging.handlers.MemoryHandler) -> Iterator[None]:
    """Write the messages stored in `early` to `handler`, then all messages logged inside the block.

    If the block raises an exception, write that too.
    """
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
            # Write to the file only, because the caller prints the error on stderr.
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
