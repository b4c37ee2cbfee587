"""Questions: numbered, answered once, taken back, and failed when the link is lost."""

from __future__ import annotations

import logging

import pytest

from gateway.core.answers import INVALID_KEY
from gateway.core.decision import Deny
from gateway.core.errors import StoreError
from gateway.credentials.questions import Questions
from gateway.credentials.wire import Judgement, to_wire

TOLD = to_wire(Judgement(Deny(INVALID_KEY)))


class Sent:
    def __init__(self) -> None:
        self.asked: list[tuple[int, bytes, str]] = []
        self.cancelled: list[int] = []
        self.answers: list[object] = []
        self.questions = Questions(
            lambda number, token, client: self.asked.append((number, token, client)), self.cancelled.append
        )


def test_each_question_has_its_number_and_one_answer() -> None:
    sent = Sent()
    for token in (b"a", b"b"):
        sent.questions.ask(token, "192.0.2.1").then(sent.answers.append, sent.answers.append)
    assert sent.asked == [(1, b"a", "192.0.2.1"), (2, b"b", "192.0.2.1")]
    sent.questions.answered(2, TOLD)
    sent.questions.answered(2, TOLD)
    sent.questions.answered(7, TOLD)
    assert (len(sent.answers), len(sent.questions)) == (1, 1)
    assert isinstance(sent.answers[0], Judgement)


def test_one_that_is_taken_back_is_told_once_and_its_answer_dropped() -> None:
    sent = Sent()
    question = sent.questions.ask(b"a", "")
    question.cancel()
    question.cancel()
    sent.questions.answered(1, TOLD)
    assert (sent.cancelled, len(sent.questions)) == ([1], 0)


def test_what_is_given_up_fails_and_is_taken_back() -> None:
    sent = Sent()
    for token in (b"a", b"b"):
        sent.questions.ask(token, "").then(sent.answers.append, sent.answers.append)
    sent.questions.give_up()
    sent.questions.answered(1, TOLD)
    assert [type(answer) for answer in sent.answers] == [StoreError, StoreError]
    assert (sent.cancelled, len(sent.questions)) == ([1, 2], 0)
    sent.questions.ask(b"c", "")
    assert len(sent.questions) == 1, "the next may be answered"


def test_an_answer_that_cannot_be_read_is_a_fault_of_its_own_question_alone(caplog: pytest.LogCaptureFixture) -> None:
    sent = Sent()

    def explode(_: object) -> None:
        raise RuntimeError("a policy broke")

    sent.questions.ask(b"a", "").then(sent.answers.append, sent.answers.append)
    sent.questions.ask(b"b", "").then(explode, explode)
    sent.questions.answered(1, ("nonsense",))
    with caplog.at_level(logging.ERROR):
        sent.questions.answered(2, TOLD)
    assert [type(answer) for answer in sent.answers] == [ValueError]
    assert (len(caplog.records), len(sent.questions)) == (1, 0)


def test_nothing_is_asked_once_the_link_is_lost_and_one_receivers_fault_costs_the_others_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sent = Sent()

    def explode(_: object) -> None:
        raise RuntimeError("a policy broke")

    sent.questions.ask(b"a", "").then(explode, explode)
    sent.questions.ask(b"b", "").then(sent.answers.append, sent.answers.append)
    with caplog.at_level(logging.ERROR):
        sent.questions.lost()
    sent.questions.ask(b"c", "").then(sent.answers.append, sent.answers.append)
    assert [type(answer) for answer in sent.answers] == [StoreError, StoreError]
    assert (len(sent.asked), len(sent.questions), len(caplog.records)) == (2, 0, 1)
