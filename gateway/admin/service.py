"""What can be done with organizations, consumers and keys, without HTTP; the command line uses it directly too.

Takes and returns what JSON holds (contract §6).  Law: a change is made in the store, heard of by everything in
this process that remembers, and only then answered.  Raises `NotFoundError`, `ConflictError`, `InvalidInputError`,
`StoreError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from gateway.admin.ports import IdentityStore, Keeper
from gateway.admin.shapes import (
    LIMIT,
    ConsumerInput,
    KeyInput,
    OrganizationInput,
    Page,
    after_key,
    after_name,
    consumer_object,
    key_object,
    organization_object,
    page,
    validated,
)
from gateway.core.errors import ConflictError, NotFoundError
from gateway.core.identity import Consumer, Organization, Status
from gateway.core.ports import KeyRecord


class IdentityService:
    """The operations, over a store and the verifier that remembers what it said."""

    def __init__(self, store: IdentityStore, keeper: Keeper) -> None:
        self._store = store
        self._keeper = keeper

    async def create_key(self, username: str, body: object) -> dict[str, Any]:
        """Make a key of a consumer; the answer holds the whole key, this once."""
        wanted = validated(KeyInput, body)
        consumer = await self.consumer(username)
        made = await self._keeper.make_key()
        record = await self._store.keys.create(
            consumer,
            made.public,
            made.secret_hash,
            name=wanted.name,
            read_only=wanted.read_only,
            scopes=wanted.scopes,
            rate_limits=tuple(map(str, wanted.rate_limits)),
            expires_at=wanted.expires_at,
        )
        await self._store.changes.catch_up()
        return key_object(record, made.key)

    async def keys(self, username: str | None = None, limit: int = LIMIT, cursor: str | None = None) -> Page:
        """Keys, declared ones first, then by age; of one consumer if named."""
        if username is not None:
            await self.consumer(username)
        after = after_key(cursor)
        declared = sorted(self._keeper.declared.records(), key=lambda record: record.credential.id)
        wanted = [
            record
            for record in declared
            if username in (None, record.consumer.username) and (0.0, record.credential.id) > after
        ][: limit + 1]
        statuses = await self._store.keys.statuses([record.credential.id for record in wanted])
        objects = [
            key_object(record) | ({"status": statuses[record.credential.id].value} if _known(record, statuses) else {})
            for record in wanted
        ]
        cursors = [f"0.0 {record.credential.id}" for record in wanted]
        if len(objects) <= limit:
            for record in await self._store.keys.page(after, limit + 1 - len(objects), username):
                objects.append(key_object(record))
                cursors.append(f"{record.credential.created_at!r} {record.credential.id}")
        return page(objects, limit, cursors)

    async def key(self, key_id: str) -> dict[str, Any]:
        """One key."""
        record, status = await self._key(key_id)
        return key_object(record) | ({"status": status.value} if status is not None else {})

    async def revoke_key(self, key_id: str) -> dict[str, Any]:
        """End a key for good; from the answer on it is refused.  Revoking it again changes nothing."""
        record, status = await self._key(key_id)
        if Status.REVOKED not in (status, record.credential.status):
            if record.credential.declared:
                await self._store.keys.set_declared_status(record, Status.REVOKED)
            else:
                await self._store.keys.set_status(key_id, Status.REVOKED)
        await self._store.changes.catch_up()
        return await self.key(key_id)

    async def consumer(self, username: str) -> Consumer:
        """A consumer, declared or stored.  Raises `NotFoundError` that names close matches."""
        declared = self._keeper.declared
        found = declared.consumers.get(username)
        if found is None:
            stored = await self._store.consumers.find(username)
            found = None if stored is None else declared.consumer_of(stored)
        if found is None:
            known = {*declared.consumers, *await self._store.consumers.usernames()}
            close = difflib.get_close_matches(username, sorted(known), n=3)
            hint = f" (did you mean {', '.join(close)}?)" if close else ""
            raise NotFoundError(f"there is no consumer {username!r}{hint}")
        return found

    async def create_consumer(self, body: object) -> dict[str, Any]:
        """Make a consumer."""
        wanted = validated(ConsumerInput, body)
        if wanted.username in self._keeper.declared.consumers:
            raise ConflictError(f"the configuration file declares a consumer {wanted.username!r}")
        if wanted.organization is not None:
            await self._organization(wanted.organization)
        made = await self._store.consumers.create(
            wanted.username,
            wanted.custom_id,
            wanted.organization,
            wanted.groups,
            tuple(map(str, wanted.rate_limits)),
        )
        await self._store.changes.catch_up()
        return consumer_object(made)

    async def consumers(self, limit: int = LIMIT, cursor: str | None = None) -> Page:
        """Consumers by username."""
        after = after_name(cursor)
        declared = self._keeper.declared.consumers
        found = {name: consumer for name, consumer in declared.items() if name > after}
        for consumer in await self._store.consumers.page(after, limit + 1):
            found.setdefault(consumer.username, consumer)
        names = sorted(found)[: limit + 1]
        return page([consumer_object(found[name]) for name in names], limit, names)

    async def create_organization(self, body: object) -> dict[str, Any]:
        """Make an organization."""
        wanted = validated(OrganizationInput, body)
        if wanted.name in self._keeper.declared.organizations:
            raise ConflictError(f"the configuration file declares an organization {wanted.name!r}")
        rates = tuple(map(str, wanted.rate_limits))
        made = await self._store.organizations.create(wanted.name, wanted.grantable_groups, rates)
        await self._store.changes.catch_up()
        return organization_object(made, declared=False)

    async def organizations(self, limit: int = LIMIT, cursor: str | None = None) -> Page:
        """Organizations by name."""
        after = after_name(cursor)
        declared = self._keeper.declared.organizations
        found = {name: organization for name, organization in declared.items() if name > after}
        for organization in await self._store.organizations.page(after, limit + 1):
            found.setdefault(organization.name, organization)
        names = sorted(found)[: limit + 1]
        return page([organization_object(found[name], name in declared) for name in names], limit, names)

    async def organization(self, name: str) -> dict[str, Any]:
        """One organization."""
        return organization_object(await self._organization(name), name in self._keeper.declared.organizations)

    async def _organization(self, name: str) -> Organization:
        found = self._keeper.declared.organizations.get(name) or await self._store.organizations.find(name)
        if found is None:
            raise NotFoundError(f"there is no organization {name!r}")
        return found

    async def _key(self, key_id: str) -> tuple[KeyRecord, Status | None]:
        """A key and, for a declared one, the status that the store remembers."""
        for record in self._keeper.declared.records():
            if record.credential.id == key_id:
                return record, (await self._store.keys.statuses([key_id])).get(key_id)
        stored = await self._store.keys.get(key_id)
        if stored is None or stored.credential.declared:
            raise NotFoundError(f"there is no key {key_id!r}")
        return stored, None


def _known(record: KeyRecord, statuses: Mapping[str, Status]) -> bool:
    return record.credential.id in statuses
