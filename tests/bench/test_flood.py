"""The flood: every due request is accounted for, phases are told apart, recovery is found where it is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from bench.flood import Flood, Phase, Tally, requests_of
from bench.flood_report import digest, recovery
from upstream_stub.misbehaviours import head
from upstream_stub.raw import RawRequest, RawServer, Scripted
from upstream_stub.steps import End, Script, Send, Wait

REQUESTS = requests_of(80, "/a", ["one", "two"], ["Accept: */*"])
OK = Script([Send(head(200, "Content-Length: 2") + b"ok")], End.KEEP)
SHED = b'{"error": "Service overloaded"}'
SECOND = 10**9


async def flooded(scripted: Scripted, phases: Sequence[Phase], connections: int = 8, *, fresh: bool = False) -> Tally:
    async with RawServer(scripted) as server:
        flood = Flood(server.port, REQUESTS, connections, fresh=fresh, patience=5)
        return await asyncio.to_thread(flood.run, phases)


@pytest.mark.parametrize("fresh", [False, True])
async def test_every_due_request_is_sent_and_answered(fresh: bool) -> None:
    tally = await flooded(lambda _: OK, [Phase(200, 0.2), Phase(100, 0.2)], connections=64, fresh=fresh)
    assert len(tally.due) + len(tally.held) == 60
    assert list(tally.status) == [200] * len(tally.due)
    assert not tally.broken
    assert tally.unanswered == 0


async def test_what_finds_no_connection_is_held_back_and_not_queued() -> None:
    slow = Script([Wait(0.2), *OK.steps], End.KEEP)
    tally = await flooded(lambda _: slow, [Phase(100, 0.3)], connections=2)
    assert len(tally.due) <= 4
    assert len(tally.due) + len(tally.held) == 30


@pytest.mark.parametrize(
    ("answer", "malformed"),
    [
        (head(503, "Retry-After: 1", f"Content-Length: {len(SHED)}") + SHED, False),
        (head(503, f"Content-Length: {len(SHED)}") + SHED, True),
        (head(503, "Retry-After: 1", "Content-Length: 2") + b"no", True),
    ],
)
async def test_a_refusal_is_judged(answer: bytes, malformed: bool) -> None:
    tally = await flooded(lambda _: Script([Send(answer)], End.KEEP), [Phase(100, 0.1)])
    assert set(tally.status) == {503}
    assert (tally.malformed > 0, len(tally.samples) > 0) == (malformed, malformed)


@pytest.mark.parametrize("fresh", [False, True])
async def test_a_connection_that_breaks_is_counted_and_replaced(fresh: bool) -> None:
    def second_breaks(request: RawRequest) -> Script:
        return OK if request.connection % 2 else Script([], End.CLOSE)

    tally = await flooded(second_breaks, [Phase(100, 0.3)], connections=4, fresh=fresh)
    assert tally.broken["closed without an answer"] > 0
    assert len(tally.due) + len(tally.held) + tally.broken.total() == 30
    assert fresh or tally.reconnected > 0


def a_tally(bad_for: float, *, held: bool = False) -> tuple[Tally, list[Phase]]:
    """A second at 1 ms, a second at 100 ms and 503, then `bad_for` seconds at 100 ms in five of 1 ms."""
    tally = Tally(begins=[0, SECOND, 2 * SECOND, 7 * SECOND])
    for at in range(0, 7 * SECOND, SECOND // 100):
        after = (at - 2 * SECOND) / SECOND
        bad = SECOND <= at < 2 * SECOND or 0 <= after < bad_for
        if bad and held:
            tally.held.append(at)
            continue
        tally.due.append(at)
        tally.latency.append(SECOND // 10 if bad else SECOND // 1000)
        tally.accepted.append(tally.latency[-1])
        tally.status.append(503 if SECOND <= at < 2 * SECOND else 200)
    return tally, [Phase(100, 1), Phase(100, 1), Phase(100, 5)]


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize(("bad_for", "expected"), [(0, 0.0), (0.3, 0.5), (3.9, 4.0), (4.5, None)])
def test_recovery_is_when_a_whole_second_is_normal(bad_for: float, expected: float | None, held: bool) -> None:
    assert recovery(*a_tally(bad_for, held=held)) == expected


def test_recovery_needs_three_phases() -> None:
    tally, phases = a_tally(0)
    assert recovery(tally, phases[:2]) is None


def test_the_digest_tells_the_phases_apart() -> None:
    before, over, _ = digest(*a_tally(0))["phases"]
    assert (before["served_a_second"], before["refused_a_second"], before["served_p99_ms"]) == (100, 0, 1)
    assert (over["served_p50_ms"], over["refused_a_second"], over["refused_p99_ms"]) == (0, 100, 100)
