"""The one door to the database (law 5): opening, migrating, transactions, and foreign exceptions made ours.

SQLite in WAL mode: readers never wait, writers take the write lock at once (`BEGIN IMMEDIATE`) and wait for each
other up to the busy timeout.  `synchronous` is FULL: a key that was said to be revoked stays revoked after a power
cut.  The data folder is 0700 and the file 0600 where we make them.  A file that was removed or replaced is written
no more: SQLite would go on with the old one, and all that was said to be done would be gone after a restart.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sqlalchemy import URL, event
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from gateway.core.errors import ConflictError, StartError, StoreError
from gateway.store import migrations
from gateway.store.location import database_path, folder_lock, prepare_folder

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

_BUSY_TIMEOUT_MS = 5000
#: One connection writes, others read beside it.
_CONNECTIONS = 3


@contextmanager
def translated() -> Iterator[None]:
    """Make SQLAlchemy's and the driver's exceptions ours: a broken constraint is a conflict, all else a fault."""
    try:
        yield
    except IntegrityError as error:
        raise ConflictError(f"it exists already or is still in use ({error.orig})") from error
    except SQLAlchemyError as error:
        raise StoreError(_plain(error)) from error
    except OSError as error:
        raise StoreError(str(error)) from error


def _plain(error: SQLAlchemyError) -> str:
    """The driver's own words, without the statement and its parameters."""
    return str(getattr(error, "orig", None) or error).splitlines()[0]


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a migration did: the revisions before (None: an empty database) and after."""

    before: str | None
    after: str


class Database:
    """An engine with two kinds of transaction.

    Every fault leaves as a `StoreError`, a broken constraint as a `ConflictError`.  `path` is the engine's file.
    """

    def __init__(self, engine: AsyncEngine, path: Path) -> None:
        self._engine = engine
        self._path = path
        self._file = _identity(path)
        self._reading = engine.execution_options(postern_reading=True)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection to read with; each statement sees the newest committed state."""
        with translated():
            async with self._reading.connect() as connection:
                yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that holds the write lock from its start; committed at the end, rolled back on an exception."""
        with translated():
            async with self._engine.begin() as connection:
                self.check_place()
                yield connection

    def check_place(self) -> None:
        """See that the file is still the one that was opened.  Raises `StoreError`."""
        if _identity(self._path) != self._file:
            raise StoreError(f"the file {self._path} was removed or replaced while it was open; restart Postern")

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()


async def open_database(url: str) -> tuple[Database, Migrated]:
    """Open the database of a store URL, made and migrated as needed.  Raises `StartError`."""
    path = database_path(url)
    prepare_folder(path.parent)
    engine = _sqlite_engine(path)
    try:
        async with folder_lock(path.parent):
            _make_file(path)
            migrated = await _migrate(engine, path)
    except BaseException:
        await engine.dispose()
        raise
    return Database(engine, path), migrated


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another of its name, None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _make_file(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StartError(f"cannot open the store {path}: {error.strerror}") from error


async def _migrate(engine: AsyncEngine, path: Path) -> Migrated:
    try:
        async with engine.execution_options(postern_reading=True).connect() as connection:
            before = await connection.run_sync(migrations.current_revision)
        if before is not None and before > migrations.HEAD:
            raise StartError(
                f"the store {path} was written by a newer Postern (revision {before}, this one knows {migrations.HEAD})"
            )
        if before != migrations.HEAD:
            async with engine.begin() as connection:
                await connection.run_sync(migrations.upgrade)
    except (SQLAlchemyError, OSError) as error:
        text = _plain(error) if isinstance(error, SQLAlchemyError) else str(error)
        raise StartError(f"cannot use the store {path}: {text}") from error
    return Migrated(before, migrations.HEAD)


def _sqlite_engine(path: Path) -> AsyncEngine:
    engine = create_async_engine(
        # Never makes the file: `_make_file` has, and what is gone later may not come back empty.
        URL.create("sqlite+aiosqlite", database=f"file:{quote(str(path))}", query={"mode": "rw", "uri": "true"}),
        pool_size=_CONNECTIONS,
        max_overflow=0,
        # The driver begins no transactions by itself: reads need none, and writes begin with the lock.
        connect_args={"isolation_level": None, "timeout": _BUSY_TIMEOUT_MS / 1000},
    )
    event.listen(engine.sync_engine, "connect", _set_pragmas)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _set_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        f"busy_timeout = {_BUSY_TIMEOUT_MS}",
        "cache_size = -2048",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    if not connection.get_execution_options().get("postern_reading"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
