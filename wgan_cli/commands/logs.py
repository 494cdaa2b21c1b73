"""Where a run's messages go: to stderr, and with their times to `train.log`."""

from __future__ import annotations

import logging
import logging.handlers
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm.contrib.logging import logging_redirect_tqdm

from wgan_cli.errors import WganError
from wgan_cli.training.callbacks.log import LogFile

log = logging.getLogger("wgan_cli")
# A sweep's jobs and their states; the other messages of a job go to its train.log.
jobs = logging.getLogger("wgan_cli.jobs")


@contextmanager
def console_log(level: int = logging.INFO) -> Iterator[logging.handlers.MemoryHandler]:
    """The run's messages from `level` on stderr, above a progress bar where there is one.

    What `jobs` says is shown always. Gives what keeps the messages that come
    before the run's own log is open.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(lambda record: record.levelno >= level or record.name == jobs.name)
    early = logging.handlers.MemoryHandler(1000, flushLevel=logging.CRITICAL + 1)
    with _handling(handler), _handling(early), logging_redirect_tqdm([log]):
        yield early


@contextmanager
def file_log(handler: LogFile, early: logging.handlers.MemoryHandler) -> Iterator[None]:
    """The same in `train.log`, from the command's first message on to what ended the run."""
    handler.open()
    early.setTarget(handler)
    early.flush()
    early.setTarget(None)
    log.removeHandler(early)
    with _handling(handler):
        try:
            yield
        except Exception as error:
            plain = isinstance(error, WganError)
            words = str(error) if plain else f"unexpected error:\n{traceback.format_exc().rstrip()}"
            # On stderr whoever catches it says so.
            handler.handle(log.makeRecord(log.name, logging.ERROR, __file__, 0, words, (), None))
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
