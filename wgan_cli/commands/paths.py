"""How paths are shown to a user, and folders that no other start can have."""

import itertools
from pathlib import Path

from wgan_cli.files import disk_error
from wgan_cli.run_folder import make_folder


def shown(path: Path) -> Path:
    """Relative to the current folder where it lies in it, else absolute."""
    try:
        return path.absolute().relative_to(Path.cwd())
    except ValueError:
        return path.absolute()


def reserved(path: Path) -> Path:
    """A new folder: `path`, or path-1, path-2, ... where other starts took the same name.

    Starts in one instant have one name, and only one of them can make the folder. Raises
    `DiskError`.
    """
    for number in itertools.count():
        candidate = path.with_name(f"{path.name}-{number}") if number else path
        make_folder(candidate.parent)
        try:
            candidate.mkdir()
        # A start that was refused may remove the folder above as soon as it is empty.
        except (FileExistsError, FileNotFoundError):
            continue
        except OSError as error:
            raise disk_error(error, candidate, done="made") from None
        return candidate
    raise AssertionError("numbers do not end")
