"""Where the embedded store lies, and the lock of its folder.  Imports no database: who only looks needs none."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.core.errors import StartError

_SQLITE = "sqlite:///"
_LOCK_PATIENCE = 30.0


def database_path(url: str) -> Path:
    """The file of `sqlite:///PATH`, relative to the working directory.  Raises `StartError` for anything else."""
    if not url.startswith(_SQLITE) or not url[len(_SQLITE) :]:
        raise StartError(f"store {url.partition('://')[0]}://… is not available yet: use sqlite:///PATH")
    return Path(url[len(_SQLITE) :])


def data_folder(url: str) -> Path:
    """The folder of the database, where the secret key and the control socket lie too."""
    return database_path(url).parent


def prepare_folder(folder: Path) -> None:
    """Make the data folder (0700) if it is not there.  Raises `StartError` when it cannot be written."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"cannot make the data folder {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StartError(f"cannot write to the data folder {folder}: permission denied")


@asynccontextmanager
async def folder_lock(folder: Path) -> AsyncIterator[None]:
    """Hold the data folder's lock: migrations and the taking of the control socket happen one process at a time."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + _LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StartError(f"another process holds the lock of {folder}") from None
                await asyncio.sleep(0.05)
        yield
    finally:
        os.close(descriptor)
