"""What is taken back, after others were counted in between: as if it had never been, or stricter, never looser."""

from __future__ import annotations

import itertools
import socket
from functools import cache
from typing import Any

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.ports import Demand
from gateway.core.units import Rate
from gateway.counters.redis.questions import Question, states_of
from gateway.counters.redis.scripts import SCRIPTS
from gateway.counters.redis.wire import packed
from tests.counters.redis.servers import needs_redis
from tests.redis_server import shared_redis

pytestmark = needs_redis

SECOND = 1_000_000
START = 1_000 * SECOND
DATABASE = 15
RATES = (Rate(400, 2, "2s"), Rate(900, 30, "30s"))


@cache
def connection() -> socket.socket:
    """To the server of the run, for all of this file."""
    sock = socket.create_connection(("127.0.0.1", shared_redis()), timeout=60)
    commands = [packed((b"SCRIPT", b"LOAD", script.text)) for script in SCRIPTS]
    exchange(sock, packed((b"SELECT", b"%d" % DATABASE)), *commands)
    return sock


def exchange(sock: socket.socket, *commands: bytes) -> list[Any]:
    """The answers to all of these, in order."""
    sock.sendall(b"".join(commands))
    parser, replies = hiredis.Reader(), list[Any]()
    while len(replies) < len(commands):
        reply = parser.gets()
        if reply is False:
            parser.feed(sock.recv(65_536))
            continue
        assert not isinstance(reply, Exception), reply
        replies.append(reply)
    return replies


def ask(*commands: bytes) -> list[Any]:
    """The same, of the server of the run."""
    return exchange(connection(), *commands)


#: Takes, each so many microseconds after the one before; and how many takes later it is taken back, if it is.
takes = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 3), st.integers(0, 300_000), st.just(3 * SECOND)),
        st.one_of(st.none(), st.integers(0, 4)),
    ),
    min_size=1,
    max_size=40,
)


_numbers = itertools.count()


@pytest.mark.parametrize("crowd", [0, 60, 300])
@pytest.mark.parametrize("algorithm", ["sliding-window", "fixed-window", "token-bucket"])
@given(taken=takes)
@settings(max_examples=60, deadline=None)
def test_what_is_taken_back(algorithm: str, crowd: int, taken: list[tuple[int, int | None]]) -> None:
    """`crowd` were counted before, so that each form of a log is met."""
    key = f"undo {next(_numbers)}"
    having, lacking = (
        Question((Demand(f"{key} {name}", RATES, algorithm),), (0, 1), "postern:") for name in ("with", "without")
    )
    ask(*(question.at(b"%d" % (START + turn)) for turn in range(crowd) for question in (having, lacking)))
    now = START + crowd
    owed: list[tuple[int, int]] = []
    at_once = True
    for turn, (gap, back) in enumerate(taken):
        now += gap
        clock = b"%d" % now
        if back is None:
            ask(lacking.at(clock))
        (reply,) = ask(having.at(clock))
        assert reply[0] == 1
        if back is not None:
            owed.append((turn + back, reply[1]))
            at_once = at_once and back == 0
        for due in [due for due in owed if due[0] <= turn]:
            owed.remove(due)
            ask(having.undo(due[1], clock))
    clock = b"%d" % now
    for due in owed:
        ask(having.undo(due[1], clock))
    has, wants = (states_of(reply) for reply in ask(having.at(clock), lacking.at(clock)))
    if algorithm == "sliding-window" or at_once:
        assert has == wants
    else:
        assert all(one[0] <= other[0] for one, other in zip(has, wants, strict=True))
