"""`environment.json`: the command line, machine and package versions of a run's last start."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from wgan_cli.files import write_atomically

ENVIRONMENT = "environment.json"
_LIBRARIES = ("torch", "torchvision", "numpy", "hydra-core", "omegaconf", "tensorboard")


def write_environment(folder: Path, **more: Any) -> None:
    """Write this process's environment and the fields `more` as JSON. Raises `DiskError`."""
    environment = {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "packages": {name: _version(name) for name in ("wgan-train", *_LIBRARIES)},
        **more,
    }
    write_atomically(folder / ENVIRONMENT, (json.dumps(environment, indent=2) + "\n").encode())


def read_command(folder: Path) -> list[str]:
    """Return the command line of the last process that trained in `folder`."""
    return [str(word) for word in json.loads((folder / ENVIRONMENT).read_text())["command"]]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
