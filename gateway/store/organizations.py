"""Organizations in the store."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select

from gateway.core.errors import ConflictError
from gateway.core.identity import Organization
from gateway.store import changes, tables

if TYPE_CHECKING:
    from gateway.store.engine import Database


def organization_of(row: Any) -> Organization:
    """An organization from its row."""
    return Organization(row.id, row.name, tuple(row.grantable_groups), tuple(row.rate_limits))


class Organizations:
    """The repository of organizations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, name: str) -> Organization | None:
        """The organization of this name."""
        async with self._database.read() as connection:
            query = select(tables.organizations).where(tables.organizations.c.name == name)
            row = (await connection.execute(query)).first()
        return None if row is None else organization_of(row)

    async def page(self, after: str, limit: int) -> list[Organization]:
        """At most `limit` organizations by name, those after the name `after`."""
        async with self._database.read() as connection:
            query = (
                select(tables.organizations)
                .where(tables.organizations.c.name > after)
                .order_by(tables.organizations.c.name)
                .limit(limit)
            )
            return [organization_of(row) for row in (await connection.execute(query)).all()]

    async def create(
        self, name: str, grantable_groups: tuple[str, ...] = (), rate_limits: tuple[str, ...] = ()
    ) -> Organization:
        """Make an organization.  Raises `ConflictError` when the name is taken."""
        made = Organization(str(uuid.uuid4()), name, grantable_groups, rate_limits)
        try:
            async with self._database.write() as connection:
                await connection.execute(
                    insert(tables.organizations).values(
                        id=made.id,
                        name=name,
                        grantable_groups=list(grantable_groups),
                        rate_limits=list(rate_limits),
                        created_at=time.time(),
                    )
                )
                await changes.record(connection, "organization", name)
        except ConflictError as error:
            raise ConflictError(f"an organization {name!r} exists already") from error
        return made
