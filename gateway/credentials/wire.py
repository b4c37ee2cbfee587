"""A judgement of a token on its way from the control process to a worker, as plain tuples.

Laws: nothing but tuples, text, numbers, bytes and mappings of these travels, since compiled classes are not for
pickling; a secret's hash never leaves the process that verifies; an answer of the gateway's own arrives as the very
row of `core.answers`, since there are those who compare it by `is`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.core import answers
from gateway.core.answers import Answer
from gateway.core.decision import Deny
from gateway.core.identity import Consumer, Credential, Identity, Organization, Status
from gateway.core.ports import KeyRecord

#: What travels; see `to_wire`.
Wire = tuple[Any, ...]

_NAMES: Final[Mapping[Answer, str]] = {
    answer: name for name, answer in vars(answers).items() if isinstance(answer, Answer)
}
_ANSWERS: Final[Mapping[str, Answer]] = {name: answer for answer, name in _NAMES.items()}


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found of a token.

    `outcome` is the answer to it.  `record` is the key that it was proven to be, None where it is nobody's or could
    not be judged; `until` is how long the answer holds if nothing changes, in Unix seconds.  `remember` says whether
    it may be given again without asking: an answer that rests on a key, or a token that has no key's shape.
    """

    outcome: Identity | Deny
    until: float = 0.0
    record: KeyRecord | None = None
    remember: bool = False


def to_wire(judgement: Judgement) -> Wire:
    """`(outcome, until, record or None, remember)`, all the way down in plain values."""
    record = judgement.record
    return (
        _from_outcome(judgement.outcome),
        judgement.until,
        None if record is None else (_from_credential(record.credential), _from_consumer(record.consumer)),
        judgement.remember,
    )


def from_wire(told: Wire) -> Judgement:
    """The judgement that `to_wire` made this of; its credentials have no `secret_hash`."""
    outcome, until, parts, remember = told
    record = None if parts is None else KeyRecord(_to_credential(parts[0]), _to_consumer(parts[1]))
    return Judgement(_to_outcome(outcome, parts, record), until, record, remember)


# ── the answer ──────────────────────────────────────────────────────────────────────────────────


def _from_outcome(outcome: Identity | Deny) -> Wire:
    if isinstance(outcome, Deny):
        members = None if outcome.members is None else dict(outcome.members)
        name = _NAMES[outcome.answer]
        return "deny", name, outcome.headers, outcome.reason, members, outcome.close, dict(outcome.facts)
    credential = outcome.credential
    return (
        "identity",
        _from_consumer(outcome.consumer),
        None if credential is None else _from_credential(credential),
        outcome.scopes,
        outcome.user_id,
        outcome.anonymous,
    )


def _to_outcome(told: Wire, parts: Wire | None, record: KeyRecord | None) -> Identity | Deny:
    if told[0] == "deny":
        _, name, headers, reason, members, close, facts = told
        return Deny(_ANSWERS[name], headers=headers, reason=reason, members=members, close=close, facts=facts)
    _, person, credential, scopes, user_id, anonymous = told
    if record is not None and parts == (credential, person):
        # The record's own: what is remembered of a key is held once.
        return Identity(record.consumer, record.credential, scopes, user_id, anonymous)
    return Identity(
        _to_consumer(person), None if credential is None else _to_credential(credential), scopes, user_id, anonymous
    )


# ── who it is ───────────────────────────────────────────────────────────────────────────────────


def _from_credential(credential: Credential) -> Wire:
    return (
        credential.id,
        credential.kind,
        credential.identifier,
        credential.consumer_id,
        credential.name,
        credential.status.value,
        credential.read_only,
        credential.scopes,
        credential.rate_limits,
        credential.created_at,
        credential.expires_at,
        credential.last_used_at,
        credential.declared,
    )


def _to_credential(told: Wire) -> Credential:
    (
        key_id, kind, identifier, consumer_id, name, status, read_only, scopes, rate_limits, created_at, expires_at,
        last_used_at, declared,
    ) = told  # fmt: skip
    return Credential(
        id=key_id,
        kind=kind,
        identifier=identifier,
        consumer_id=consumer_id,
        name=name,
        status=Status(status),
        read_only=read_only,
        scopes=scopes,
        rate_limits=rate_limits,
        created_at=created_at,
        expires_at=expires_at,
        last_used_at=last_used_at,
        declared=declared,
    )


def _from_consumer(consumer: Consumer) -> Wire:
    organization = consumer.organization
    return (
        consumer.id,
        consumer.username,
        consumer.custom_id,
        None if organization is None else _from_organization(organization),
        consumer.groups,
        consumer.rate_limits,
        consumer.declared,
    )


def _to_consumer(told: Wire) -> Consumer:
    consumer_id, username, custom_id, organization, groups, rate_limits, declared = told
    return Consumer(
        id=consumer_id,
        username=username,
        custom_id=custom_id,
        organization=None if organization is None else Organization(*organization),
        groups=groups,
        rate_limits=rate_limits,
        declared=declared,
    )


def _from_organization(organization: Organization) -> Wire:
    return organization.id, organization.name, organization.grantable_groups, organization.rate_limits
