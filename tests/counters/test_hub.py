"""The hub and a worker's end of it: how they write to each other, and that no fault of one is another's."""

from __future__ import annotations

import asyncio
import marshal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic_ns
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.decision import Pending
from gateway.core.errors import CountersError
from gateway.core.ports import Demand, Verdict
from gateway.core.units import Rate
from gateway.counters.hub import PATIENCE, HubCounters
from gateway.counters.hub_frames import DEFINITIONS, LARGEST, Frames, frame
from gateway.counters.hub_server import HubServer
from gateway.counters.memory import MemoryCounters

SECOND = 1_000_000_000
#: Seconds that anything may take on a machine that is busy with other things.
PATIENT = 30.0
MINUTE = (Rate(1000, 60, "minute"),)
#: Two questions about the first definition, as a worker writes them.
ASKING: list[Any] = [("sliding-window", ((1000, 60, "minute"),)), 0, "k", 0, "k"]


def demand(key: str, limit: int = 1000, algorithm: str = "sliding-window") -> tuple[Demand]:
    return (Demand(key, (Rate(limit, 60, "minute"),), algorithm),)


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENT):
        while not true():
            await asyncio.sleep(0.001)


@dataclass
class Asked:
    """What became of a question."""

    verdict: Verdict | None = None
    error: BaseException | None = None

    @staticmethod
    def of(pending: Verdict | Pending[Verdict]) -> Asked:
        asked = Asked()
        assert isinstance(pending, Pending)
        pending.then(lambda verdict: setattr(asked, "verdict", verdict), lambda error: setattr(asked, "error", error))
        return asked

    @property
    def done(self) -> bool:
        return self.verdict is not None or self.error is not None

    async def left(self) -> int:
        """What its first window has left."""
        await until(lambda: self.done)
        assert self.verdict is not None
        return self.verdict.states[0][0]


@asynccontextmanager
async def serving() -> AsyncIterator[HubServer]:
    server = HubServer(MemoryCounters())
    yield server
    server.close()
    await until(lambda: not len(server))


@asynccontextmanager
async def asking(server: HubServer, **settings: Any) -> AsyncIterator[HubCounters]:
    ours, its = socket.socketpair()
    counters = HubCounters(**settings)
    await server.serve(its)
    await counters.connect(ours)
    yield counters
    counters.close()


@asynccontextmanager
async def alone(**settings: Any) -> AsyncIterator[tuple[HubCounters, socket.socket]]:
    """A worker's end, and the bare socket at the hub's."""
    ours, its = socket.socketpair()
    its.setblocking(False)
    counters = HubCounters(**settings)
    await counters.connect(ours)
    yield counters, its
    counters.close()
    its.close()


async def read(its: socket.socket) -> bytes:
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(its, 1 << 20), PATIENT)


def silence(counters: HubCounters, sweeps: int = 10, after: int = 2 * PATIENCE) -> None:
    """The housekeeping of a while in which nothing came."""
    for _ in range(sweeps):
        counters.sweep(monotonic_ns() + after)


# ── frames ───────────────────────────────────────────────────────────────────────────────────────

lists = st.lists(st.lists(st.integers() | st.text() | st.none() | st.booleans(), max_size=5), max_size=5)


@given(lists=lists, cuts=st.lists(st.integers(0, 400), max_size=8))
def test_frames_arrive_whole_however_they_are_torn(lists: list[list[Any]], cuts: list[int]) -> None:
    stream = b"".join(frame(items) for items in lists)
    frames, read, start = Frames(), [], 0
    for cut in [*sorted(cut for cut in cuts if cut < len(stream)), len(stream)]:
        read += frames.feed(stream[start:cut])
        start = cut
    assert read == [item for items in lists for item in items]


NONSENSE = [
    (5).to_bytes(4, "little") + b"\xff\xff\xff\xff\xff",
    (0).to_bytes(4, "little"),
    (LARGEST + 1).to_bytes(4, "little"),
    (2).to_bytes(4, "little") + marshal.dumps([1, 2, 3], 2)[:2],
    len(marshal.dumps({})).to_bytes(4, "little") + marshal.dumps({}),
]


@pytest.mark.parametrize("data", NONSENSE)
@pytest.mark.parametrize("more", [b"", frame([1])])
def test_what_is_no_frame_is_a_fault(data: bytes, more: bytes) -> None:
    with pytest.raises(CountersError):
        Frames().feed(data + more)


@given(data=st.binary(max_size=64))
def test_no_other_fault_comes_of_any_header(data: bytes) -> None:
    """Whatever the length says; what follows it is not for strangers to write."""
    try:
        Frames().feed(data[:4])
    except CountersError:
        assert int.from_bytes(data[:4], "little") > LARGEST or data[:4] == bytes(4)


# ── asking ───────────────────────────────────────────────────────────────────────────────────────


async def test_what_is_asked_in_one_turn_goes_out_in_one_write() -> None:
    async with alone() as (counters, its):
        for key in ("a", "b", "a"):
            counters.take(demand(key), 0)
        counters.take((*demand("c"), *demand("d", 7)), 0)
        counters.take((), 0)
        data = await read(its)
        assert int.from_bytes(data[:4], "little") == len(data) - 4
        assert marshal.loads(data[4:]) == [
            ("sliding-window", ((1000, 60, "minute"),)), 0, "a", 0, "b", 0, "a",
            ("sliding-window", ((7, 60, "minute"),)), -3, 0, "c", 1, "d", -1,
        ]  # fmt: skip


async def test_what_is_asked_while_answers_are_to_come_goes_out_once_they_have() -> None:
    async with alone() as (counters, its):
        asked = [Asked.of(counters.take(demand("a"), 0)), Asked.of(counters.take(demand("b"), 0))]
        await read(its)
        for key in ("c", "d"):
            asked.append(Asked.of(counters.take(demand(key), 0)))
            its.sendall(frame([True, [(len(asked), 1)]]))
            await until(lambda: asked[len(asked) - 3].done)
        assert await asyncio.wait_for(read(its), PATIENT) == frame([0, "c", 0, "d"])
        its.sendall(frame([True, [(5, 1)], True, [(6, 1)]]))
        assert [await one.left() for one in asked] == [3, 4, 5, 6]


async def test_more_than_anybody_defines_is_forgotten_and_defined_again() -> None:
    async with serving() as server, asking(server) as counters:
        asked = [Asked.of(counters.take(demand("k", 10_000 + index), 0)) for index in range(DEFINITIONS + 10)]
        both = Asked.of(counters.take((*demand("k", 10_000), *demand("other", 9)), 0))
        again = Asked.of(counters.take(demand("k", 10_000, "fixed-window"), 0))
        assert await again.left() == 9_999
        assert await both.left() == 10_000 - DEFINITIONS - 11
        assert [await one.left() for one in asked] == [9_999] * len(asked)


async def test_the_workers_share_one_count_and_one_object_for_equal_rates() -> None:
    async with serving() as server, asking(server) as first, asking(server) as second:
        left = [await Asked.of(counters.take(demand("k"), 0)).left() for counters in (first, second, first, second)]
        assert left == [999, 998, 997, 996]
        assert len(server.counters._windows) == 1


@pytest.mark.parametrize("cancelled", [0, 1, 2])
async def test_who_no_longer_waits_leaves_the_answers_of_others_in_place(cancelled: int) -> None:
    async with serving() as server, asking(server) as counters:
        pending = [counters.take(demand("k"), 0) for _ in range(3)]
        asked = [Asked.of(one) for one in pending]
        pending[cancelled].cancel()
        assert [await one.left() for index, one in enumerate(asked) if index != cancelled] == [
            999 - index for index in range(3) if index != cancelled
        ]
        assert not asked[cancelled].done


async def test_a_defect_of_who_waits_strikes_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    def broken(verdict: object) -> None:
        raise RuntimeError("a defect")

    async with serving() as server, asking(server) as counters:
        counters.take(demand("k"), 0).then(broken, broken)
        assert await Asked.of(counters.take(demand("k"), 0)).left() == 998
    assert "a defect" in caplog.text


# ── faults of the hub ────────────────────────────────────────────────────────────────────────────


async def test_a_silent_hub_fails_what_waits_and_is_asked_again_once_it_answers() -> None:
    async with alone() as (counters, its):
        waits = [Asked.of(counters.take(demand("k"), 0)) for _ in range(3)]
        await read(its)
        silence(counters)
        assert [type(one.error) for one in waits] == [CountersError] * 3
        assert not counters.up
        with pytest.raises(CountersError):
            counters.take(demand("k"), 0)
        # The late answers, two of the three: they are nobody's, but they are a sign of life.
        its.sendall(frame([True, [(999, 1)], True, [(998, 1)]]))
        await until(lambda: counters.up)
        last = Asked.of(counters.take(demand("k"), 0))
        its.sendall(frame([True, [(997, 1)]]))
        await read(its)
        its.sendall(frame([True, [(996, 1)]]))
        assert await last.left() == 996


@pytest.mark.parametrize(
    ("sweeps", "after"), [(3, 2 * PATIENCE), (10, 0)], ids=["we stood still", "not long enough yet"]
)
async def test_a_hub_is_not_called_silent_too_soon(sweeps: int, after: int) -> None:
    async with alone() as (counters, its):
        waits = Asked.of(counters.take(demand("k"), 0))
        await read(its)
        silence(counters, sweeps, after)
        assert (waits.done, counters.up) == (False, True)


async def test_an_answer_that_waits_to_be_read_is_no_silence() -> None:
    async with alone() as (counters, its):
        waits = Asked.of(counters.take(demand("k"), 0))
        await read(its)
        its.sendall(frame([True, [(5, 1)]]))
        silence(counters)
        assert not waits.done
        assert await waits.left() == 5


async def test_nothing_asked_is_no_silence() -> None:
    async with serving() as server, asking(server) as counters:
        await Asked.of(counters.take(demand("k"), 0)).left()
        silence(counters)
        assert counters.up


@pytest.mark.parametrize("end", ["closed", "nonsense", "too many answers"])
async def test_a_connection_that_ends_fails_what_waits_for_good(end: str) -> None:
    told: list[str] = []
    async with alone(on_lost=lambda: told.append("lost")) as (counters, its):
        waits = Asked.of(counters.take(demand("k"), 0))
        await read(its)
        if end == "closed":
            its.close()
        else:
            its.sendall(NONSENSE[0] if end == "nonsense" else frame([True, [(5, 1)]] * 2))
        await until(lambda: told)
        assert waits.done
        assert not counters.up
        with pytest.raises(CountersError):
            counters.take(demand("k"), 0)
    assert told == ["lost"]


async def test_who_has_not_connected_cannot_ask() -> None:
    with pytest.raises(CountersError):
        HubCounters().take(demand("k"), 0)


async def test_so_many_wait_and_no_more() -> None:
    """The hub reads nothing, so that the connection is full, too; then it reads, and all are answered."""
    ours, its = socket.socketpair()
    counters = HubCounters(waiting=20_000)
    await counters.connect(ours)
    asked = []
    for index in range(20_000):
        asked.append(Asked.of(counters.take(demand("k", 10**6), 0)))
        if index % 1000 == 0:
            await asyncio.sleep(0)
    with pytest.raises(CountersError):
        counters.take(demand("k"), 0)
    assert counters.up
    server = HubServer(MemoryCounters())
    await server.serve(its)
    assert await asked[-1].left() == 10**6 - 20_000
    assert all(one.verdict for one in asked)
    counters.close()


# ── faults of a worker ───────────────────────────────────────────────────────────────────────────


async def test_what_a_worker_leaves_torn_is_not_counted() -> None:
    async with serving() as server, asking(server) as counters:
        ours, its = socket.socketpair()
        ours.setblocking(False)
        await server.serve(its)
        ours.sendall(frame(ASKING) + frame([0, "k", 0, "k"])[:-1])
        assert await read(ours)  # what was whole is answered
        ours.close()
        await until(lambda: len(server) == 1)
        assert await Asked.of(counters.take(demand("k"), 0)).left() == 997


@pytest.mark.parametrize(
    "data",
    [
        *NONSENSE,
        frame([0, "k"]),
        frame([("sliding-window", ((1, 60, "minute"),)), 0]),
        frame([("no such", ((1, 60, "minute"),)), 0, "k"]),
        frame([("sliding-window", ((1, 60, "minute"),)), 0, ["k"]]),
        frame(["k"]),
        frame([("sliding-window", ())] * (DEFINITIONS + 1)),
    ],
)
async def test_a_worker_that_makes_no_sense_is_closed_and_nobody_else(data: bytes) -> None:
    async with serving() as server, asking(server) as counters:
        ours, its = socket.socketpair()
        ours.setblocking(False)
        await server.serve(its)
        ours.sendall(data)
        assert await read(ours) == b""
        ours.close()
        await until(lambda: len(server) == 1)
        assert await Asked.of(counters.take(demand("k"), 0)).left() == 999


async def test_a_worker_that_does_not_read_fills_no_memory_and_holds_up_nobody() -> None:
    async with serving() as server, asking(server) as counters:
        ours, its = socket.socketpair()
        ours.setblocking(False)
        await server.serve(its)
        ours.sendall(frame(ASKING))
        flood = frame([0, "k"] * 1000)
        rest = flood
        quiet = 0
        while quiet < 200:  # until the hub has not read for a while
            try:
                rest = rest[ours.send(rest) :] or flood
                quiet = 0
            except BlockingIOError:
                quiet += 1
                await asyncio.sleep(0.001)
        assert 1 << 20 < server.unread < 32 << 20
        assert await Asked.of(counters.take(demand("other"), 0)).left() == 999
        # Once it reads, it is served again.
        received = 0
        while received < 1 << 20:
            received += len(await read(ours))
        ours.close()
        await until(lambda: len(server) == 1)
