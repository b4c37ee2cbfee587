"""What goes in and out as JSON (contract §6): bodies checked by models, objects and pages as the API shows them."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, ValidationError

from gateway.config.identities import Groups, Label, Moment, Rates
from gateway.config.types import Name, Scope, Settings
from gateway.core.errors import InvalidInputError
from gateway.core.identity import Consumer, Credential, Organization, Status
from gateway.core.ports import KeyRecord

#: How many objects a page holds unless asked otherwise, and at most.
LIMIT, MAX_LIMIT = 100, 1000


def _unique(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) != len(values):
        raise ValueError("holds a value twice")
    return values


class KeyInput(Settings):
    """The body of `POST /consumers/{username}/keys`."""

    name: Label
    scopes: Annotated[tuple[Scope, ...], AfterValidator(_unique)] = ()
    read_only: bool = False
    expires_at: Moment | None = None
    rate_limits: Rates = ()


class ConsumerInput(Settings):
    """The body of `POST /consumers`."""

    username: Name
    custom_id: Label | None = None
    organization: Name | None = None
    groups: Groups = ()
    rate_limits: Rates = ()


class OrganizationInput(Settings):
    """The body of `POST /organizations`."""

    name: Name
    grantable_groups: Groups = ()
    rate_limits: Rates = ()


Input = TypeVar("Input", bound=Settings)


def validated(model: type[Input], body: object) -> Input:
    """The body as its model.  Raises `InvalidInputError` that names each field."""
    if not isinstance(body, Mapping):
        raise InvalidInputError("the body must be a JSON object")
    try:
        return model.model_validate(dict(body))
    except ValidationError as error:
        fields = {
            ".".join(map(str, problem["loc"])) or "body": problem["msg"].removeprefix("Value error, ")
            for problem in error.errors(include_url=False, include_input=False, include_context=False)
        }
        raise InvalidInputError("the input is not valid", fields) from None


def _moment(seconds: float | None) -> str | None:
    if not seconds:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _status(credential: Credential) -> str:
    active = credential.status in (Status.ACTIVE, Status.DEPRECATED)
    if active and credential.expires_at is not None and credential.expires_at <= time.time():
        return Status.EXPIRED.value
    return credential.status.value


def key_object(record: KeyRecord, key: str | None = None) -> dict[str, Any]:
    """A key as the API shows it; `key`, the whole of it, only when it was just made."""
    credential = record.credential
    return {
        "id": credential.id,
        "name": credential.name,
        "consumer": record.consumer.username,
        "public": credential.identifier,
        **({"key": key} if key is not None else {}),
        "status": _status(credential),
        "scopes": list(credential.scopes),
        "read_only": credential.read_only,
        "rate_limits": list(credential.rate_limits),
        "created_at": _moment(credential.created_at),
        "expires_at": _moment(credential.expires_at),
        "last_used_at": _moment(credential.last_used_at),
        "declared": credential.declared,
    }


def consumer_object(consumer: Consumer) -> dict[str, Any]:
    """A consumer as the API shows it."""
    return {
        "id": consumer.id,
        "username": consumer.username,
        "custom_id": consumer.custom_id,
        "organization": None if consumer.organization is None else consumer.organization.name,
        "groups": list(consumer.groups),
        "rate_limits": list(consumer.rate_limits),
        "declared": consumer.declared,
    }


def organization_object(organization: Organization, declared: bool) -> dict[str, Any]:
    """An organization as the API shows it."""
    return {
        "id": organization.id,
        "name": organization.name,
        "grantable_groups": list(organization.grantable_groups),
        "rate_limits": list(organization.rate_limits),
        "declared": declared,
    }


def _cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode("ascii").rstrip("=")


def after_name(cursor: str | None) -> str:
    """The name that a page begins after, from the cursor of the page before."""
    if not cursor:
        return ""
    try:
        return base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except (binascii.Error, ValueError):
        raise InvalidInputError("the input is not valid", {"cursor": "is not one that a list has returned"}) from None


def after_key(cursor: str | None) -> tuple[float, str]:
    """The `(created_at, id)` that a page of keys begins after, from the cursor of the page before."""
    if not cursor:
        return (-1.0, "")
    created_at, _, key_id = after_name(cursor).partition(" ")
    try:
        return (float(created_at), key_id)
    except ValueError:
        raise InvalidInputError("the input is not valid", {"cursor": "is not one that a list has returned"}) from None


Page = dict[str, Any]


def page(objects: list[dict[str, Any]], limit: int, cursors: list[str]) -> Page:
    """A page of at most `limit` objects; one more says that there is a next page, after the last one's cursor."""
    more = len(objects) > limit
    return {"data": objects[:limit], "next": _cursor(cursors[limit - 1]) if more else None}
