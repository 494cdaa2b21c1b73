"""Keep what a command writes inside the folder that it owns.

A run's or a search's folder may come from somebody else. A link in it must not turn a write there
into a write elsewhere.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from wgan_cli.errors import CheckpointError


def inside(folder: Path, *names: str) -> Path:
    """Return the path of a file or folder to write: `names` below `folder`.

    Raises `CheckpointError` if links lead out of `folder`, or if the path is a pipe or a device.
    Call this for every path below `folder` before anything is written there, removed or locked.
    """
    path = folder.joinpath(*names)
    # Not Path.resolve, which raises if links form a loop.
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(folder)):
        link = _first_link(folder, path)
        raise CheckpointError(
            f"{link} is a link to {os.path.realpath(link)}, outside {folder}, where nothing is"
            " written: replace the link by what it points to, or remove it."
        )
    try:
        mode = real.stat().st_mode
    except OSError:
        # It does not exist, or writing reports why not.
        return path
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise CheckpointError(f"{path} is neither a file nor a folder: remove it.")
    return path


def _first_link(folder: Path, path: Path) -> Path:
    """Return the first link on the way from `folder` to `path`, or `path` if there is none."""
    way = [path, *(parent for parent in path.parents if folder in parent.parents)]
    return next((step for step in reversed(way) if step.is_symlink()), path)
