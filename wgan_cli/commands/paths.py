"""How paths are shown to a user."""

from pathlib import Path


def shown(path: Path) -> Path:
    """The path relative to the current folder if it lies in it, else absolute."""
    try:
        return path.absolute().relative_to(Path.cwd())
    except ValueError:
        return path.absolute()
