"""One state of the store: what changed is told to all workers, and nobody is answered before they have forgotten.

Law: `confirm` returns when each worker that may admit requests has acknowledged every epoch up to now, or its process
has ended (`slots.Duty.ACKNOWLEDGE` says how long it has).  A worker that does not serve yet remembers nothing, and is
not asked.
"""

from __future__ import annotations

import asyncio

from gateway.control.crew import Crew
from gateway.control.messages import Change, Invalidate


class Revocations:
    """See the module.  An epoch is what was told at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, crew: Crew) -> None:
        self._loop = loop
        self._crew = crew
        self._epoch = 0
        self._changes: list[Change] = []

    def invalidate(self, kind: str, name: str) -> None:
        """Have a change told to all, in this turn of the loop."""
        if not self._changes:
            self._loop.call_soon(self._tell)
        self._changes.append((kind, name))

    async def confirm(self) -> None:
        """Return when no worker admits anything any more on what was invalidated so far, by whomever."""
        self._tell()
        epoch = self._epoch
        await self._crew.until(lambda: not any(member.life.owes_epoch(epoch) for member in self._crew))

    def _tell(self) -> None:
        if not self._changes:
            return
        changes, self._changes = tuple(self._changes), []
        self._epoch += 1
        for member in self._crew.tell(self._crew.admitting, Invalidate(self._epoch, changes)):
            member.life.told(self._epoch, self._crew.now)
        self._crew.hasten()
