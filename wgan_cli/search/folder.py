"""Manage a search's folder: its settings, Optuna's study, and a run folder for each trial."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from omegaconf import OmegaConf

from wgan_cli.errors import CheckpointError, ConfigError, DiskError
from wgan_cli.files import held, locked, write_atomically
from wgan_cli.run_folder import RunFolder, make_folder, read_yaml
from wgan_cli.search.space import Search, parse_search
from wgan_cli.validation import flatten, job_overrides

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.study import Study

SEARCH = "search.yaml"
_SHOWN = 3


class SearchFolder:
    """The folder of one search; several processes may use it at the same time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # This file holds the study if no database is used.
        self.journal = path / "study.log"
        self.journal_lock = path / ".study.log.lock"

    def trial(self, number: int) -> Path:
        """Return the run folder of a trial."""
        return self.path / "trials" / f"{number:04d}"

    def holds_search(self) -> bool:
        """Return whether a search was started in this folder."""
        return (self.path / SEARCH).is_file()

    def read(self) -> tuple[Search, str, str | None]:
        """Return the search, the study's name, and the database's URL (None for the journal file).

        Raises `CheckpointError` if there is no search, `ConfigError` if it cannot be read.
        """
        path = self.path / SEARCH
        if not self.holds_search():
            raise CheckpointError(f"{self.path} holds no search: there is no {SEARCH}.")
        node = read_yaml(path)
        study, storage = None, None
        if isinstance(node, dict):
            study, storage = node.pop("study", None), node.pop("storage", None)
        search = parse_search(node, path)
        if not isinstance(study, str) or not isinstance(storage, str | None):
            raise ConfigError(f"{path} does not name its study; start another search.")
        return search, study, storage

    def begin(self, search: Search, name: str, storage: str | None) -> Search:
        """Start `search`, or continue the search in this folder; return the search to run.

        When a search continues, `search.trials` replaces the saved total, but the new total is at
        least the number of existing trials. Raises `ConfigError` if the folder holds a different
        search, and `DiskError` if writing fails.
        """
        make_folder(self.path)
        with self.claiming():
            if not self.holds_search():
                self._write(search, f"{name}_{datetime.now():%Y-%m-%d_%H-%M-%S-%f}", storage)
                return search
            saved, study, saved_storage = self.read()
            self._refuse_another(saved, search)
            if storage not in (None, saved_storage):
                raise ConfigError(
                    f"--storage {storage}: the study of {self.path} is in"
                    f" {saved_storage or self.journal}."
                )
            numbers = (int(p.name) for p in self.path.glob("trials/*") if p.name.isdecimal())
            started = max(numbers, default=-1) + 1
            search = dataclasses.replace(search, trials=max(search.trials, started))
            if saved.trials != search.trials:
                self._write(search, study, saved_storage)
            return search

    def claiming(self) -> AbstractContextManager[None]:
        """Return a context that locks the search: only one process at a time may choose a trial."""
        return held(self.path / ".lock")

    def lock_trial(self, number: int) -> TextIO | None:
        """Lock a trial and return the lock, or None if another process or its run holds it."""
        make_folder(self.trial(number))
        return locked(self.trial(number) / ".search.lock")

    def refuse_foreign_run(self, number: int, overrides: Sequence[str] | None = None) -> None:
        """Raise `ConfigError` if a trial's folder holds a run of another study.

        This happens if the study was deleted but its run folders were not. `overrides` are the
        trial's overrides, or None for a new trial, whose folder must not hold a run.
        """
        run = RunFolder(self.trial(number))
        if overrides is None:
            foreign = run.holds_run()
        else:
            # A run that was killed early has saved no overrides yet, so the set may be empty.
            foreign = set(run.read_overrides()) not in (set(), set(job_overrides(overrides)))
        if foreign:
            _, _, storage = self.read()
            raise ConfigError(
                f"{run.path} holds a run of another study: put {storage or self.journal} back, or"
                " choose another --dir."
            )

    def _write(self, search: Search, study: str, storage: str | None) -> None:
        node = {"study": study, "storage": storage, **dataclasses.asdict(search)}
        text = OmegaConf.to_yaml(OmegaConf.create(node))
        comment = f"# What is searched here. To continue: wgan-search {self.path}\n"
        write_atomically(self.path / SEARCH, (comment + text).encode())

    def _refuse_another(self, saved: Search, asked: Search) -> None:
        # Only the number of trials may change when a search is continued.
        asked = dataclasses.replace(asked, trials=saved.trials)
        old, new = flatten(dataclasses.asdict(saved)), flatten(dataclasses.asdict(asked))
        changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        if not changed:
            return
        shown = [f"{key} {old.get(key)} there, {new.get(key)} now" for key in changed[:_SHOWN]]
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise ConfigError(
            f"{self.path} holds another search ({'; '.join(shown)}{more}). Continue that one with"
            f" wgan-search {self.path}, or choose another --dir."
        )


def refuse_unreachable(url: str) -> None:
    """Raise `ConfigError` if the database cannot be opened. Create the tables in a new database."""
    from optuna.storages import RDBStorage

    try:
        RDBStorage(url)
    except Exception as error:
        # SQLAlchemy and each database driver raise their own exceptions.
        raise ConfigError(f"--storage {url} cannot be opened: {_short(error)}") from None


def open_study(folder: SearchFolder, *, read_only: bool = False) -> Study:
    """Return the study of the search in a folder. Create a missing study, unless `read_only`.

    Raises `ConfigError` if a database cannot be opened, and `DiskError` if the study cannot be
    read.
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


def _short(error: Exception) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", 200, placeholder=" ...")


def _refuse_missing_file(folder: SearchFolder, url: str | None) -> None:
    """Raise `FileNotFoundError` for a missing journal or SQLite file, which Optuna would create."""
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

        After a process is killed, Optuna's own locks stay for 30 s or for ever.
        """

        def acquire(self) -> bool:
            self._context = held(folder.journal_lock)
            self._context.__enter__()
            return True

        def release(self) -> None:
            self._context.__exit__(None, None, None)

    journal = str(folder.journal)
    return JournalStorage(JournalFileBackend(journal, KernelLock(journal)))


def _drop_partial_record(folder: SearchFolder) -> None:
    """Remove the journal's last record if a kill or a full disk left it incomplete.

    Otherwise the next record would follow on the same line and make the journal unreadable.
    """
    if not folder.journal.is_file():
        return
    with held(folder.journal_lock), folder.journal.open("r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)
