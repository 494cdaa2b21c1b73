"""Create the folder of a run or a sweep before it starts. The config gives the folder's name."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from wgan_cli.commands.composition import typed_value
from wgan_cli.errors import ConfigError, FolderInUseError
from wgan_cli.files import disk_error
from wgan_cli.run_folder import RunFolder, make_folder, taken_message
from wgan_cli.validation import is_writable

# How deep below the folder of a sweep its jobs may be.
DEPTH = 3


def run_folder(composed: DictConfig, overrides: Sequence[str], resume: str | None) -> Path:
    """Create and return the folder of a run: a new folder, or the folder of the run to resume."""
    if resume == "auto":
        folder = named_folder(composed, "run")
    elif resume is not None and Path(resume).is_dir():
        folder = Path(resume)
    else:
        return new_folder(composed, "run", overrides)
    make_folder(folder)
    return folder


def new_folder(composed: DictConfig, mode: str, overrides: Sequence[str]) -> Path:
    """Create and return a new folder for a run or a sweep; `mode` is "run" or "sweep".

    If the folder with the default name exists, a number is appended to the name. Raises
    `FolderInUseError` if the user chose a folder that already holds a run.
    """
    folder = named_folder(composed, mode)
    pattern = OmegaConf.to_container(composed.hydra[mode])
    assert isinstance(pattern, dict)
    if "${now:" in pattern["dir"] and typed_value(overrides, f"hydra.{mode}.dir") is None:
        return reserved(folder)
    if RunFolder(folder).holds_run():
        raise FolderInUseError(taken_message(folder))
    make_folder(folder)
    return folder


def named_folder(composed: DictConfig, mode: str) -> Path:
    """Return the path in `hydra.run.dir` or `hydra.sweep.dir`; `mode` is "run" or "sweep"."""
    try:
        name = composed.hydra[mode].dir
    except OmegaConfBaseException as error:
        raise ConfigError(f"hydra.{mode}.dir: {str(error).splitlines()[0]}.") from None
    if not name:
        raise ConfigError(f"hydra.{mode}.dir must name a folder.")
    if not is_writable(str(name)):
        raise ConfigError(f"hydra.{mode}.dir={name!a}: no folder's name can hold this.")
    return Path(name)


def check_subdir(composed: DictConfig) -> None:
    """Raise `ConfigError` if `hydra.sweep.subdir` puts a job elsewhere than below the sweep.

    `composed` is the config of one job. Hydra counts the jobs only later.
    """
    job = composed.copy()
    with open_dict(job):
        job.hydra.job.num, job.hydra.job.id = 0, "0"
    try:
        name = str(job.hydra.sweep.subdir)
    except OmegaConfBaseException as error:
        # Resolvers such as ${hydra:job.num} work only within a job.
        if "HydraConfig was not set" in str(error):
            return
        raise ConfigError(f"hydra.sweep.subdir: {str(error).splitlines()[0]}.") from None
    parts = Path(name).parts
    # Reports pass over hidden folders.
    hidden = any(part.startswith(".") for part in parts)
    if Path(name).is_absolute() or hidden or not 1 <= len(parts) <= DEPTH or not is_writable(name):
        raise ConfigError(
            f"hydra.sweep.subdir={name}: it must name a folder for each job, one to {DEPTH} levels"
            " below hydra.sweep.dir, as '${hydra.job.num}' does."
        )


def reserved(path: Path) -> Path:
    """Create and return a new folder: `path`, or path-1, path-2 and so on if `path` exists.

    Runs that start at the same time have the same default name, but only one of them can create the
    folder of that name. Raises `DiskError`.
    """
    for number in itertools.count():
        candidate = path.with_name(f"{path.name}-{number}") if number else path
        make_folder(candidate.parent)
        try:
            candidate.mkdir()
        # Another run that failed may have removed the parent folder because it was empty.
        except (FileExistsError, FileNotFoundError):
            continue
        except OSError as error:
            raise disk_error(error, candidate, done="made") from None
        return candidate
    raise AssertionError("numbers do not end")
