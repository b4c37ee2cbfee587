"""The wire form of a judgement: all that it says arrives, and nothing else."""

from __future__ import annotations

import pickle
from dataclasses import MISSING, fields, is_dataclass, replace
from inspect import isdatadescriptor
from typing import Any

import pytest

from gateway.core import answers
from gateway.core.answers import Answer
from gateway.core.decision import Decision, Deny
from gateway.core.identity import Consumer, Credential, Identity, Organization, Status
from gateway.core.ports import KeyRecord
from gateway.credentials.memory import FOREVER
from gateway.credentials.wire import Judgement, from_wire, to_wire

ORGANIZATION = Organization("o-1", "springfield", ("contentUser", "contentAdmin"), ("600/minute",))
CONSUMER = Consumer("c-1", "mobile_app", "m-1", ORGANIZATION, ("z", "a"), ("5/second", "9/hour"), declared=True)
CREDENTIAL = Credential(
    id="k-1",
    kind="jwt",
    identifier="pnpub_1",
    consumer_id="c-1",
    name="warehouse sync",
    secret_hash="$2b$10$secret",
    status=Status.DEPRECATED,
    read_only=True,
    scopes=("courses:read",),
    rate_limits=("7/minute",),
    created_at=1.5,
    expires_at=2.5,
    last_used_at=3.5,
    declared=True,
)
RECORD = KeyRecord(CREDENTIAL, CONSUMER)
IDENTITY = Identity(CONSUMER, CREDENTIAL, ("courses:read",), "learner-7", anonymous=True)
DENY = Deny(
    answers.TOO_MANY_FAILURES,
    headers=((b"Retry-After", b"7"),),
    reason="another_reason",
    members={"violated-policies": ["guesses"]},
    close=True,
    facts={"why": "because"},
)
ANSWERS = [answer for answer in vars(answers).values() if isinstance(answer, Answer)]

#: What is computed anew at the other end, from the rest.
COMPUTED = {"derived", "groups", "identifier", "upstream_headers", "username"}
#: What stays where it is verified.
KEPT_BACK = {"secret_hash"}


def sent(judgement: Judgement) -> Judgement:
    """What arrives in another process."""
    return from_wire(pickle.loads(pickle.dumps(to_wire(judgement), protocol=5)))


def plain(value: Any) -> bool:
    """Is it made of nothing but what pickles without any class?"""
    if isinstance(value, (tuple, list)):
        return type(value) in (tuple, list) and all(map(plain, value))
    if isinstance(value, dict):
        return type(value) is dict and all(plain(part) for pair in value.items() for part in pair)
    return value is None or type(value) in (str, bytes, bool, int, float)


def attributes(kind: type[Any]) -> set[str]:
    """The names of what an instance holds; a compiled class has no `__slots__`, but descriptors as well."""
    return {name for name in dir(kind) if not name.startswith("_") and isdatadescriptor(getattr(kind, name))}


@pytest.mark.parametrize("whole", [ORGANIZATION, CONSUMER, CREDENTIAL], ids=lambda whole: type(whole).__name__)
def test_the_cases_fill_every_field(whole: Any) -> None:
    assert is_dataclass(whole)
    for field in fields(whole):
        assert field.default is MISSING or getattr(whole, field.name) != field.default, f"say something of {field.name}"


def test_every_field_arrives_but_the_hash() -> None:
    arrived = sent(Judgement(IDENTITY, 99.5, RECORD, remember=True))
    assert arrived.record is not None
    assert arrived.record.consumer == CONSUMER, "with its organization"
    for field in fields(Credential):
        expected = "" if field.name in KEPT_BACK else getattr(CREDENTIAL, field.name)
        assert getattr(arrived.record.credential, field.name) == expected, field.name
    assert (arrived.until, arrived.remember) == (99.5, True)
    assert isinstance(arrived.outcome, Identity)
    unsent = replace(CREDENTIAL, secret_hash="")
    assert attributes(Identity) > COMPUTED
    for name in attributes(Identity) - COMPUTED:
        expected = unsent if name == "credential" else getattr(IDENTITY, name)
        assert getattr(arrived.outcome, name) == expected, name
    for name in COMPUTED - {"derived"}:
        assert getattr(arrived.outcome, name) == getattr(IDENTITY, name), name
    assert arrived.outcome.derived == {}
    assert arrived.outcome.credential is arrived.record.credential, "held once"
    assert arrived.outcome.consumer is arrived.record.consumer, "held once"


def test_an_identity_of_its_own_beside_the_record() -> None:
    other = Consumer("c-2", "other")
    arrived = sent(Judgement(Identity(other), FOREVER, RECORD))
    assert isinstance(arrived.outcome, Identity)
    assert (arrived.outcome.consumer, arrived.outcome.credential, arrived.until) == (other, None, FOREVER)
    assert isinstance(sent(Judgement(IDENTITY)).outcome, Identity)


def test_every_field_of_a_refusal_arrives() -> None:
    arrived = sent(Judgement(DENY)).outcome
    assert isinstance(arrived, Deny)
    assert attributes(Deny) == {"answer", "close", "facts", "headers", "members", "reason"}
    for name in attributes(Deny):
        assert getattr(arrived, name) == getattr(DENY, name), name
        assert getattr(DENY, name) != getattr(Deny(answers.INVALID_KEY), name), f"say something of {name}"
    assert issubclass(Deny, Decision)


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.reason)
def test_an_answer_arrives_as_the_very_row(answer: Answer) -> None:
    arrived = sent(Judgement(Deny(answer))).outcome
    assert isinstance(arrived, Deny)
    assert arrived.answer is answer
    assert (arrived.headers, arrived.members, arrived.reason) == ((), None, answer.reason)


def test_an_answer_that_is_not_the_gateways_own_is_a_fault() -> None:
    with pytest.raises(KeyError):
        to_wire(Judgement(Deny(Answer(418, "I am a teapot", "teapot"))))


@pytest.mark.parametrize("judgement", [Judgement(IDENTITY, 1.0, RECORD, remember=True), Judgement(DENY)])
def test_what_travels_is_plain_and_holds_no_hash(judgement: Judgement) -> None:
    told = to_wire(judgement)
    assert plain(told)
    assert b"$2b$10$secret" not in pickle.dumps(told)
