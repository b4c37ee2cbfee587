"""Slow clients are slow, notice when they are dropped, and say what they were told; the verdict follows from that."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bench.abuse import Good, checks
from bench.slow_clients import Crowd, Targets
from upstream_stub.misbehaviours import head
from upstream_stub.raw import RawServer
from upstream_stub.steps import End, Script, Send, Wait

TARGETS = Targets("/upload", "/large", "a.b")
LARGE = Send(head(200, "Content-Length: 20000000") + bytes(1 << 20))


@pytest.mark.parametrize(
    ("kind", "script", "told"),
    [
        ("body", Script([Send(head(408, "Content-Length: 0"))]), "HTTP/1.1 408"),
        ("body", Script([Wait(0.2)]), ""),
        ("read", Script([LARGE, Wait(0.2)], End.RESET), "H"),
    ],
)
async def test_a_client_that_is_dropped_is_counted(kind: str, script: Script, told: str) -> None:
    async with RawServer(lambda _: script) as server:
        crowd = Crowd(server.port, kind, 4, TARGETS)
        await asyncio.to_thread(crowd.gather, 0.1)
        await asyncio.to_thread(crowd.run, 8.0)
    found = crowd.told()
    assert (found["connected"], found["failed"], found["dropped"]) == (4, 0, 4)
    assert found["told"] == {told: 4}


@pytest.mark.parametrize("kind", ["headers", "silent"])
async def test_a_client_that_is_borne_is_not_dropped(kind: str) -> None:
    async with RawServer() as server:
        crowd = Crowd(server.port, kind, 3, TARGETS)
        await asyncio.to_thread(crowd.gather, 0)
        await asyncio.to_thread(crowd.run, 0.3)
        assert not server.requests
    assert crowd.told()["dropped"] == 0


def a_phase(**changes: Any) -> dict[str, Any]:
    crowd = {"kind": "body", "connected": 5, "failed": 0, "dropped": 5, "first_s": 10.0, "last_s": 10.4}
    alone = Good(1000, 30, 2, 0)
    return {"before": alone, "during": Good(960, 31, 3, 0), "after": alone, "crowds": [{**crowd, **changes}]}


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        (a_phase(), []),
        (a_phase(dropped=4), ["body: not connected, or not dropped"]),
        (a_phase(failed=1), ["body: not connected, or not dropped"]),
        (a_phase(last_s=11.5), ["body: the last was dropped after"]),
        (a_phase(first_s=2.0), ["body: the first was dropped after"]),
        ({**a_phase(), "during": Good(900, 31, 3, 0)}, ["body: good traffic keeps of its rate"]),
        ({**a_phase(), "during": Good(960, 33, 3, 0)}, ["body: the same by CPU time"]),
        ({**a_phase(), "during": Good(960, 31, 3, 1)}, ["body: good requests that failed"]),
    ],
)
def test_what_is_promised_of_a_phase(found: dict[str, Any], missed: list[str]) -> None:
    assert [check.text for check in checks("body", found, 10) if not check.met] == missed
