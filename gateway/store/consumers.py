"""Consumers in the store, with their groups, and the rows that stand in for declared ones."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, insert, select

from gateway.core.errors import ConflictError
from gateway.core.identity import Consumer, Organization, declared_id
from gateway.store import changes, tables

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from gateway.store.engine import Database

#: A consumer's columns, its organization's where there is a row, and one group a row, in their order.
CONSUMER_COLUMNS = (
    tables.consumers.c.id.label("consumer_id"),
    tables.consumers.c.username,
    tables.consumers.c.custom_id,
    tables.consumers.c.organization,
    tables.consumers.c.rate_limits.label("consumer_rate_limits"),
    tables.consumers.c.declared.label("consumer_declared"),
    tables.organizations.c.id.label("organization_id"),
    tables.organizations.c.grantable_groups,
    tables.organizations.c.rate_limits.label("organization_rate_limits"),
    tables.consumer_groups.c.name.label("group_name"),
)


def with_groups(query: Select[Any], source: Any) -> Select[Any]:
    """Join a query over `source` (which holds the consumers) to organizations and groups."""
    return query.select_from(
        source.outerjoin(
            tables.organizations, tables.organizations.c.name == tables.consumers.c.organization
        ).outerjoin(tables.consumer_groups, tables.consumer_groups.c.consumer_id == tables.consumers.c.id)
    )


def consumer_of(rows: Sequence[Any]) -> Consumer:
    """A consumer from its rows, one a group.

    An organization without a row may be one that the file declares: it gets the id that it would have there.
    """
    row = rows[0]
    organization = None
    if row.organization_id is not None:
        organization = Organization(
            row.organization_id, row.organization, tuple(row.grantable_groups), tuple(row.organization_rate_limits)
        )
    elif row.organization is not None:
        organization = Organization(declared_id("organization", row.organization), row.organization)
    return Consumer(
        id=row.consumer_id,
        username=row.username,
        custom_id=row.custom_id,
        organization=organization,
        groups=tuple(each.group_name for each in rows if each.group_name is not None),
        rate_limits=tuple(row.consumer_rate_limits),
        declared=bool(row.consumer_declared),
    )


class Consumers:
    """The repository of consumers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, username: str) -> Consumer | None:
        """The consumer of this username, also one that only stands in for a declared one."""
        query = with_groups(select(*CONSUMER_COLUMNS), tables.consumers)
        query = query.where(tables.consumers.c.username == username).order_by(tables.consumer_groups.c.position)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        return consumer_of(rows) if rows else None

    async def page(self, after: str, limit: int) -> list[Consumer]:
        """At most `limit` consumers by username, those after the username `after`; no stand-ins."""
        chosen = (
            select(tables.consumers.c.id)
            .where(tables.consumers.c.username > after, tables.consumers.c.declared.is_(False))
            .order_by(tables.consumers.c.username)
            .limit(limit)
        )
        query = with_groups(select(*CONSUMER_COLUMNS), tables.consumers)
        query = query.where(tables.consumers.c.id.in_(chosen)).order_by(
            tables.consumers.c.username, tables.consumer_groups.c.position
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        grouped: dict[str, list[Any]] = {}
        for row in rows:
            grouped.setdefault(row.consumer_id, []).append(row)
        return [consumer_of(mine) for mine in grouped.values()]

    async def usernames(self) -> list[str]:
        """All usernames but those of stand-ins, for suggestions."""
        query = select(tables.consumers.c.username).where(tables.consumers.c.declared.is_(False)).limit(10_000)
        async with self._database.read() as connection:
            return list((await connection.execute(query)).scalars())

    async def create(
        self,
        username: str,
        custom_id: str | None = None,
        organization: str | None = None,
        groups: tuple[str, ...] = (),
        rate_limits: tuple[str, ...] = (),
    ) -> Consumer:
        """Make a consumer.  Raises `ConflictError` when the username or the custom id is taken."""
        try:
            async with self._database.write() as connection:
                identifier = str(uuid.uuid4())
                await connection.execute(
                    insert(tables.consumers).values(
                        id=identifier,
                        username=username,
                        custom_id=custom_id,
                        organization=organization,
                        rate_limits=list(rate_limits),
                        declared=False,
                        created_at=time.time(),
                    )
                )
                for position, name in enumerate(groups):
                    await connection.execute(
                        insert(tables.consumer_groups).values(consumer_id=identifier, name=name, position=position)
                    )
                await changes.record(connection, "consumer", identifier)
        except ConflictError as error:
            raise ConflictError(f"a consumer with the username or custom_id of {username!r} exists already") from error
        made = await self.find(username)
        if made is None:
            raise ConflictError(f"the consumer {username!r} was removed at once")
        return made


async def row_for(connection: AsyncConnection, consumer: Consumer) -> str:
    """The id of the row that keys of this consumer refer to; a declared one without a row gets a stand-in."""
    query = select(tables.consumers.c.id).where(tables.consumers.c.username == consumer.username)
    found = (await connection.execute(query)).scalar()
    if found is not None:
        return str(found)
    await connection.execute(
        insert(tables.consumers).values(
            id=consumer.id,
            username=consumer.username,
            custom_id=None,
            organization=None,
            rate_limits=[],
            declared=True,
            created_at=time.time(),
        )
    )
    return consumer.id
