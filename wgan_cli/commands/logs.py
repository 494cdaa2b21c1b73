"""Where a run's messages go: to stderr, and with their times to `train.log`."""

from __future__ import annotations

import logging
import logging.handlers
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from wgan_cli.errors import WganError
from wgan_cli.training.callbacks.log import LogFile

log = logging.getLogger("wgan_cli")


@contextmanager
def console_log() -> Iterator[logging.handlers.MemoryHandler]:
    """The run's messages on stderr, above a progress bar where there is one.

    Gives what keeps the messages that come before the run's own log is open.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    early = logging.handlers.MemoryHandler(1000, flushLevel=logging.CRITICAL + 1)
    with _handling(handler), _handling(early), logging_redirect_tqdm([log]):
        yield early


@contextmanager
def file_log(path: Path, early: logging.handlers.MemoryHandler) -> Iterator[LogFile]:
    """The same in `train.log`, from the command's first message on to what ended the run."""
    handler = LogFile(path)
    early.setTarget(handler)
    early.flush()
    early.setTarget(None)
    log.removeHandler(early)
    with _handling(handler):
        try:
            yield handler
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
