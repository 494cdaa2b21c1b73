"""Import matplotlib with its default settings, whatever the environment and the folder say.

Matplotlib reads `MPLBACKEND`, `MATPLOTLIBRC` and the file `matplotlibrc` of the current folder at
its import. A notebook sets a backend that other environments do not have, and the import then
fails. A folder from someone else may hold a settings file, whose LaTeX preamble would be run.
Where matplotlib cannot keep its list of fonts, it makes the list at each import and says so at
length; one sentence replaces that. All other files of this package take matplotlib's names from
here.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wgan_cli.errors import DiskError

log = logging.getLogger(__name__)
_SETTINGS = "matplotlibrc"
_REMEDY = "Set MPLCONFIGDIR to a folder that can be written."


@contextmanager
def _default_settings() -> Iterator[None]:
    """Let matplotlib find only its own settings file within the context."""
    spec = importlib.util.find_spec("matplotlib")
    assert spec is not None and spec.origin is not None
    own = Path(spec.origin).with_name("mpl-data") / _SETTINGS
    saved = {name: os.environ.pop(name, None) for name in ("MPLBACKEND", "MATPLOTLIBRC")}
    os.environ["MATPLOTLIBRC"] = str(own)
    exists, thread = os.path.exists, threading.get_ident()

    def exists_elsewhere(path: Any) -> bool:
        if threading.get_ident() == thread and path == _SETTINGS:
            return False
        return exists(path)

    # Matplotlib looks in the current folder first, and has no setting against that.
    os.path.exists = exists_elsewhere
    try:
        yield
    finally:
        os.path.exists = exists
        for name, value in saved.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Replace what matplotlib says about its folders. Raises `DiskError` if it has none at all."""
    said: list[logging.LogRecord] = []

    def keep(record: logging.LogRecord) -> bool:
        said.append(record)
        return False

    theirs = logging.getLogger("matplotlib")
    theirs.addFilter(keep)
    try:
        yield
    except OSError:
        raise DiskError(f"Matplotlib finds no folder that it can write to. {_REMEDY}") from None
    finally:
        theirs.removeFilter(keep)
    if any(record.levelno >= logging.WARNING for record in said):
        log.warning("Matplotlib cannot keep its list of fonts, and makes it each time. %s", _REMEDY)


with _default_settings(), _one_sentence():
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter, LogLocator, MaxNLocator

__all__ = [
    "Axes",
    "Figure",
    "FigureCanvasAgg",
    "LogFormatter",
    "LogLocator",
    "MaxNLocator",
    "rc_context",
]
