"""Import matplotlib with its default settings, whatever the environment and the folder say.

Matplotlib reads `MPLBACKEND`, `MATPLOTLIBRC` and the file `matplotlibrc` of the current folder at
its import. A notebook sets a backend that other environments do not have, and the import then
fails. A folder from someone else may hold a settings file, whose LaTeX preamble would be run.
All other files of this package take matplotlib's names from here.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SETTINGS = "matplotlibrc"


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


with _default_settings():
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
