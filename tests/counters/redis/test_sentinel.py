"""The master that sentinels name: found, followed when it changes, and asked for with credentials of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway.core.errors import CountersError
from tests.counters.redis.servers import (
    PROGRAM,
    counting,
    demand,
    needs_redis,
    running_sentinel,
    take,
    take_at_last,
    until,
)
from tests.redis_server import RedisServer, free_port, running_redis

pytestmark = needs_redis

LIMIT = demand("k", "1000/minute")
QUICK = "socket_connect_timeout=5"


class Watched:
    """A master, its replica, and a sentinel."""

    def __init__(self, master: RedisServer, replica: RedisServer, sentinel: int) -> None:
        self.master = master
        self.replica = replica
        self.sentinel = sentinel

    @property
    def url(self) -> str:
        # The first sentinel of the list is not there.
        return f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{self.sentinel}/counts"


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    async with AsyncExitStack() as stack:
        for name in ("master", "replica", "sentinel"):
            (tmp_path / name).mkdir()
        master = await stack.enter_async_context(running_redis(PROGRAM, tmp_path / "master"))
        settings = ("--replicaof", "127.0.0.1", str(master.port), "--repl-diskless-sync-delay", "0")
        replica = await stack.enter_async_context(running_redis(PROGRAM, tmp_path / "replica", *settings))
        sentinel = await stack.enter_async_context(
            running_sentinel(
                tmp_path / "sentinel", master, "user default off", "user guard on >watch allchannels +@all ~*"
            )
        )
        yield Watched(master, replica, sentinel)


async def test_found_and_followed(watched: Watched) -> None:
    with_rights = f"{watched.url}?sentinel_username=guard&sentinel_password=watch&{QUICK}"
    async with counting(with_rights, patient=False) as counters:
        left = (await take_at_last(counters, LIMIT)).states[0][0]
        assert await watched.master.say("EXISTS", "postern:s:k") == 1

        async def replicated() -> bool:
            found: int = await watched.replica.say("EXISTS", "postern:s:k")
            return found == 1

        await until(replicated)
        await watched.master.stop()

        async def promoted() -> bool:
            role = await watched.replica.say("ROLE")
            return bool(role[0] == "master")

        await until(promoted)
        # The counts went along.
        assert (await take_at_last(counters, LIMIT)).states[0][0] < left


async def test_a_master_that_others_think_is_gone(watched: Watched) -> None:
    """It still answers, and nobody tells it that it was replaced: the sentinels do."""
    with_rights = f"{watched.url}?sentinel_username=guard&sentinel_password=watch&{QUICK}"
    other = RedisServer(PROGRAM, Path(watched.replica._folder))
    await other.start()
    try:
        async with counting(with_rights, patient=False) as counters:
            await take_at_last(counters, LIMIT)
            guard = ("AUTH", "guard", "watch")
            await _as_guard(watched.sentinel, guard, ("SENTINEL", "REMOVE", "counts"))
            await _as_guard(watched.sentinel, guard, ("SENTINEL", "MONITOR", "counts", "127.0.0.1", other.port, 1))

            async def moved() -> bool:
                await take_at_last(counters, LIMIT)
                found: int = await other.say("EXISTS", "postern:s:k")
                return found == 1

            await until(moved)
    finally:
        await other.stop()


async def _as_guard(port: int, *commands: tuple[str | int, ...]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for command in commands:
        parts = [str(part).encode() for part in command]
        writer.write(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts))
        assert (await reader.readline()) == b"+OK\r\n"
    writer.close()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (
            "counts?sentinel_username=guard&sentinel_password=wrong",
            "a sentinel wants a user and a password, or others than it was given",
        ),
        ("counts", "a sentinel wants a user and a password, or others than it was given"),
        (
            "other?sentinel_username=guard&sentinel_password=watch",
            "no sentinel that answers knows a master called other",
        ),
    ],
)
async def test_what_sentinels_do_not_tell(watched: Watched, path: str, reason: str) -> None:
    url = f"redis+sentinel://127.0.0.1:{watched.sentinel}/{path}"
    async with counting(url) as counters:
        assert not counters.up
        with pytest.raises(CountersError, match=reason):
            await take(counters, LIMIT)


async def test_no_sentinel_is_there(tmp_path: Path) -> None:
    async with counting(f"redis+sentinel://127.0.0.1:{free_port()}/counts") as counters:
        with pytest.raises(CountersError, match="no sentinel that answers knows a master called counts"):
            await take(counters, LIMIT)
