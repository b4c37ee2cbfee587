"""Whose turn it is to write to a stream that several processes share.

A batch of lines is more than a pipe takes at once, so two writers would cut into each other's lines.  Each takes its
turn for one batch, under a lock of the stream: an anonymous file that all of them inherit, and lock by descriptions of
their own (flock(2): it excludes threads of one process as well as processes, and the kernel lets go of it when a
process ends, however it ends).  The file says whether the last turn ended: a line that was cut off gets its end before
another one begins.

To wait for a turn may take as long as the stream takes, so it is for a thread that may wait.
"""

from __future__ import annotations

import fcntl
import os
from typing import Final, Protocol

_CUT: Final = b"1"
_WHOLE: Final = b"0"


class Turns(Protocol):
    """One writer's turns."""

    def take(self) -> bool:
        """Wait for a turn; True if whoever had the last one has left a line without its end.

        Raises OSError: the turn was not had.
        """
        ...

    def give(self, cut: bool) -> None:
        """The turn is over; `cut` says that the last line has no end yet.  Raises OSError: others may believe so."""
        ...

    def close(self) -> None:
        """There will be no more turns."""
        ...


class OwnStream:
    """Of a stream that nobody else writes to."""

    def __init__(self) -> None:
        self._cut = False

    def take(self) -> bool:
        """At once."""
        return self._cut

    def give(self, cut: bool) -> None:
        """Remember how it ended."""
        self._cut = cut

    def close(self) -> None:
        """There is nothing to close."""


class SharedStream:
    """Of a stream that others write to as well; see the module."""

    def __init__(self, lock: int) -> None:
        """`lock` is a descriptor of what `make_lock` made; made in the process (not before a fork) that uses it."""
        self._file = _opened_anew(lock)

    def take(self) -> bool:
        """Wait for the others."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            cut = os.pread(self._file, 1, 0) == _CUT
            # As it stays if this process is killed before it says otherwise.
            os.pwrite(self._file, _CUT, 0)
        except OSError:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            raise
        return cut

    def give(self, cut: bool) -> None:
        """Let the next one."""
        try:
            if not cut:
                os.pwrite(self._file, _WHOLE, 0)
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the lock's file."""
        os.close(self._file)


def turns(lock: int | None) -> Turns:
    """The turns at a stream whose lock this is; None: nobody else writes to it."""
    return OwnStream() if lock is None else SharedStream(lock)


def make_lock() -> int | None:
    """A lock for one stream, as a descriptor that other processes are given; None where the system has none.

    Without it long lines of two processes may run into each other, and nothing else happens.
    """
    try:
        lock = os.memfd_create("postern-log", os.MFD_CLOEXEC)
    except (AttributeError, OSError):
        return None
    try:
        os.close(_opened_anew(lock))
    except OSError:
        os.close(lock)
        return None
    return lock


def same_stream(one: int, other: int) -> bool:
    """Whether two descriptors lead to the same file, pipe or terminal; they need one lock then."""
    try:
        first, second = os.fstat(one), os.fstat(other)
    except OSError:
        return False
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)


def _opened_anew(descriptor: int) -> int:
    """A description of one's own of the same file: locks of duplicates and of inherited ones would be one lock."""
    return os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
