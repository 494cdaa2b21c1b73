"""Optuna's study of a search: where it is kept, and what proposes and ends trials."""

from __future__ import annotations

import importlib.util
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from wgan_cli.errors import ConfigError, DiskError
from wgan_cli.locking import held, locked
from wgan_cli.search.folder import SearchFolder
from wgan_cli.search.space import Search

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.study import Study


def refuse_missing_optuna() -> None:
    """Raise `ConfigError` where the extra is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError('wgan-search needs Optuna: pip install "wgan-train[search]".')


def refuse_unreachable(url: str) -> None:
    """Raise `ConfigError` for a database that cannot be opened; a new one gets its tables."""
    from optuna.storages import RDBStorage

    try:
        RDBStorage(url)
    except Exception as error:
        # SQLAlchemy and each database's driver have exceptions of their own.
        raise ConfigError(f"--storage {url} cannot be opened: {_in_short(error)}") from None


def open_study(folder: SearchFolder, *, reading: bool = False) -> Study:
    """The study of the search begun in a folder, made where it is new unless only `reading`.

    Raises `ConfigError` for a storage that cannot be reached, `DiskError` for a broken journal.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search, name, url = folder.read()
    if url is not None and not reading:
        refuse_unreachable(url)
    try:
        if reading:
            return optuna.load_study(study_name=name, storage=_existing(folder, url))
        _mend(folder)
        return optuna.create_study(
            study_name=name,
            storage=_storage(folder, url),
            direction="minimize" if search.direction == "minimize" else "maximize",
            pruner=_pruner(search),
            load_if_exists=True,
        )
    except OSError:
        raise
    except Exception as error:
        # The journal's reader raises what its broken lines lead to.
        place = url or folder.journal
        raise DiskError(f"The study in {place} cannot be read: {_in_short(error)}") from None


def sampler_for(search: Search, number: int) -> BaseSampler:
    """What proposes the settings of trial `number`.

    A sampler of one seed for all would propose the same first trials in every process, and again
    after a restart; so a trial's random numbers follow from the search's seed and its number.
    """
    import optuna

    seed = int(np.random.SeedSequence([search.sampler.seed, number]).generate_state(1)[0])
    if search.sampler.name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed)


def _pruner(search: Search) -> BasePruner:
    import optuna

    if search.pruner.name == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(
        n_startup_trials=search.pruner.warmup_trials, n_warmup_steps=search.pruner.first_step
    )


def _in_short(error: Exception) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", 200, placeholder=" ...")


def _existing(folder: SearchFolder, url: str | None) -> BaseStorage:
    """The storage, if it is there: opening one would make it."""
    place = folder.journal if url is None else _sqlite_file(url)
    if place is not None and not place.is_file():
        raise FileNotFoundError(place)
    return _storage(folder, url)


def _sqlite_file(url: str) -> Path | None:
    """The file of a SQLite URL, None for other databases."""
    scheme, _, path = url.partition(":///")
    return Path(path.partition("?")[0]) if scheme.startswith("sqlite") else None


def _storage(folder: SearchFolder, url: str | None) -> BaseStorage:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    if url is not None:
        return RDBStorage(url)

    class KernelLock(JournalFileOpenLock):
        """Optuna's own locks outlast a killed process by 30 s, or for ever."""

        def __init__(self, path: Path) -> None:
            super().__init__(str(path))
            self.path = path
            self._lock: TextIO | None = None

        def acquire(self) -> bool:
            while (lock := locked(self.path)) is None:
                time.sleep(0.01)
            self._lock = lock
            return True

        def release(self) -> None:
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    lock = folder.path / f".{folder.journal.name}.lock"
    return JournalStorage(JournalFileBackend(str(folder.journal), KernelLock(lock)))


def _mend(folder: SearchFolder) -> None:
    """Drop a record of the journal that a kill or a full disk left half written.

    The next record would be written behind it, and the journal could not be read any more.
    """
    if not folder.journal.is_file():
        return
    with (
        held(folder.path / f".{folder.journal.name}.lock"),
        folder.journal.open("r+b") as file,
    ):
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
