"""The change feed: what changed in the store, in order, so that whoever remembers can forget.

Each change writes its row in the transaction that makes it, so whoever sees the sequence number sees the change.
Law: one path.  A writer in this process and a writer in another are both heard of through `catch_up`; the first
calls it itself and answers when it returns, the others are found by `follow`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
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
    """The feed of one store.  `up` says whether it could be read last time."""

    def __init__(self, database: Database) -> None:
        self.up = True
        #: When the feed was last heard to its end, by the monotonic clock, in seconds.
        self.heard = time.monotonic()
        #: Seconds from the newest change to its being heard here.
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
        """Tell the listeners of every change committed before this call.  Raises `StoreError`."""
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
                    self._seq = row.seq
                    self.lag = max(0.0, time.time() - row.at)
            if len(rows) < _BATCH:
                self.heard = time.monotonic()
                return

    async def follow(self, interval: float = 0.5) -> None:
        """Catch up every `interval` seconds, until cancelled; a store that cannot be read is tried again."""
        while True:
            await asyncio.sleep(interval)
            try:
                await self.catch_up()
                self._database.check_place()
            except StoreError as error:
                if self.up:
                    _log.error("the store's changes cannot be followed: %s", error)
                self.up = False
            else:
                if not self.up:
                    _log.info("the store's changes are followed again")
                self.up = True
