"""What the admin's side asks of the rest of the house, as protocols: the store's repositories, and the verifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from gateway.core.identity import Consumer, Organization, Status
from gateway.core.ports import KeyRecord


class NewKey(Protocol):
    """A key just made."""

    @property
    def public(self) -> str: ...
    @property
    def secret_hash(self) -> str: ...
    @property
    def key(self) -> str: ...


class Declared(Protocol):
    """What the file declares."""

    @property
    def organizations(self) -> Mapping[str, Organization]: ...
    @property
    def consumers(self) -> Mapping[str, Consumer]: ...
    def records(self) -> Sequence[KeyRecord]: ...
    def consumer_of(self, stored: Consumer) -> Consumer | None: ...


class Keeper(Protocol):
    """The verifier, as far as it matters here."""

    @property
    def declared(self) -> Declared: ...
    async def make_key(self) -> NewKey: ...
    def forget(self, kind: str, name: str) -> None: ...


class KeyRows(Protocol):
    """Keys in the store."""

    async def get(self, key_id: str) -> KeyRecord | None: ...
    async def page(self, after: tuple[float, str], limit: int, username: str | None = None) -> Sequence[KeyRecord]: ...
    async def statuses(self, ids: Sequence[str]) -> Mapping[str, Status]: ...
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
    ) -> KeyRecord: ...
    async def set_status(self, key_id: str, status: Status) -> None: ...
    async def set_declared_status(self, record: KeyRecord, status: Status) -> None: ...


class ConsumerRows(Protocol):
    """Consumers in the store."""

    async def find(self, username: str) -> Consumer | None: ...
    async def page(self, after: str, limit: int) -> Sequence[Consumer]: ...
    async def usernames(self) -> Sequence[str]: ...
    async def create(
        self,
        username: str,
        custom_id: str | None = None,
        organization: str | None = None,
        groups: tuple[str, ...] = (),
        rate_limits: tuple[str, ...] = (),
    ) -> Consumer: ...


class OrganizationRows(Protocol):
    """Organizations in the store."""

    async def find(self, name: str) -> Organization | None: ...
    async def page(self, after: str, limit: int) -> Sequence[Organization]: ...
    async def create(
        self, name: str, grantable_groups: tuple[str, ...] = (), rate_limits: tuple[str, ...] = ()
    ) -> Organization: ...


class Feed(Protocol):
    """The store's changes."""

    def subscribe(self, listener: Callable[[str, str], None]) -> None: ...
    async def catch_up(self) -> None: ...


class IdentityStore(Protocol):
    """The store, as far as it matters here."""

    @property
    def keys(self) -> KeyRows: ...
    @property
    def consumers(self) -> ConsumerRows: ...
    @property
    def organizations(self) -> OrganizationRows: ...
    @property
    def changes(self) -> Feed: ...
