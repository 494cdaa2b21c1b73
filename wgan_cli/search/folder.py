"""A search's folder: what is searched, the study, and a run folder for each trial."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from omegaconf import OmegaConf

from wgan_cli.errors import CheckpointError, ConfigError
from wgan_cli.files import write_atomically
from wgan_cli.locking import held, locked
from wgan_cli.run_folder import RunFolder, make_folder
from wgan_cli.search.space import Search, checked, key_of
from wgan_cli.validation import flatten

SEARCH = "search.yaml"
JOURNAL = "study.log"
# What another start may say otherwise.
_FREE = ("trials",)
_SHOWN = 3


class SearchFolder:
    """One search's folder, which several processes may work in."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def journal(self) -> Path:
        """The study, where no storage was named."""
        return self.path / JOURNAL

    def trial(self, number: int) -> Path:
        """The run folder of a trial."""
        return self.path / "trials" / f"{number:04d}"

    def holds_search(self) -> bool:
        """Whether a search has been begun here."""
        return (self.path / SEARCH).is_file()

    def read(self) -> tuple[Search, str, str | None]:
        """The search begun here, its study's name and its storage, None for the journal file.

        Raises `CheckpointError` where there is none, `ConfigError` where it cannot be read.
        """
        path = self.path / SEARCH
        if not path.is_file():
            raise CheckpointError(f"{self.path} holds no search: there is no {SEARCH}.")
        try:
            node = OmegaConf.to_container(OmegaConf.load(path))
        except Exception as error:
            raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
        study, storage = None, None
        if isinstance(node, dict):
            study, storage = node.pop("study", None), node.pop("storage", None)
        search = checked(node, path)
        if not isinstance(study, str) or not isinstance(storage, str | None):
            raise ConfigError(f"{path} does not name its study; start another search.")
        return search, study, storage

    def begin(self, search: Search, name: str, storage: str | None) -> Search:
        """Note the search, or go on with the one that was begun here; returns what is noted.

        A larger or smaller number of trials replaces the one noted, none below the trials that
        there are. Raises `ConfigError` where another search was begun here, `DiskError`.
        """
        make_folder(self.path)
        with self.alone():
            if not self.holds_search():
                self._write(search, f"{name}_{datetime.now():%Y-%m-%d_%H-%M-%S-%f}", storage)
                return search
            begun, study, place = self.read()
            self._refuse_another(begun, search)
            if storage not in (None, place):
                raise ConfigError(
                    f"--storage {storage}: the study of {self.path} is in {place or self.journal}."
                )
            search = dataclasses.replace(search, trials=max(search.trials, self._trials()))
            if begun.trials != search.trials:
                self._write(search, study, place)
            return search

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, no other process of this search chooses a trial."""
        with held(self.path / ".lock"):
            yield

    def lock_of(self, number: int) -> TextIO | None:
        """A trial's lock; None where a process, or a run that outlived it, has it."""
        make_folder(self.trial(number))
        return locked(self.trial(number) / ".search.lock")

    def refuse_foreign(self, number: int, words: Sequence[str] | None = None) -> None:
        """Raise `ConfigError` where a trial's folder holds a run that is not this trial's.

        So it is where the study was lost and the folders were not. `words` are those by which the
        trial was begun, None for one that was not.
        """
        run = RunFolder(self.trial(number))
        there = set(run.read_overrides())
        if words is None:
            foreign = run.holds_run()
        else:
            # Hydra notes no words about itself, and a kill may have come before any was noted.
            foreign = bool(there) and there != {w for w in words if not _of_hydra(w)}
        if foreign:
            _, _, storage = self.read()
            raise ConfigError(
                f"{run.path} holds a run of another study: put {storage or self.journal} back, or"
                " choose another --dir."
            )

    def _trials(self) -> int:
        """How many have a folder, which each is given as it begins."""
        numbers = [int(path.name) for path in self.path.glob("trials/*") if path.name.isdecimal()]
        return max(numbers, default=-1) + 1

    def _write(self, search: Search, study: str, storage: str | None) -> None:
        node = {"study": study, "storage": storage, **dataclasses.asdict(search)}
        text = OmegaConf.to_yaml(OmegaConf.create(node))
        head = f"# What is searched here. Go on with it: wgan-search {self.path}\n"
        write_atomically(self.path / SEARCH, (head + text).encode())

    def _refuse_another(self, begun: Search, asked: Search) -> None:
        there, here = _plain(begun), _plain(asked)
        changed = [key for key in {**there, **here} if there.get(key) != here.get(key)]
        if not changed:
            return
        shown = [f"{key} {there.get(key)} there, {here.get(key)} now" for key in changed[:_SHOWN]]
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise ConfigError(
            f"{self.path} holds another search ({'; '.join(shown)}{more}). Go on with that one by"
            f" wgan-search {self.path}, or choose another --dir."
        )


def _of_hydra(word: str) -> bool:
    return key_of(word).startswith(("hydra.", "hydra/"))


def _plain(search: Search) -> dict[str, Any]:
    return {k: v for k, v in flatten(dataclasses.asdict(search)).items() if k not in _FREE}
