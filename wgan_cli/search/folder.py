"""Manage a search's folder: its settings, Optuna's study, and a run folder for each trial."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeGuard

from omegaconf import OmegaConf

from wgan_cli.errors import CheckpointError, ConfigError, DiskError
from wgan_cli.files import write_atomically
from wgan_cli.guard import inside
from wgan_cli.locks import held, is_stale, locked
from wgan_cli.process_control import shell_words
from wgan_cli.run_folder import LOCK, RunFolder, make_folder, read_settings
from wgan_cli.search import database
from wgan_cli.search.journal import appendable, read_journal
from wgan_cli.search.space import Search, parse_search
from wgan_cli.validation import flatten, job_overrides

if TYPE_CHECKING:
    from optuna.study import Study

SEARCH = "search.yaml"
_SHOWN = 3


class SearchFolder:
    """The folder of one search; several processes may use it at the same time.

    `named` is the URL of the database that the user has named in this command, or None. A database
    outside the folder is used only if it is named.
    """

    def __init__(self, path: Path, named: str | None = None) -> None:
        self.path = path
        self.named = named
        # This file holds the study if no database is used.
        self.journal = path / "study.log"

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
        node = read_settings(path)
        study, storage = None, None
        if isinstance(node, dict):
            study, storage = node.pop("study", None), node.pop("storage", None)
        search = parse_search(node, path)
        if not _is_printable(study) or not (storage is None or _is_printable(storage)):
            raise ConfigError(f"{path} does not name its study; start another search.")
        return search, study, storage

    def begin(self, search: Search, name: str) -> Search:
        """Start `search`, or continue the search in this folder; return the search to run.

        When a search continues, `search.trials` replaces the saved total, but the new total is at
        least the number of existing trials. Raises `ConfigError` if the folder holds a different
        search, `CheckpointError` if the study is in a database that must not be written to, and
        `DiskError` if writing fails.
        """
        make_folder(self.path)
        with self.claiming():
            if not self.holds_search():
                study = f"{name}_{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
                self._write(search, study, self.named)
                return search
            saved, study, storage = self.read()
            self._refuse_another(saved, search)
            if self.named not in (None, storage):
                raise ConfigError(
                    f"--storage {self.named}: the study of {self.path} is in"
                    f" {storage or self.journal}."
                )
            self.refuse_unsafe_storage(storage)
            numbers = (int(p.name) for p in self.path.glob("trials/*") if p.name.isdecimal())
            started = max(numbers, default=-1) + 1
            search = dataclasses.replace(search, trials=max(search.trials, started))
            if saved.trials != search.trials:
                self._write(search, study, storage)
            return search

    def refuse_unsafe_storage(self, storage: str | None) -> None:
        """Raise `CheckpointError` if the study must not be written; see `search.database`."""
        if storage is not None:
            database.refuse_unsafe_write(self.path, storage, self._named())

    def command(self, storage: str | None, *more: str) -> str:
        """Return the command that goes on with this search, with the arguments `more`."""
        outside = storage if database.needs_naming(self.path, storage) else None
        flag = [] if outside is None else ["--storage", outside]
        return shell_words(["wgan-search", str(self.path), *flag, *more])

    def inside(self, *names: str) -> Path:
        """Return a path in this folder to write to; see `guard.inside`."""
        return inside(self.path, *names)

    def claiming(self) -> AbstractContextManager[None]:
        """Return a context that locks the search: only one process at a time may choose a trial."""
        return held(self.inside(".lock"))

    def lock_trial(self, number: int) -> TextIO | None:
        """Lock a trial and return the lock, or None if another process or its run holds it."""
        trial = self.inside(*self.trial(number).relative_to(self.path).parts)
        make_folder(trial)
        lock = locked(inside(trial, ".search.lock"))
        run = trial / LOCK
        # On Windows, a run that outlives its search does not keep the search's lock.
        if lock is not None and run.exists() and not is_stale(run):
            lock.close()
            return None
        return lock

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
        again = " ".join(self.command(storage).split())
        comment = f"# What is searched here. To continue: {again}\n"
        write_atomically(self.inside(SEARCH), (comment + text).encode())

    def _named(self) -> Collection[str]:
        return () if self.named is None else (self.named,)

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
            f" {self.command(self.read()[2])}, or choose another --dir."
        )


def _is_printable(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and value.isprintable()


def open_study(folder: SearchFolder) -> Study:
    """Return the study of the search in a folder. Create a missing study.

    Raises `CheckpointError` if the study must not be written to, `ConfigError` if a database cannot
    be opened, and `DiskError` if the study cannot be read.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search, name, url = folder.read()
    folder.refuse_unsafe_storage(url)
    journal, lock = folder.inside(folder.journal.name), folder.inside(".study.log.lock")
    if url is not None:
        database.refuse_unreachable(url)
    try:
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if search.pruner.name == "median":
            pruner = optuna.pruners.MedianPruner(
                search.pruner.warmup_trials, search.pruner.first_step
            )
        return optuna.create_study(
            study_name=name,
            storage=appendable(journal, lock) if url is None else optuna.storages.RDBStorage(url),
            direction="minimize" if search.direction == "minimize" else "maximize",
            pruner=pruner,
            load_if_exists=True,
        )
    except OSError:
        raise
    except Exception as error:
        # For a damaged journal, Optuna raises many kinds of exceptions.
        raise DiskError(
            f"The study in {url or folder.journal} cannot be read: {database.short(error)}"
        ) from None


@contextmanager
def reading_study(path: Path, named: Collection[str]) -> Iterator[tuple[Search, Study]]:
    """Give the search in a folder and its study, without writing anything there.

    `named` are the URLs of databases that the user has named. Raises `CheckpointError` if there is
    no search, or if its study is in a file or database outside the folder that is not in `named`.
    For a damaged study, Optuna raises many kinds of exceptions.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder = SearchFolder(path)
    search, name, url = folder.read()
    if url is None:
        storage = read_journal(folder.inside(folder.journal.name))
        yield search, optuna.load_study(study_name=name, storage=storage)
        return
    with database.read_only(path, url, named) as copied:
        yield search, optuna.load_study(study_name=name, storage=copied)
