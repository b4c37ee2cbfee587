"""One real Redis: who is let in, what is kept there, and what becomes of requests while it cannot count."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from gateway.core.errors import CountersError
from gateway.core.ports import Verdict
from gateway.counters.opening import OwnCounters, open_counters
from gateway.counters.redis.node import Node
from tests.contract.counting import delivered
from tests.counters.redis.servers import PROGRAM, counting, demand, needs_redis, take, take_at_last, until
from tests.integration.chaos import Chaos
from tests.redis_server import RedisServer, free_port, running_redis

pytestmark = needs_redis

LIMIT = demand("k", "3/minute")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with running_redis(PROGRAM, tmp_path) as running:
        yield running


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the counters have logged so far."""
    return [record.getMessage() for record in caplog.records if record.name == "postern.counters"]


# ── who is let in ───────────────────────────────────────────────────────────────────────────────

#: All that a user needs, as the documentation says it.
RIGHTS = (
    "~postern:*",
    "+evalsha",
    "+script|load",
    "+get",
    "+set",
    "+del",
    "+getrange",
    "+setrange",
    "+pexpire",
    "+time",
)


@pytest.mark.parametrize(
    ("credentials", "rights", "reason"),
    [
        ("", (), "wants a password"),
        ("counter:right@", RIGHTS, ""),
        (":default@", (), ""),
        ("counter:wrong@", RIGHTS, "does not take this user and password"),
        ("counter:right@", RIGHTS[2:], "does not let this user count (~postern:* +evalsha"),
        ("counter:right@", RIGHTS[:-1], "does not let this user count"),
        ("counter:right@", ("~other:*", *RIGHTS[1:]), "does not let this user count"),
    ],
)
async def test_who_is_let_in(
    server: RedisServer, credentials: str, rights: tuple[str, ...], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    if rights:
        await server.say("ACL", "SETUSER", "counter", "on", ">right", *rights)
    await server.say("CONFIG", "SET", "requirepass", "default")
    async with counting(f"redis://{credentials}127.0.0.1:{server.port}/") as counters:
        assert counters.up is (not reason)
        if reason:
            with pytest.raises(CountersError) as caught:
                await take(counters, LIMIT)
            assert f"Redis 127.0.0.1:{server.port} {reason}" in str(caught.value)
            assert [line for line in lines(caplog) if reason in line]
        else:
            assert [
                (await take(counters, demand(name, "1/minute", algorithm=name))).admitted for name in ALGORITHMS
            ] == [True] * 3
    for secret in ("right", "wrong", "counter:"):
        assert not [line for line in lines(caplog) if secret in line.replace("sentinel", "")]


ALGORITHMS = ("sliding-window", "fixed-window", "token-bucket")


async def test_a_database_and_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    async with running_redis(PROGRAM, tmp_path, "--unixsocket", str(path)) as server:
        async with counting(f"unix://{path}?db=3") as counters:
            await take(counters, LIMIT)
            assert f"Redis {path}" in counters.node.reason  # type: ignore[attr-defined]  # it is in Redis
        assert "db3:keys=2" in await server.say("INFO", "keyspace")


async def test_a_server_of_a_cluster_is_not_taken_for_a_single_one(tmp_path: Path) -> None:
    async with (
        running_redis(PROGRAM, tmp_path, "--cluster-enabled", "yes") as server,
        counting(server.url) as counters,
    ):
        with pytest.raises(CountersError, match=r"is part of a cluster: write redis\+cluster://"):
            await take(counters, LIMIT)


# ── what is kept ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_keys_expire_with_their_longest_window(server: RedisServer, algorithm: str) -> None:
    async with counting(server.url) as counters:
        for _ in range(3):
            await take(counters, demand("k", "10/second", "300/hour", algorithm=algorithm))
        await take(counters, demand("brief", "10/second", algorithm=algorithm))
        key = f"postern:{algorithm[0]}:k"
        assert 3_500_000 < await server.say("PTTL", key) <= 3_600_001

        async def gone() -> bool:
            held: int = await server.say("EXISTS", f"postern:{algorithm[0]}:brief")
            return held == 0

        await until(gone)
        assert await server.say("EXISTS", key) == 1


async def test_a_log_is_as_long_as_its_limit(server: RedisServer) -> None:
    """Seven bytes a request, in a ring that grows no further than the limit, whatever is refused."""
    async with counting(server.url) as counters:
        limits = demand("k", "100000/second", "500/hour", subject="credential 1")
        verdicts: list[Verdict] = []
        async with asyncio.timeout(60):
            while not verdicts or verdicts[-1].states[1][0] > 0:
                verdicts.append(await take(counters, limits))
        assert sum(verdict.admitted for verdict in verdicts) == 500
        assert await server.say("STRLEN", "postern:s:k {credential 1}") == 160 + 500 * 7
        assert 3_500_000 < await server.say("PTTL", "postern:s:k {credential 1}") < 4_100_000
        assert not (await take(counters, limits)).admitted


async def test_one_identity_seen_once_is_a_number(server: RedisServer) -> None:
    async with counting(server.url) as counters:
        await take(counters, LIMIT)
    assert await server.say("OBJECT", "ENCODING", "postern:s:k") == "int"


async def test_a_shorter_rule_elsewhere_forgets_nothing(server: RedisServer) -> None:
    """Two gateways of a roll-out: one counts by the hour, too, and sees what the other admitted."""
    async with counting(server.url) as counters:
        hourly, briefly = demand("k", "100/second", "5/hour"), demand("k", "100/second")
        await take(counters, hourly)
        for _ in range(3):
            assert (await take(counters, briefly)).admitted
        assert (await take(counters, hourly)).states[1][0] == 0
        assert not (await take(counters, hourly)).admitted
        assert await server.say("PTTL", "postern:s:k") > 3_500_000


# ── what refuses one request ────────────────────────────────────────────────────────────────────


async def test_scripts_that_are_flushed_are_loaded_again(server: RedisServer) -> None:
    async with counting(server.url) as counters:
        await server.say("SCRIPT", "FLUSH")
        verdicts = await asyncio.gather(*(take(counters, LIMIT) for _ in range(5)))
        assert sum(verdict.admitted for verdict in verdicts) == 3
        assert counters.up


async def test_a_key_that_is_something_else_is_one_requests_fault(server: RedisServer) -> None:
    await server.say("LPUSH", "postern:s:k", "mine")
    async with counting(server.url) as counters:
        other = demand("other", "5/minute")
        with pytest.raises(CountersError, match="WRONGTYPE"):
            await take(counters, other, LIMIT)
        assert counters.up
        # Nothing was counted of what it also demanded.
        assert (await take(counters, other)).states[0][0] == 4


# ── faults ──────────────────────────────────────────────────────────────────────────────────────

Fault = Callable[[RedisServer, Chaos], Awaitable[object]]

FAULTS: dict[str, tuple[str, Fault, Fault]] = {
    "refused": (
        "cannot be reached|broke the connection|closed the connection",
        lambda server, chaos: chaos.refuse(),
        lambda server, chaos: chaos.heal(),
    ),
    "black-holed": (
        "gave no answer within 40 ms|cannot be reached in time",
        lambda server, chaos: chaos.swallow(),
        lambda server, chaos: chaos.heal(),
    ),
    "reset": (
        "broke the connection|closed the connection|cannot be reached",
        lambda server, chaos: chaos.reset(),
        lambda server, chaos: chaos.heal(),
    ),
    "slow": (
        "gave no answer within 40 ms|cannot be reached in time",
        lambda server, chaos: chaos.delay(0.2),
        lambda server, chaos: chaos.heal(),
    ),
    "out of memory": (
        r"is out of memory \(maxmemory\)",
        lambda server, chaos: server.say("CONFIG", "SET", "maxmemory", 1),
        lambda server, chaos: server.say("CONFIG", "SET", "maxmemory", 0),
    ),
    "a replica": (
        "is a replica that takes no writes",
        lambda server, chaos: server.say("REPLICAOF", "127.0.0.1", free_port()),
        lambda server, chaos: server.say("REPLICAOF", "NO", "ONE"),
    ),
    "not saving": (
        "takes no writes, since too few replicas follow it",
        lambda server, chaos: server.say("CONFIG", "SET", "min-replicas-to-write", 1),
        lambda server, chaos: server.say("CONFIG", "SET", "min-replicas-to-write", 0),
    ),
    "stopped": (
        "gave no answer within 40 ms|cannot be reached in time",
        lambda server, chaos: _signal(server, signal.SIGSTOP),
        lambda server, chaos: _signal(server, signal.SIGCONT),
    ),
}  # fmt: skip


async def _signal(server: RedisServer, number: int) -> None:
    os.kill(server.pid, number)


@pytest.mark.parametrize("name", FAULTS)
async def test_faults(server: RedisServer, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever asks fails, most at once; it is told once; and all is well again when the server is."""
    caplog.set_level(logging.WARNING)
    reason, breaks, mends = FAULTS[name]
    async with Chaos(server.port) as chaos, counting(f"redis://127.0.0.1:{chaos.port}", patient=False) as counters:
        plenty = demand("k", "1000000/minute")
        await take_at_last(counters, plenty)
        caplog.clear()
        await breaks(server, chaos)
        try:
            said = ""
            async with asyncio.timeout(30):
                while re.search(reason, said) is None:
                    try:
                        await take(counters, plenty)
                    except CountersError as error:
                        said = str(error)
                    await asyncio.sleep(0)
            # From now on nobody waits: the question is not even taken.
            refused = 0
            for _ in range(100):
                if not counters.up:
                    with pytest.raises(CountersError):
                        counters.take((plenty,), 0)
                    refused += 1
                await asyncio.sleep(0)
            assert refused
        finally:
            await mends(server, chaos)
        before = (await take_at_last(counters, plenty)).states[0][0]
        assert (await take_at_last(counters, plenty)).states[0][0] < before
    downs = [line for line in lines(caplog) if "cannot be asked" in line]
    ups = [line for line in lines(caplog) if "again" in line]
    assert downs
    assert ups


async def test_answers_of_a_black_hole_come_late_and_are_nobodys(server: RedisServer) -> None:
    """What was held up is answered on the same connection after all, and counts for those who had asked."""
    async with Chaos(server.port) as chaos, counting(f"redis://127.0.0.1:{chaos.port}", patient=False) as counters:
        await take_at_last(counters, demand("warm", "5/minute"))
        await chaos.swallow()
        asked = [take(counters, demand(f"k {copy}", "5/minute")) for copy in range(200)]
        faults = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(fault) for fault in faults} == {CountersError}
        await chaos.heal()
        verdicts = [
            await take_at_last(counters, demand(f"after {number}", f"{number + 10}/minute")) for number in range(20)
        ]
        assert [verdict.states[0][0] for verdict in verdicts] == [number + 9 for number in range(20)]


async def test_a_server_that_is_not_there_yet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = RedisServer(PROGRAM, tmp_path)
    counters: OwnCounters = await open_counters(server.url)
    try:
        assert not counters.up
        with pytest.raises(CountersError, match="cannot be reached: Connection refused"):
            await take(counters, LIMIT)
        assert len(lines(caplog)) == 1
        await server.start()
        assert (await take_at_last(counters, LIMIT)).admitted
        assert counters.up
    finally:
        await counters.close()
        await server.stop()


async def test_closing_fails_what_waits(server: RedisServer) -> None:
    counters = await open_counters(server.url + "?socket_timeout=30")
    await take_at_last(counters, LIMIT)
    await _signal(server, signal.SIGSTOP)
    pending = counters.take((LIMIT,), 0)
    closing = asyncio.create_task(counters.close())
    with pytest.raises(CountersError, match="closed"):
        await delivered(pending)
    await closing
    await _signal(server, signal.SIGCONT)
    with pytest.raises(CountersError, match="closed"):
        counters.take((LIMIT,), 0)
    node: Node = counters.node  # type: ignore[attr-defined]  # it is in Redis
    assert not node.up
