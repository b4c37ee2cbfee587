"""Who is calling: organizations, consumers, credentials, and the identity that a request carries.

All of them are immutable: a change in the store makes new objects, so a request in flight keeps a
consistent view, and what is derived (the header block for the upstream) is computed once.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

#: Namespace of the ids of declared things (RFC 9562 §5.5, UUIDv5): the same name has the same id on every node.
NAMESPACE = uuid.UUID("5b0c9a4e-7d0f-5c5e-9a43-1f6f1d2a7c10")

#: Limits as written, `("600/minute", "5000/hour")`; parsed by whoever counts.
RateLimits = tuple[str, ...]

_CONTROL: Final = re.compile("[\x00-\x1f\x7f]")


def declared_id(kind: str, name: str) -> str:
    """The stable UUID of what the configuration file declares: `kind` is "consumer", "organization" or "key"."""
    return str(uuid.uuid5(NAMESPACE, f"{kind}:{name}"))


class Status(StrEnum):
    """The life of a credential; `expired` is not stored but follows from `expires_at`."""

    ACTIVE = "active"
    DEPRECATED = "deprecated"
    REVOKED = "revoked"
    EXPIRED = "expired"


@dataclass(frozen=True)
class Organization:
    """A tenant: consumers belong to at most one."""

    id: str
    name: str
    grantable_groups: tuple[str, ...] = ()
    rate_limits: RateLimits = ()


@dataclass(frozen=True)
class Consumer:
    """A named client of the LMS; `groups` is what ACLs look at, in the order in which they were given."""

    id: str
    username: str
    custom_id: str | None = None
    organization: Organization | None = None
    groups: tuple[str, ...] = ()
    rate_limits: RateLimits = ()
    declared: bool = False


@dataclass(frozen=True)
class Credential:
    """One API key (later: a JWT secret, an OAuth client) of one consumer.

    `identifier` is what may be shown and logged: the public part.  `secret_hash` is the bcrypt hash
    of the whole secret part, prefix included.  Times are Unix seconds.
    """

    id: str
    kind: str
    identifier: str
    consumer_id: str
    name: str = ""
    secret_hash: str = field(default="", repr=False)
    status: Status = Status.ACTIVE
    read_only: bool = False
    scopes: tuple[str, ...] = ()
    rate_limits: RateLimits = ()
    created_at: float = 0.0
    expires_at: float | None = None
    last_used_at: float | None = None
    declared: bool = False


class Identity:
    """The consumer and the credential that a request was authenticated as.

    `scopes` are those that the credential grants (None: its kind knows none, and the policy `scopes` refuses it),
    `user_id` is the person behind a delegated token, `anonymous` says that no credential came and the route names a
    stand-in.
    Computed once: `groups`, the consumer's ACL groups as a set; `upstream_headers`, the identity's header lines for
    the LMS (contract §3), each ending in CRLF, ready to be joined; `username` and `identifier`, what access lines say.
    `derived` holds what policies computed from this identity alone, each under a key of its own.
    """

    __slots__ = ("anonymous", "consumer", "credential", "derived", "groups", "identifier", "scopes",
                 "upstream_headers", "user_id", "username")  # fmt: skip

    def __init__(
        self,
        consumer: Consumer,
        credential: Credential | None = None,
        scopes: tuple[str, ...] | None = None,
        user_id: str | None = None,
        anonymous: bool = False,
    ) -> None:
        self.consumer = consumer
        self.credential = credential
        self.scopes = scopes
        self.user_id = user_id
        self.anonymous = anonymous
        self.groups = frozenset(consumer.groups)
        self.username = consumer.username
        self.identifier = "" if credential is None else credential.identifier
        self.derived: dict[object, Any] = {}
        self.upstream_headers = _upstream_headers(self)


def _upstream_headers(identity: Identity) -> bytes:
    consumer = identity.consumer
    lines = [("X-Consumer-ID", consumer.id), ("X-Consumer-Username", consumer.username)]
    if consumer.custom_id:
        lines.append(("X-Consumer-Custom-ID", consumer.custom_id))
    if consumer.groups:
        lines.append(("X-Consumer-Groups", ", ".join(consumer.groups)))
    if consumer.organization is not None:
        lines.append(("X-Organization-ID", consumer.organization.name))
    if identity.credential is not None:
        lines.append(("X-Credential-Identifier", identity.credential.identifier))
    if identity.scopes:
        lines.append(("X-Authenticated-Scope", " ".join(identity.scopes)))
    if identity.user_id is not None:
        lines.append(("X-Authenticated-UserId", identity.user_id))
    if identity.anonymous:
        lines.append(("X-Anonymous-Consumer", "true"))
    for name, value in lines:
        if _CONTROL.search(value):
            # It would end its line and begin another: who is at the other end believes every one of them.
            raise ValueError(f"{name}: control characters cannot stand in a header: {value!r}")
    return "".join([f"{name}: {value}\r\n" for name, value in lines]).encode("utf-8")
