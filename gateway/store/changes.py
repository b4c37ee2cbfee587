"""The change feed: what changed in the store, in order, so that whoever remembers can forget.

Each change writes its row in the transaction that makes it, so whoever sees the sequence number sees the change.
Laws: one path.  A writer in this process and a writer in another are both heard of through `catch_up`; the first
calls it itself and answers when it returns, the others are found by `follow`.  And nobody is answered before all who
remember have forgotten: the listeners at once, whoever they in turn must tell by `confirm`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, insert, select

from gateway.core.errors import StoreError
from gateway.store import tables

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from gateway.store.engine import Database

_log = logging.getLogger("postern.store")
_BATCH = 500
#: How long `follow` waits for a confirmation before it looks for further changes, in seconds.
_CONFIRMATION = 5.0


@dataclass(frozen=True, slots=True)
class Change:
    """One change: `kind` is "key" or "consumer" with an id as `name`, or "organization" with its name."""

    seq: int
    kind: str
    name: str


async def record(connection: AsyncConnection, kind: str, name: str) -> None:
    """Write a change's row, in the transaction that makes the change."""
    await connection.execute(insert(tables.changes).values(kind=kind, name=name, at=time.time()))


class Changes:
    """The feed of one store.  `up` says whether it could be read last time.

    `confirm` returns once all whom the listeners have told of changes, in whatever process, have forgotten what is no
    longer true; where there is nobody but the listeners it returns at once.
    """

    def __init__(self, database: Database) -> None:
        self.up = True
        self.confirm: Callable[[], Awaitable[None]] = _nobody_else
        #: When the feed was last heard to its end, by the monotonic clock, in seconds.
        self.heard = time.monotonic()
        #: Seconds from the newest change to its being confirmed here.
        self.lag = 0.0
        self._database = database
        self._seq = 0
        self._listeners: list[Callable[[str, str], None]] = []

    @property
    def seq(self) -> int:
        """The newest change that the listeners have heard of."""
        return self._seq

    def subscribe(self, listener: Callable[[str, str], None]) -> None:
        """Call `listener(kind, name)` for each change from now on; giving it again changes nothing."""
        if listener not in self._listeners:
            self._listeners.append(listener)

    async def start(self) -> None:
        """Begin at the newest change; what came before is in the rows themselves."""
        async with self._database.read() as connection:
            self._seq = (await connection.execute(select(func.max(tables.changes.c.seq)))).scalar() or 0

    async def catch_up(self) -> None:
        """Tell the listeners of every change committed before this call, and wait for the confirmation.

        Raises `StoreError`.
        """
        newest = await self._hear()
        # Also when this call found nothing new: another may have told the listeners, and still be waiting.
        await self.confirm()
        if newest is not None:
            self.lag = max(0.0, time.time() - newest)

    async def _hear(self) -> float | None:
        """Tell the listeners; when the newest change was made, in Unix seconds, None where there was none."""
        newest: float | None = None
        while True:
            query = (
                select(tables.changes.c.seq, tables.changes.c.kind, tables.changes.c.name, tables.changes.c.at)
                .where(tables.changes.c.seq > self._seq)
                .order_by(tables.changes.c.seq)
                .limit(_BATCH)
            )
            async with self._database.read() as connection:
                rows = (await connection.execute(query)).all()
            for row in rows:
                # Somebody else may have been here while we read; hearing of a change twice does no harm.
                for listener in self._listeners:
                    listener(row.kind, row.name)
                if row.seq > self._seq:
                    self._seq, newest = row.seq, row.at
            if len(rows) < _BATCH:
                self.heard = time.monotonic()
                return newest

    async def follow(self, interval: float = 0.5) -> None:
        """Catch up every `interval` seconds, until cancelled; a store that cannot be read is tried again.

        A confirmation that fails or does not come is logged, and those that follow are asked for all the same.
        """
        while True:
            await asyncio.sleep(interval)
            try:
                await self._catch_up_somehow()
                self._database.check_place()
            except StoreError as error:
                if self.up:
                    _log.error("the store's changes cannot be followed: %s", error)
                self.up = False
            else:
                if not self.up:
                    _log.info("the store's changes are followed again")
                self.up = True

    async def _catch_up_somehow(self) -> None:
        """`catch_up` that no confirmation can hold up for ever.  Raises `StoreError`."""
        newest = await self._hear()
        try:
            async with asyncio.timeout(_CONFIRMATION):
                await self.confirm()
        except Exception:  # noqa: BLE001  # whatever it is, later changes are to be heard of
            _log.exception("a change of the store could not be confirmed")
        else:
            if newest is not None:
                self.lag = max(0.0, time.time() - newest)


async def _nobody_else() -> None:
    """Nobody remembers anything but the listeners."""
