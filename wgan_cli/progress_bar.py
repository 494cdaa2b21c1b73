"""The progress bar of all commands: tqdm's, with a steady clock and a line that always fits."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import Any

from tqdm import tqdm


class ProgressBar(tqdm):  # type: ignore[type-arg]
    """A bar on stderr; without a terminal there, nothing is shown. Arguments are tqdm's.

    Tqdm measures with the clock that shows the time of day. If that is set back, tqdm's bar stands
    still until the old time is reached again, and if it is set forward, its rate is wrong.
    """

    # Tqdm's thread for bars that wait too long compares with the time of day, too.
    monitor_interval = 0

    def __init__(self, **arguments: Any) -> None:
        hidden = not sys.stderr.isatty()
        columns, rows = _size(sys.stderr)
        super().__init__(disable=hidden, ncols=columns, nrows=rows, miniters=1, **arguments)
        if not hidden:
            self.dynamic_ncols = _size  # type: ignore[assignment]
            self._time = time.monotonic
            self.start_t = self.last_print_t = self._time()


def _size(file: Any) -> tuple[int, int]:
    """Return the columns and rows that a bar may use: all but the last of each.

    Some terminals, such as serial ones, do not know their size and say 0.
    """
    usual = shutil.get_terminal_size()
    try:
        own = os.get_terminal_size(file.fileno())
    except (OSError, ValueError):
        own = usual
    return (own.columns or usual.columns) - 1, (own.lines or usual.lines) - 1
