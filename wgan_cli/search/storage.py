"""Open a search's Optuna study, with its storage, sampler and pruner."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wgan_cli.errors import ConfigError, DiskError
from wgan_cli.locking import held
from wgan_cli.search.folder import SearchFolder
from wgan_cli.search.space import Search

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.study import Study


def refuse_unreachable(url: str) -> None:
    """Raise `ConfigError` if the database cannot be opened; create the tables if it is new."""
    from optuna.storages import RDBStorage

    try:
        RDBStorage(url)
    except Exception as error:
        # SQLAlchemy and each database driver raise their own exceptions.
        raise ConfigError(f"--storage {url} cannot be opened: {_short(error)}") from None


def open_study(folder: SearchFolder, *, read_only: bool = False) -> Study:
    """Return the study of the search in a folder; create it if needed, unless `read_only`.

    Raises `ConfigError` if a database cannot be opened, `DiskError` if the study cannot be read.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search, name, url = folder.read()
    if url is not None and not read_only:
        refuse_unreachable(url)
    try:
        if read_only:
            _refuse_missing_file(folder, url)
            return optuna.load_study(study_name=name, storage=_storage(folder, url))
        _drop_partial_record(folder)
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if search.pruner.name == "median":
            pruner = optuna.pruners.MedianPruner(
                search.pruner.warmup_trials, search.pruner.first_step
            )
        return optuna.create_study(
            study_name=name,
            storage=_storage(folder, url),
            direction="minimize" if search.direction == "minimize" else "maximize",
            pruner=pruner,
            load_if_exists=True,
        )
    except OSError:
        raise
    except Exception as error:
        # For a damaged journal, Optuna raises many kinds of exceptions.
        raise DiskError(
            f"The study in {url or folder.journal} cannot be read: {_short(error)}"
        ) from None


def sampler_for(search: Search, number: int) -> BaseSampler:
    """Return the sampler that proposes the settings of trial `number`.

    The sampler's seed depends on the search's seed and the trial's number. With the same seed for
    all trials, each process would propose the same settings, and again after each restart.
    """
    import optuna

    seed = int(np.random.SeedSequence([search.sampler.seed, number]).generate_state(1)[0])
    if search.sampler.name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed)


def _short(error: Exception) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", 200, placeholder=" ...")


def _refuse_missing_file(folder: SearchFolder, url: str | None) -> None:
    """Raise `FileNotFoundError` if the journal or SQLite file is missing: opening creates it."""
    scheme, _, path = (url or "").partition(":///")
    file = folder.journal if url is None else Path(path.partition("?")[0])
    if (url is None or scheme.startswith("sqlite")) and not file.is_file():
        raise FileNotFoundError(file)


def _storage(folder: SearchFolder, url: str | None) -> BaseStorage:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    if url is not None:
        return RDBStorage(url)

    class KernelLock(JournalFileOpenLock):
        """A lock that the kernel releases when its process ends.

        Optuna's own locks remain for 30 s or for ever after a process is killed.
        """

        def acquire(self) -> bool:
            self._context = held(_journal_lock(folder))
            self._context.__enter__()
            return True

        def release(self) -> None:
            self._context.__exit__(None, None, None)

    journal = str(folder.journal)
    return JournalStorage(JournalFileBackend(journal, KernelLock(journal)))


def _journal_lock(folder: SearchFolder) -> Path:
    return folder.path / f".{folder.journal.name}.lock"


def _drop_partial_record(folder: SearchFolder) -> None:
    """Remove the journal's last record if a kill or a full disk left it incomplete.

    Otherwise the next record would follow on the same line and make the journal unreadable.
    """
    if not folder.journal.is_file():
        return
    with held(_journal_lock(folder)), folder.journal.open("r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)
