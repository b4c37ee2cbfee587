"""A process that is not our child, held by a pidfd: killed surely, its end noticed at once, never mistaken.

A number of a process is given away again when the process is gone; a pidfd is not (pidfd_open(2), Linux 5.3).  Where
the system has none, the process is known to live for as long as its link is open, since nobody else holds that end: so
its number is its own when the link was open just now, and its end is told by the link's.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress


class Process:
    """One worker's process."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pid: int, pidfd: int | None) -> None:
        """Take over `pidfd`, None where there is none: then somebody calls `ended`."""
        self.pid = pid
        self._loop = loop
        self._pidfd = pidfd
        self._dead = loop.create_future()
        #: Called once when the process has ended.
        self.on_end: Callable[[], None] | None = None
        if pidfd is not None:
            # A pidfd can be read when the process has ended, all of its threads included.
            loop.add_reader(pidfd, self.ended)

    @property
    def alive(self) -> bool:
        """False once it has ended."""
        return not self._dead.done()

    def kill(self) -> None:
        """End it at once (SIGKILL).  Without a pidfd: only while its link is known to be open."""
        if not self.alive:
            return
        # It has ended by itself where it cannot be found, which is about to be told.
        with suppress(ProcessLookupError):
            if self._pidfd is None or not _sent(self._pidfd):
                os.kill(self.pid, signal.SIGKILL)

    def unlinked(self) -> None:
        """Its link is lost: so it has ended, or goes on without one and must not."""
        if self._pidfd is None:
            self.ended()
        else:
            self.kill()

    def ended(self) -> None:
        """It has ended."""
        if not self.alive:
            return
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        _reap(self.pid)
        self._dead.set_result(None)
        if self.on_end is not None:
            self.on_end()

    async def wait(self) -> None:
        """Return when it has ended."""
        await asyncio.shield(self._dead)


def _sent(pidfd: int) -> bool:
    """Send SIGKILL; False where the system forbids this way (the process has not ended, so its number is its own)."""
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except PermissionError:
        return False
    return True


def _reap(pid: int) -> None:
    """Where we are the first process of a container, a worker whose nursery has died becomes our child."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return  # as it should be: its nursery reaps it
