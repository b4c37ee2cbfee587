"""What the control process makes of workers' questions; what both ends make of it together is in `test_delegated`."""

from __future__ import annotations

import logging

import pytest

from gateway.control.verification import Verification
from gateway.core.answers import INVALID_KEY, Answer
from gateway.core.decision import Deny, Pending
from gateway.core.identity import Identity
from gateway.core.ports import KeyRecord
from gateway.credentials.memory import FOREVER, Entry
from gateway.credentials.wire import Judgement, Wire, from_wire
from tests.credentials.fakes import NOW, make_record

RECORD = make_record()
IDENTITY = Identity(RECORD.consumer, RECORD.credential, ())


class Asker:
    """A worker's link, as far as it hears answers."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, Judgement]] = []

    def answered(self, number: int, told: Wire) -> None:
        self.heard.append((number, from_wire(told)))

    @property
    def texts(self) -> list[str]:
        return [
            judgement.outcome.answer.text if isinstance(judgement.outcome, Deny) else judgement.outcome.username
            for _, judgement in self.heard
        ]


class Told:
    """A verifier that answers as it is told."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.entry: Entry | None = None
        self.clients: list[str] = []

    def verify_key(self, token: bytes, client: str, now: float) -> Identity | Deny | Pending[Identity | Deny]:
        self.clients.append(client)
        assert now == NOW
        if isinstance(self.answer, Exception):
            raise self.answer
        assert isinstance(self.answer, (Identity, Deny, Pending))
        return self.answer

    def remembered(self, token: bytes) -> Entry | None:
        return self.entry


def asked(verifier: Told) -> tuple[Verification, Asker]:
    verification, asker = Verification(verifier, lambda: NOW), Asker()
    verification.ask(asker, 7, b"token", "192.0.2.7")
    return verification, asker


@pytest.mark.parametrize(
    ("entry", "until", "record", "remember"),
    [
        (Entry(IDENTITY, FOREVER, RECORD), FOREVER, True, True),
        (Entry(IDENTITY, 5.0, RECORD), 5.0, True, True),
        (Entry(Identity(RECORD.consumer), 5.0, RECORD), 0.0, False, False),
        (None, 0.0, False, False),
    ],
)
def test_what_is_remembered_here_may_be_remembered_there(
    entry: Entry | None, until: float, record: bool, remember: bool
) -> None:
    verifier = Told(IDENTITY)
    verifier.entry = entry
    _, asker = asked(verifier)
    [(number, judgement)] = asker.heard
    assert (number, judgement.until, judgement.remember) == (7, until, remember)
    assert isinstance(judgement.record, KeyRecord) is record
    assert verifier.clients == ["192.0.2.7"]


@pytest.mark.parametrize("fault", ["at once", "later", "an unknown answer"])
def test_a_fault_is_a_refusal(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    later: Pending[Identity | Deny] = Pending()
    teapot = Deny(Answer(418, "I am a teapot", "teapot"))
    verifier = Told({"at once": ZeroDivisionError(), "later": later, "an unknown answer": teapot}[fault])
    with caplog.at_level(logging.ERROR):
        verification, asker = asked(verifier)
        if fault == "later":
            later.fail(ZeroDivisionError())
    assert asker.texts == ["Failed to verify API token"]
    assert not asker.heard[0][1].remember
    assert len(caplog.records) == 1
    assert len(verification) == 0


def test_a_question_that_is_taken_back_is_not_answered() -> None:
    later: Pending[Identity | Deny] = Pending()
    verification, asker = asked(Told(later))
    verification.cancel(asker, 8)
    verification.cancel(Asker(), 7)
    assert len(verification) == 1
    verification.cancel(asker, 7)
    assert later.done
    assert (len(verification), asker.heard) == (0, [])


def test_a_worker_that_is_gone_is_told_nothing_even_by_its_own_end() -> None:
    first: Pending[Identity | Deny] = Pending(on_cancel=lambda: second.resolve(Deny(INVALID_KEY)))
    second: Pending[Identity | Deny] = Pending()
    verifier = Told(first)
    verification, asker = asked(verifier)
    verifier.answer = second
    verification.ask(asker, 8, b"other", "192.0.2.7")
    verification.gone(asker)
    verification.gone(asker)
    assert (len(verification), asker.heard) == (0, [])
