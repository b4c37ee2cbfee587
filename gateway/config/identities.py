"""Organizations, consumers with their keys, and OAuth clients, as the file declares them (contract §2, §6)."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema, model_validator

from gateway.config.types import ConsumerName, Group, Name, OrganizationName, RateText, Scope, Settings

_BCRYPT = r"\$2[aby]\$(0[4-9]|1[0-4])\$[./A-Za-z0-9]{53}"
_PUBLIC = r"[A-Za-z0-9_\-]{1,128}"
_LABEL = re.compile(r"[^\x00-\x1f\x7f]{1,128}")


def _bcrypt_hash(value: str) -> str:
    if re.fullmatch(_BCRYPT, value) is None:
        raise ValueError("must be a bcrypt hash of 4 to 14 rounds: $2b$10$ and 53 characters of ./A-Za-z0-9")
    return value


def _public(value: str) -> str:
    if re.fullmatch(_PUBLIC, value) is None:
        raise ValueError("must be a key's public part: its prefix and 1 to 64 letters, digits, - and _")
    return value


def _label(value: str) -> str:
    if _LABEL.fullmatch(value) is None or value != value.strip():
        raise ValueError("must be a text of 1 to 128 characters on one line")
    return value


def _moment(value: Any) -> float:
    wanted = "must be a moment with its zone, such as 2027-01-31T00:00:00Z"
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError(wanted) from None
    if moment.tzinfo is None:
        raise ValueError(wanted)
    try:
        return moment.timestamp()
    except (OverflowError, ValueError):
        raise ValueError(wanted) from None


def _format_moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _unique(values: tuple[str, ...]) -> tuple[str, ...]:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"holds {value!r} twice")
        seen.add(value)
    return values


BcryptHash = Annotated[
    str,
    AfterValidator(_bcrypt_hash),
    WithJsonSchema({"type": "string", "title": "bcrypt hash", "pattern": f"^{_BCRYPT}$"}),
]
PublicPart = Annotated[
    str,
    AfterValidator(_public),
    WithJsonSchema({"type": "string", "title": "Public part", "pattern": f"^{_PUBLIC}$", "examples": ["pnpub_4f9c"]}),
]
Label = Annotated[
    str,
    AfterValidator(_label),
    WithJsonSchema({"type": "string", "title": "Text", "minLength": 1, "maxLength": 128}),
]
Moment = Annotated[
    float,
    PlainValidator(_moment),
    PlainSerializer(_format_moment, return_type=str),
    WithJsonSchema({"type": "string", "title": "Moment", "format": "date-time", "examples": ["2027-01-31T00:00:00Z"]}),
]
"""Unix seconds, written as an RFC 3339 time."""

Groups = Annotated[tuple[Group, ...], AfterValidator(_unique)]
Rates = tuple[RateText, ...]


class Organization(Settings):
    """A tenant; consumers belong to at most one."""

    name: Name = Field(description="Its name, as the LMS gets it in `X-Organization-ID`.")
    grantable_groups: Groups = Field(default=(), description="Groups that its own administrators may give.")
    rate_limits: Rates = Field(default=(), description="Replace the numbers of rules that count by organization.")


class Key(Settings):
    """One declared API key: only the hash of its secret stands here."""

    name: Label = Field(description="What it is for; no two keys of a consumer share one.")
    public: PublicPart | None = Field(
        default=None, description="The public part, prefix included. Either this or `legacy`."
    )
    legacy: str | None = Field(
        default=None,
        pattern="^[0-9A-Fa-f]{64}$",
        description="In place of `public`: the digest, keyed with `secret_key`, of a key made elsewhere.",
    )
    secret_hash: BcryptHash | None = Field(
        default=None, repr=False, description="bcrypt of the whole secret part, prefix included."
    )
    read_only: bool = Field(default=False, description="May only read (GET, HEAD, OPTIONS).")
    scopes: Annotated[tuple[Scope, ...], AfterValidator(_unique)] = Field(
        default=(), description="Scopes that it grants."
    )
    expires_at: Moment | None = Field(default=None, description="When it ends; left out: never.")
    rate_limits: Rates = Field(default=(), description="Replace the numbers of rules that count by credential.")

    @model_validator(mode="after")
    def _one_kind(self) -> Key:
        if (self.public is None) == (self.legacy is None):
            raise ValueError("must have either public or legacy")
        if self.public is not None and self.secret_hash is None:
            raise ValueError("must have a secret_hash")
        return self


class Consumer(Settings):
    """A named client of the LMS."""

    username: Name = Field(description="Its name; no two consumers share one.")
    custom_id: Label | None = Field(
        default=None, description="The LMS's own id for it, sent as `X-Consumer-Custom-ID`."
    )
    organization: OrganizationName | None = Field(default=None, description="The organization that it belongs to.")
    groups: Groups = Field(default=(), description="Its groups, which `acl` looks at.")
    rate_limits: Rates = Field(default=(), description="Replace the numbers of rules that count by consumer.")
    keys: tuple[Key, ...] = Field(
        default=(), description="Its declared API keys; more can be made with `postern keys create`."
    )


class Client(Settings):
    """A declared OAuth client."""

    client_id: PublicPart = Field(description="Its identifier; no two clients share one.")
    name: Label = Field(description="What it is called on the consent page.")
    consumer: ConsumerName = Field(description="The consumer that it acts for.")
    grant_types: tuple[Literal["authorization_code", "client_credentials", "refresh_token"], ...] = Field(
        min_length=1, description="How it may get tokens."
    )
    secret_hash: BcryptHash | None = Field(
        default=None, repr=False, description="bcrypt of its secret; a public client has none."
    )
    redirect_uris: tuple[str, ...] = Field(
        default=(), description="Where codes may be sent, compared character by character."
    )
    scopes: Annotated[tuple[Scope, ...], AfterValidator(_unique)] = Field(
        default=(), description="Scopes that it may ask for."
    )
    confidential: bool = Field(default=True, description="It can keep a secret.")
    first_party: bool = Field(default=False, description="It is the LMS's own: no consent page.")

    @model_validator(mode="after")
    def _secret(self) -> Client:
        if self.confidential and self.secret_hash is None:
            raise ValueError("must have a secret_hash, or confidential: false")
        return self
