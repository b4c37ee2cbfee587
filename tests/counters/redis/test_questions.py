"""Commands and keys: what lies together in a cluster, what is remembered, and how an answer is read."""

from __future__ import annotations

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.ports import Demand
from gateway.core.units import parse_rate
from gateway.counters.redis.questions import Question, Questions, key_of, slot_of, states_of
from gateway.counters.redis.scripts import SCRIPTS, UNDO, take_for
from gateway.counters.redis.wire import packed

RATES = (parse_rate("600/minute"), parse_rate("5000/hour"))


def demand(rule: str, subject: str = "credential 7", algorithm: str = "sliding-window") -> Demand:
    return Demand(f"{rule} {subject}", RATES, algorithm, subject)


@pytest.mark.parametrize(
    ("asked", "key"),
    [
        (demand("service:lms - credential"), b"postern:s:service:lms - credential {credential 7}"),
        (demand("* - ip", "ip ::/64", "token-bucket"), b"postern:t:* - ip {ip ::/64}"),
        (Demand("k", RATES, "fixed-window"), b"postern:f:k"),
        (Demand("k", RATES, subject="elsewhere"), b"postern:s:k"),
        (Demand("über", RATES), "postern:s:über".encode()),
    ],
)
def test_keys(asked: Demand, key: bytes) -> None:
    assert key_of(asked) == key


@pytest.mark.parametrize(
    ("key", "slot"),
    # The first two are of the cluster's specification.
    [(b"123456789", 12739), (b"foo{bar}{zap}", 5061), (b"foo{}{bar}", 8363), (b"bar", 5061)],
)
def test_slots(key: bytes, slot: int) -> None:
    assert slot_of(key) == slot


def test_what_counts_by_one_identity_lies_in_one_slot() -> None:
    one, two = demand("route:a - credential"), demand("* burst credential", algorithm="token-bucket")
    other = demand("* - organization", "organization springfield")
    assert slot_of(key_of(one)) == slot_of(key_of(two)) != slot_of(key_of(other))
    together, apart = Questions(scattered=True).of((one, other, two))
    assert (together.places, apart.places) == ((0, 1, 4, 5), (2, 3))
    (everything,) = Questions().of((one, other, two))
    assert everything.places == (0, 1, 2, 3, 4, 5)


def test_a_question_is_made_once_for_one_object() -> None:
    questions, asked = Questions(), (demand("a"),)
    assert questions.of(asked) is questions.of(asked)
    assert questions.of([demand("a")])[0].request == questions.of(asked)[0].request


def test_the_request_names_script_key_and_windows() -> None:
    question = Question((demand("a"),), (0, 1), "postern:")
    tail = [b"s", b"2", b"600", b"60", b"5000", b"3600"]
    key, digest = b"postern:s:a {credential 7}", take_for({"s"}).digest
    assert parsed(question.request) == [b"EVALSHA", digest, b"1", key, b"", b"", *tail]
    assert parsed(question.at(b"17")) == [b"EVALSHA", digest, b"1", key, b"17", b"", *tail]
    assert parsed(question.undo(16, b"17")) == [b"EVALSHA", UNDO.digest, b"1", key, b"17", b"16", *tail]


def test_a_script_holds_what_its_demands_name() -> None:
    assert len({script.digest for script in SCRIPTS}) == 5
    assert b"Bucket" not in take_for({"s"}).text
    assert b"Sliding" in take_for({"s", "t"}).text


def test_an_answer_is_read_in_nanoseconds() -> None:
    assert states_of([1, 1_790_000_000_000_000, 5, 60_000_000, 0, 1]) == [(5, 60_000_000_000), (0, 1000)]


def parsed(command: bytes) -> list[bytes]:
    reader = hiredis.Reader()
    reader.feed(command)
    found = reader.gets()
    assert isinstance(found, list)
    return found


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8))
def test_commands_are_packed_as_redis_reads_them(parts: list[bytes]) -> None:
    assert parsed(packed(parts)) == parts
