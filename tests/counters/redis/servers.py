"""Redis servers in arrangements: for the tests of the counters that live in them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from gateway.core.errors import CountersError
from gateway.core.ports import Demand, Verdict
from gateway.core.units import parse_rate
from gateway.counters.opening import OwnCounters, open_counters
from tests.contract.counting import PATIENTLY, delivered
from tests.redis_server import PATIENCE, RedisServer, executable, running_redis

PROGRAM = executable() or ""
#: Beside every test that needs a server.
needs_redis = pytest.mark.skipif(not PROGRAM, reason="there is no redis-server")

SLOTS = 16_384


def demand(key: str, *rates: str, subject: str = "", algorithm: str = "sliding-window") -> Demand:
    """A demand of so many windows."""
    return Demand(f"{key} {subject}" if subject else key, tuple(map(parse_rate, rates)), algorithm, subject)


async def take(counters: OwnCounters, *demands: Demand) -> Verdict:
    """Ask, and wait for the answer."""
    return await delivered(counters.take(demands, 0))


async def take_at_last(counters: OwnCounters, *demands: Demand) -> Verdict:
    """Ask until there is an answer that is no fault."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await take(counters, *demands)
            except CountersError:
                await asyncio.sleep(0.02)


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(PATIENCE):
        while True:
            held = condition()
            if held if isinstance(held, bool) else await held:
                return
            await asyncio.sleep(0.02)


@asynccontextmanager
async def counting(url: str, patient: bool = True) -> AsyncIterator[OwnCounters]:
    """Counters at `url`; `patient` is for tests in which nothing breaks."""
    if patient:
        url = f"{url}{'&' if '?' in url else '?'}{PATIENTLY}".replace("?&", "?")
    counters = await open_counters(url)
    try:
        yield counters
    finally:
        await counters.close()


class Cluster:
    """Masters that share the slots evenly."""

    def __init__(self, servers: Sequence[RedisServer]) -> None:
        self.servers = servers

    @property
    def url(self) -> str:
        """Where the first of them is."""
        return f"redis+cluster://127.0.0.1:{self.servers[0].port}"

    def owner(self, slot: int) -> RedisServer:
        """Who was given a slot at the start."""
        return self.servers[slot * len(self.servers) // SLOTS]

    async def known_to_all(self, slot: int, node: str) -> None:
        """Tell all of them whose a slot is."""
        for server in self.servers:
            await server.say("CLUSTER", "SETSLOT", slot, "NODE", node)


@asynccontextmanager
async def running_cluster(folder: Path, size: int = 3) -> AsyncIterator[Cluster]:
    """A cluster on loopback, ready to be asked."""
    async with AsyncExitStack() as stack:
        servers = []
        for number in range(size):
            home = folder / f"node-{number}"
            home.mkdir()
            server = await stack.enter_async_context(
                running_redis(PROGRAM, home, "--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
            )
            servers.append(server)
        cluster = Cluster(servers)
        for number, server in enumerate(servers):
            slots = [slot for slot in range(SLOTS) if cluster.owner(slot) is server]
            await server.say("CLUSTER", "ADDSLOTS", *slots)
            await server.say("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for server in servers[1:]:
            await server.say("CLUSTER", "MEET", "127.0.0.1", servers[0].port)

        async def whole() -> bool:
            infos = [await server.say("CLUSTER", "INFO") for server in servers]
            return all(f"cluster_known_nodes:{size}" in info and "cluster_state:ok" in info for info in infos)

        await until(whole)
        yield cluster


@asynccontextmanager
async def running_sentinel(folder: Path, master: RedisServer, *lines: str) -> AsyncIterator[int]:
    """A sentinel that watches `master` as `counts`; its port."""
    file = folder / "sentinel.conf"
    file.write_text(
        "".join(
            f"{line}\n"
            for line in (
                f"sentinel monitor counts 127.0.0.1 {master.port} 1",
                "sentinel down-after-milliseconds counts 1000",
                "sentinel failover-timeout counts 3000",
                *lines,
            )
        )
    )
    server = RedisServer(PROGRAM, folder, first=(str(file), "--sentinel"))
    await server.start()
    try:
        yield server.port
    finally:
        await server.stop()
