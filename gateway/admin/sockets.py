"""The control socket's file: taken by one gateway a data folder, open to its own user alone.

Laws: the file is 0600 from the moment it exists; a live gateway's is never taken away, a dead one's is replaced,
and two that start at once take turns.  Both ends are the same user (or root), by the kernel's word.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from gateway.core.errors import StartError

FILE_NAME = "control.sock"
_PATH_LIMIT = 100
_BACKLOG = 64
_CREDENTIALS = struct.Struct("3i")


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name of the socket that fits into a socket address (108 bytes), however deep its folder lies."""
    if len(os.fsencode(path)) < _PATH_LIMIT:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def reach(path: Path) -> socket.socket | None:
    """A connection to the gateway that serves a control socket, None when there is none.

    Raises `StartError` when there is one that this user may not use.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with _short(path) as name:
            connection.connect(name)
    except OSError as error:
        connection.close()
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR):
            return None
        raise StartError(f"cannot use the control socket {path}: {error.strerror}") from error
    return connection


def take(path: Path) -> socket.socket:
    """Make the control socket and listen on it.  Raises `StartError` while another gateway serves it."""
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StartError(f"cannot make the control socket {path}: {error.strerror}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        other = reach(path)
        if other is not None:
            other.close()
            raise StartError(f"another gateway runs on this data folder ({path} answers)")
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        return _bind(path)
    except OSError as error:
        raise StartError(f"cannot make the control socket {path}: {error.strerror}") from error
    finally:
        os.close(folder)


def _bind(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # Linux gives the file the socket's own mode: it is never open to others, not even before the chmod.
        os.fchmod(listener.fileno(), 0o600)
        with _short(path) as name:
            listener.bind(name)
        path.chmod(0o600)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def peer_is_trusted(connection: socket.socket) -> bool:
    """Whether the other end is root or the user that this process runs as, by the kernel's word."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(credentials)
    return user in (0, os.geteuid())
