"""A connection without a socket: one write a turn, answers in order, and what becomes of those that wait in vain."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from gateway.core.errors import CountersError
from gateway.counters.redis.wire import AT_ONCE, MOST_WAITING, Told, Wire

PATIENCE = 30.0


def note(command: bytes, told: list[Any]) -> Told:
    """Writes down what becomes of it."""
    return Told(command, lambda reply: told.append((command, reply)), lambda error: told.append((command, str(error))))


def broken(reply: Any) -> None:
    raise ZeroDivisionError


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.aborted = False
        self.protocol: Any = None

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def abort(self) -> None:
        self.aborted = True


class Bench:
    """A wire, its transport, and what was told."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self.told: list[Any] = []
        self.ends: list[str] = []
        self.late: list[str] = []
        self.wire = Wire(
            asyncio.get_running_loop(),
            patience,
            lambda _, reason: self.late.append(reason),
            lambda _, reason: self.ends.append(reason),
        )
        self.transport = Transport()
        self.wire.take_over(self.transport, self)

    def ask(self, *commands: bytes) -> None:
        for command in commands:
            self.wire.ask(note(command, self.told))

    def answer(self, *data: bytes) -> None:
        for piece in data:
            self.wire.data_received(piece)


async def turn() -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0)


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_one_write_a_turn_and_answers_in_order(bench: Bench) -> None:
    bench.ask(b"a", b"b")
    bench.ask(b"c")
    assert bench.transport.writes == []
    await turn()
    bench.ask(b"d")
    await turn()
    assert bench.transport.writes == [b"abc", b"d"]
    bench.answer(b"*2\r\n:1\r\n", b":2\r\n:3\r", b"\n$1\r\nx\r\n+OK\r\n")
    assert bench.told == [(b"a", [1, 2]), (b"b", 3), (b"c", b"x"), (b"d", b"OK")]


async def test_no_more_than_so_many_are_on_their_way(bench: Bench) -> None:
    bench.ask(*[b"x"] * (AT_ONCE + 3))
    await turn()
    assert bench.transport.writes == [b"x" * AT_ONCE]
    bench.answer(b":1\r\n:1\r\n")
    assert bench.transport.writes[1:] == [b"xx"]
    bench.answer(b":1\r\n" * AT_ONCE)
    await turn()
    assert bench.transport.writes[2:] == [b"x"]
    bench.answer(b":1\r\n")
    assert len(bench.told) == AT_ONCE + 3


async def test_what_may_wait_is_bounded(bench: Bench) -> None:
    bench.ask(*[b"x"] * (MOST_WAITING - AT_ONCE))
    with pytest.raises(CountersError, match="too many requests wait"):
        bench.ask(b"x")
    await turn()
    bench.ask(*[b"x"] * AT_ONCE)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda bench: bench.wire.connection_lost(None), "closed the connection"),
        (lambda bench: bench.wire.connection_lost(BrokenPipeError()), "broke the connection (BrokenPipeError)"),
        (lambda bench: bench.answer(b"HTTP/1.1 400 Bad Request\r\n"), "does not speak Redis' protocol"),
        (lambda bench: bench.answer(b":1\r\n:2\r\n:3\r\n"), "answered what was not asked"),
    ],
)  # fmt: skip
async def test_the_end_fails_what_waits(bench: Bench, end: Any, reason: str) -> None:
    bench.ask(b"a", b"b")
    await turn()
    bench.ask(b"c")
    end(bench)
    answered = [told for told in bench.told if told[1] in {1, 2}]
    assert bench.told[len(answered) :] == [(command, reason) for command in (b"a", b"b", b"c")[len(answered) :]]
    assert (bench.ends, bench.transport.aborted, bench.wire.over) == ([reason], True, True)
    with pytest.raises(CountersError, match="has ended"):
        bench.ask(b"d")
    await turn()
    bench.wire.connection_lost(None)
    assert bench.ends == [reason]


async def test_who_closes_is_not_told(bench: Bench) -> None:
    bench.ask(b"a")
    bench.wire.close("over")
    bench.wire.connection_lost(None)
    assert (bench.told, bench.ends) == ([(b"a", "over")], [])


async def test_a_late_answer_is_never_taken_for_anothers() -> None:
    bench = Bench(patience=0.01)
    bench.ask(*[b"x"] * AT_ONCE, b"unwritten")
    async with asyncio.timeout(30):
        while not bench.late:
            await asyncio.sleep(0.005)
    reason = "gave no answer within 10 ms"
    assert bench.late == [reason]
    assert bench.told == [(b"x", reason)] * AT_ONCE + [(b"unwritten", reason)]
    assert not bench.wire.over
    bench.told.clear()
    # The connection still stands, and asks and answers go on in order.
    bench.ask(b"next")
    await turn()
    assert bench.transport.writes[-1] == b"next"
    bench.answer(*[b":7\r\n"] * AT_ONCE)
    assert bench.told == []
    bench.answer(b":8\r\n")
    assert bench.told == [(b"next", 8)]


async def test_an_answer_in_time_is_not_late() -> None:
    bench = Bench(patience=0.05)
    for number in range(20):
        bench.ask(b"a")
        await turn()
        bench.answer(b":%d\r\n" % number)
        await asyncio.sleep(0.01)
    assert (len(bench.told), bench.late) == (20, [])


@pytest.mark.parametrize("answered", [True, False])
async def test_a_process_that_stood_still_looks_once_more(
    bench: Bench, answered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer came in time, and could not be read: this loop was busy."""
    bench.ask(b"a")
    await turn()
    monkeypatch.setattr("gateway.counters.redis.wire.monotonic", lambda: time.monotonic() + 10 * PATIENCE)
    # As uvloop does: first the timers that are due, then the sockets.
    bench.wire._look()
    if answered:
        bench.answer(b":1\r\n")
    bench.wire._look()
    assert bench.told == [(b"a", 1 if answered else "gave no answer within 30000 ms")]
    assert bool(bench.late) is not answered


async def test_a_fault_of_one_is_nobody_elses(bench: Bench) -> None:
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["exception"]))
    bench.wire.ask(Told(b"a", broken, broken))
    bench.ask(b"b")
    await turn()
    bench.answer(b":1\r\n:2\r\n")
    assert bench.told == [(b"b", 2)]
    assert [type(fault) for fault in told] == [ZeroDivisionError]
