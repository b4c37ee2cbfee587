"""API keys in the store, and the rows that remember what became of declared ones."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, tuple_, update

from gateway.core.errors import ConflictError, NotFoundError
from gateway.core.identity import Consumer, Credential, Status
from gateway.core.ports import KeyRecord
from gateway.store import changes, tables
from gateway.store.consumers import CONSUMER_COLUMNS, consumer_of, row_for, with_groups

if TYPE_CHECKING:
    from gateway.store.engine import Database

_KEY_COLUMNS = tuple(column.label(f"key_{column.name}") for column in tables.keys.c)
_SOURCE = tables.keys.join(tables.consumers, tables.consumers.c.id == tables.keys.c.consumer_id)


def _record_of(rows: Sequence[Any]) -> KeyRecord:
    row = rows[0]
    credential = Credential(
        id=row.key_id,
        kind="key",
        identifier=row.key_public,
        consumer_id=row.key_consumer_id,
        name=row.key_name,
        secret_hash=row.key_secret_hash,
        status=Status(row.key_status),
        read_only=row.key_read_only,
        scopes=tuple(row.key_scopes),
        rate_limits=tuple(row.key_rate_limits),
        created_at=row.key_created_at,
        expires_at=row.key_expires_at,
        last_used_at=row.key_last_used_at,
        declared=row.key_declared,
    )
    return KeyRecord(credential, consumer_of(rows))


class Keys:
    """The repository of keys."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, public: str) -> KeyRecord | None:
        """The key of this public part, whatever its status."""
        return await self._one(tables.keys.c.public == public)

    async def get(self, key_id: str) -> KeyRecord | None:
        """The key of this id, whatever its status."""
        return await self._one(tables.keys.c.id == key_id)

    async def page(self, after: tuple[float, str], limit: int, username: str | None = None) -> list[KeyRecord]:
        """At most `limit` keys by `(created_at, id)`, those after `after`, of one consumer if named; no stand-ins."""
        order = (tables.keys.c.created_at, tables.keys.c.id)
        chosen = (
            select(tables.keys.c.id)
            .select_from(_SOURCE)
            .where(tuple_(*order) > tuple_(*after), tables.keys.c.declared.is_(False))
            .order_by(*order)
            .limit(limit)
        )
        if username is not None:
            chosen = chosen.where(tables.consumers.c.username == username)
        query = with_groups(select(*_KEY_COLUMNS, *CONSUMER_COLUMNS), _SOURCE)
        query = query.where(tables.keys.c.id.in_(chosen)).order_by(*order, tables.consumer_groups.c.position)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        grouped: dict[str, list[Any]] = {}
        for row in rows:
            grouped.setdefault(row.key_id, []).append(row)
        return [_record_of(mine) for mine in grouped.values()]

    async def statuses(self, ids: Sequence[str]) -> dict[str, Status]:
        """The statuses that rows remember for keys of these ids."""
        query = select(tables.keys.c.id, tables.keys.c.status).where(tables.keys.c.id.in_(ids))
        async with self._database.read() as connection:
            return {row.id: Status(row.status) for row in (await connection.execute(query)).all()}

    async def create(
        self,
        consumer: Consumer,
        public: str,
        secret_hash: str,
        *,
        name: str,
        read_only: bool = False,
        scopes: tuple[str, ...] = (),
        rate_limits: tuple[str, ...] = (),
        expires_at: float | None = None,
    ) -> KeyRecord:
        """Make a key of a consumer, declared or stored.  `secret_hash` is bcrypt's, `expires_at` Unix seconds."""
        key_id = str(uuid.uuid4())
        async with self._database.write() as connection:
            await connection.execute(
                insert(tables.keys).values(
                    id=key_id,
                    public=public,
                    consumer_id=await row_for(connection, consumer),
                    name=name,
                    secret_hash=secret_hash,
                    status=Status.ACTIVE.value,
                    read_only=read_only,
                    scopes=list(scopes),
                    rate_limits=list(rate_limits),
                    declared=False,
                    created_at=time.time(),
                    expires_at=expires_at,
                )
            )
            await changes.record(connection, "key", key_id)
        made = await self.get(key_id)
        if made is None:
            raise ConflictError("the key was removed as soon as it was made")
        return made

    async def set_status(self, key_id: str, status: Status) -> None:
        """Change a stored key's status.  Raises `NotFoundError`."""
        async with self._database.write() as connection:
            changed = await connection.execute(
                update(tables.keys).where(tables.keys.c.id == key_id).values(status=status.value)
            )
            if changed.rowcount == 0:
                raise NotFoundError(f"there is no key {key_id!r}")
            await changes.record(connection, "key", key_id)

    async def set_declared_status(self, record: KeyRecord, status: Status) -> None:
        """Remember what became of a declared key: its row says the status and holds no secret."""
        credential = record.credential
        async with self._database.write() as connection:
            changed = await connection.execute(
                update(tables.keys).where(tables.keys.c.public == credential.identifier).values(status=status.value)
            )
            if changed.rowcount == 0:
                await connection.execute(
                    insert(tables.keys).values(
                        id=credential.id,
                        public=credential.identifier,
                        consumer_id=await row_for(connection, record.consumer),
                        name=credential.name,
                        secret_hash="",
                        status=status.value,
                        read_only=credential.read_only,
                        scopes=[],
                        rate_limits=[],
                        declared=True,
                        created_at=time.time(),
                    )
                )
            await changes.record(connection, "key", credential.id)

    async def _one(self, condition: Any) -> KeyRecord | None:
        query = with_groups(select(*_KEY_COLUMNS, *CONSUMER_COLUMNS), _SOURCE)
        query = query.where(condition).order_by(tables.consumer_groups.c.position)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        return _record_of(rows) if rows else None
