"""Open the journal file that holds a study: for appending, or for reading alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from wgan_cli.locks import held
from wgan_cli.untrusted_files import parse_json, read_bytes

if TYPE_CHECKING:
    from optuna.storages import JournalStorage

# The largest journal that is read for a report, in bytes: a million trials or more.
_MOST_JOURNAL = 2**30


def appendable(path: Path, lock: Path) -> JournalStorage:
    """Return the storage in the journal file `path`. `lock` is the file that is locked to write."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    class KernelLock(JournalFileOpenLock):
        """A lock that the kernel releases when its process ends.

        After a process is killed, Optuna's own locks stay for 30 s or for ever.
        """

        def acquire(self) -> bool:
            self._context = held(lock)
            self._context.__enter__()
            return True

        def release(self) -> None:
            self._context.__exit__(None, None, None)

    _drop_partial_record(path, lock)
    return JournalStorage(JournalFileBackend(str(path), KernelLock(str(path))))


def read_journal(path: Path) -> JournalStorage:
    """Return a storage with the records of a journal file, which cannot be written to.

    Raises `OSError`, and `ValueError` if the file is no regular file, too large, or damaged. An
    incomplete last record does not count: another process may be writing it.
    """
    from optuna.storages import JournalStorage
    from optuna.storages.journal import BaseJournalBackend

    lines = read_bytes(path, _MOST_JOURNAL).split(b"\n")[:-1]
    records = [parse_json(line.decode()) for line in lines]

    class Records(BaseJournalBackend):
        def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
            return records[log_number_from:]

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            raise OSError("this journal is only read")

    return JournalStorage(Records())


def _drop_partial_record(path: Path, lock: Path) -> None:
    """Remove the journal's last record if a kill or a full disk left it incomplete.

    Otherwise the next record would follow on the same line and make the journal unreadable.
    """
    if not path.is_file():
        return
    with held(lock), path.open("r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)
