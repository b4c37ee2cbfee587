"""The identities that the configuration file declares, beside those of the store.

Pure.  Where both know a username, the file's fields hold.  A row of the store marked `declared` only stands in
for something of the file (a foreign key, a revocation): without the file's word it is nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from gateway.core.identity import Consumer, Credential, Organization, Status, declared_id
from gateway.core.ports import KeyRecord


class DeclaredOrganization(Protocol):
    """An organization as the file declares it."""

    @property
    def name(self) -> str: ...

    @property
    def grantable_groups(self) -> Sequence[str]: ...


class DeclaredKey(Protocol):
    """A key as the file declares it: `public`, or `legacy` in its place, and the bcrypt hash of its secret."""

    @property
    def name(self) -> str: ...

    @property
    def public(self) -> str | None: ...

    @property
    def legacy(self) -> str | None: ...

    @property
    def secret_hash(self) -> str | None: ...

    @property
    def read_only(self) -> bool: ...

    @property
    def scopes(self) -> Sequence[str]: ...


class DeclaredConsumer(Protocol):
    """A consumer as the file declares it."""

    @property
    def username(self) -> str: ...

    @property
    def custom_id(self) -> str | None: ...

    @property
    def organization(self) -> str | None: ...

    @property
    def groups(self) -> Sequence[str]: ...

    @property
    def keys(self) -> Sequence[Any]: ...


def legacy_identifier(digest: str) -> str:
    """What is shown of an imported key, which has no public part: the head of its keyed digest."""
    return f"legacy_{digest[:16]}"


@dataclass(frozen=True, slots=True)
class Declared:
    """Everything declared: organizations by name, consumers by username, keys by public part or legacy digest."""

    organizations: dict[str, Organization] = field(default_factory=dict)
    consumers: dict[str, Consumer] = field(default_factory=dict)
    keys: dict[str, KeyRecord] = field(default_factory=dict)
    legacy: dict[str, KeyRecord] = field(default_factory=dict)

    @classmethod
    def build(cls, consumers: Iterable[DeclaredConsumer], organizations: Iterable[DeclaredOrganization]) -> Declared:
        """Index what the file declares; names are unique already, the loader has seen to that."""
        declared = cls()
        for item in organizations:
            declared.organizations[item.name] = Organization(
                id=declared_id("organization", item.name),
                name=item.name,
                grantable_groups=tuple(item.grantable_groups),
                rate_limits=_rates(item),
            )
        for person in consumers:
            consumer = Consumer(
                id=declared_id("consumer", person.username),
                username=person.username,
                custom_id=person.custom_id or None,
                organization=declared._organization(person.organization),
                groups=tuple(person.groups),
                rate_limits=_rates(person),
                declared=True,
            )
            declared.consumers[person.username] = consumer
            for key in person.keys:
                declared._add(consumer, key)
        return declared

    def _organization(self, name: str | None) -> Organization | None:
        if not name:
            return None
        return self.organizations.get(name) or Organization(declared_id("organization", name), name)

    def _add(self, consumer: Consumer, key: DeclaredKey) -> None:
        digest = (key.legacy or "").lower()
        identifier = legacy_identifier(digest) if digest else key.public or ""
        credential = Credential(
            id=declared_id("key", f"legacy:{digest}" if digest else identifier),
            kind="key",
            identifier=identifier,
            consumer_id=consumer.id,
            name=key.name,
            secret_hash=key.secret_hash or "",
            read_only=key.read_only,
            scopes=tuple(key.scopes),
            rate_limits=_rates(key),
            expires_at=getattr(key, "expires_at", None),
            declared=True,
        )
        record = KeyRecord(credential, consumer)
        if digest:
            self.legacy[digest] = record
        else:
            self.keys[identifier] = record

    def records(self) -> list[KeyRecord]:
        """Every declared key, in the order of the file."""
        return [*self.keys.values(), *self.legacy.values()]

    def compose(self, declared: KeyRecord | None, stored: KeyRecord | None) -> KeyRecord | None:
        """What holds of a key that the file declares, the store knows, or both; None when it is nobody's."""
        if declared is not None:
            if stored is None or stored.credential.status is Status.ACTIVE:
                return declared
            return replace(declared, credential=replace(declared.credential, status=stored.credential.status))
        if stored is None or stored.credential.declared:
            return None
        consumer = self.consumer_of(stored.consumer)
        return None if consumer is None else replace(stored, consumer=consumer)

    def consumer_of(self, stored: Consumer) -> Consumer | None:
        """What holds of a consumer of the store, None when its row only stood in for a declaration that is gone."""
        declared = self.consumers.get(stored.username)
        if declared is not None:
            return declared
        if stored.declared:
            return None
        organization = stored.organization
        if organization is None:
            return stored
        known = self.organizations.get(organization.name)
        if known is None and organization.id != declared_id("organization", organization.name):
            return stored
        return replace(stored, organization=known)


def _rates(item: object) -> tuple[str, ...]:
    """Rate limits as text, whether the model holds text or parsed rates."""
    return tuple(str(rate) for rate in getattr(item, "rate_limits", None) or ())


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a file declares, the usernames and organizations of which it says something else than before, and the
    cost of its dearest hash."""

    declared: Declared
    usernames: frozenset[str]
    organizations: frozenset[str]
    cost: int


def changes_between(old: Declared, new: Declared) -> tuple[frozenset[str], frozenset[str]]:
    """`(usernames, organizations)` whose declaration appeared, disappeared or changed, their keys' included."""
    organizations = _differing(old.organizations, new.organizations)
    usernames = _differing(old.consumers, new.consumers)
    for before, after in ((old.keys, new.keys), (old.legacy, new.legacy)):
        for public in _differing(before, after):
            for record in (before.get(public), after.get(public)):
                if record is not None:
                    usernames |= {record.consumer.username}
    return usernames, organizations


def _differing(old: dict[str, Any], new: dict[str, Any]) -> frozenset[str]:
    return frozenset(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
