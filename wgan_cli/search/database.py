"""Open the databases of studies. A folder from elsewhere may name any database: it is not trusted.

A database is written only if it lies in the search's own folder, or if the user has named it.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import textwrap
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from wgan_cli.errors import CheckpointError, ConfigError
from wgan_cli.guard import inside
from wgan_cli.process_control import shell_words
from wgan_cli.untrusted_files import refuse_special

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

_SQLITE = "sqlite:///"
_MOST_DATABASE = 2**30
# Optuna makes only tables and indexes. A view may never end, and a trigger runs on every write.
_FOREIGN = """
    SELECT 1 FROM sqlite_master WHERE type NOT IN ('table', 'index') OR sql LIKE 'CREATE VIRTUAL%'
    UNION ALL
    SELECT 1 FROM sqlite_master AS made, pragma_table_xinfo(made.name) AS field
    WHERE made.type = 'table' AND field.hidden
"""


def absolute_url(url: str) -> str:
    """Return the URL with the absolute path of a SQLite file, because searches may move."""
    if not url.startswith(_SQLITE):
        return url
    return _SQLITE + str(Path(url.removeprefix(_SQLITE)).absolute())


def refuse_unreachable(url: str) -> None:
    """Raise `ConfigError` if the database cannot be opened. Create the tables in a new database."""
    from optuna.storages import RDBStorage

    try:
        RDBStorage(url)
    except Exception as error:
        # SQLAlchemy and each database driver raise their own exceptions.
        raise ConfigError(f"--storage {url} cannot be opened: {short(error)}") from None


def refuse_foreign(folder: Path, url: str, named: Collection[str]) -> None:
    """Raise `CheckpointError` if the database is neither in `folder` nor one of `named`.

    `folder` is the folder of the search whose study is in the database.
    """
    if url not in named and _file_inside(folder, url) is None:
        raise CheckpointError(
            f"The study of {folder} is in {url}, and this database is not a SQLite file in"
            f" {folder}. If you trust it, add {storage_flag(url)}."
        )


def refuse_unsafe_write(folder: Path, url: str, named: Collection[str]) -> None:
    """Raise `CheckpointError` if the study must not be written to; see `refuse_foreign`.

    A database in `folder` that the user has not named must have tables alone, and no journal of a
    write that was cut off: SQLite follows what such a journal says.
    """
    refuse_foreign(folder, url, named)
    file = _file_inside(folder, url)
    if file is None or url in named:
        return
    below = file.relative_to(os.path.realpath(folder))
    for suffix in ("", "-journal", "-wal", "-shm"):
        side = inside(folder, f"{below}{suffix}")
        if suffix == "-journal" and side.is_file() and side.stat().st_size:
            raise CheckpointError(
                f"{side} is left of a write that was cut off. If the study is yours, add"
                f" {storage_flag(url)}."
            )
    if file.is_file() and file.stat().st_size:
        try:
            with closing(_opened(file)):
                pass
        except (OSError, ValueError, sqlite3.Error) as error:
            raise CheckpointError(f"{file} cannot be used: {short(error)}.") from None


@contextmanager
def read_only(folder: Path, url: str, named: Collection[str]) -> Iterator[RDBStorage]:
    """Give a storage with the content of a database, which is not written to.

    A SQLite file is copied, because Optuna writes to every database that it opens. Any other
    database is opened itself if the user has named it. Raises `CheckpointError` as `refuse_foreign`
    does, and `OSError`, `ValueError` or an error of SQLite's or Optuna's if it cannot be read.
    """
    from optuna.storages import RDBStorage

    refuse_foreign(folder, url, named)
    file = _sqlite_file(url)
    if file is None:
        yield RDBStorage(url)
        return
    with tempfile.TemporaryDirectory(prefix="wgan-report-") as temporary:
        copy = Path(temporary, "study.db")

        def connection() -> sqlite3.Connection:
            opened = sqlite3.connect(copy, check_same_thread=False)
            opened.execute("PRAGMA trusted_schema=OFF")
            return opened

        with closing(_opened(file)) as source, closing(connection()) as target:
            source.backup(target)
        storage = RDBStorage(f"{_SQLITE}study.db", engine_kwargs={"creator": connection})
        try:
            yield storage
        finally:
            storage.engine.dispose()


def storage_flag(url: str) -> str:
    """Return `--storage URL`, quoted for a shell."""
    return shell_words(["--storage", url])


def needs_naming(folder: Path, url: str | None) -> bool:
    """Return whether a command that goes on with the search needs `--storage`."""
    return url is not None and _file_inside(folder, url) is None


def short(error: Exception) -> str:
    """Return the kind and the text of an error in at most 200 characters."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 200, placeholder=" ...")


def _sqlite_file(url: str) -> Path | None:
    """Return the file of a plain SQLite URL, None for any other URL.

    Optuna and SQLAlchemy do not take a path with braces or `?` literally.
    """
    path = url.removeprefix(_SQLITE)
    if not url.startswith(_SQLITE) or not path or set("?{}") & set(path):
        return None
    return Path(path)


def _file_inside(folder: Path, url: str) -> Path | None:
    """Return the SQLite file of the URL if it is inside `folder`, with links resolved."""
    file = _sqlite_file(url)
    if file is None:
        return None
    real = Path(os.path.realpath(file))
    return real if real.is_relative_to(os.path.realpath(folder)) else None


def _opened(file: Path) -> sqlite3.Connection:
    """Open a SQLite file for reading only.

    Raises `OSError`, `ValueError` if it is no regular file, is too large, or holds anything but
    tables and indexes, and `sqlite3.Error` if it is no database.
    """
    refuse_special(file)
    if file.stat().st_size > _MOST_DATABASE:
        raise ValueError(f"it has more than {_MOST_DATABASE:,} bytes")
    with file.open("rb") as header:
        logged_ahead = header.read(20)[18:] == b"\2\2"
    # To read a database with a write-ahead log, SQLite makes files beside it, unless told that
    # nothing changes. Then it reads what was last written to the database itself.
    mode = "immutable=1" if logged_ahead else "mode=ro"
    opened = sqlite3.connect(f"{file.absolute().as_uri()}?{mode}", uri=True)
    try:
        opened.execute("PRAGMA trusted_schema=OFF")
        if opened.execute(_FOREIGN).fetchone():
            raise ValueError("it holds views, triggers or other things that Optuna does not make")
    except BaseException:
        opened.close()
        raise
    return opened
