"""What every cache of responses must keep (the port is `gateway.core.ports.ResponseCache`), one suite for all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from gateway.cache.memory import MemoryResponses
from gateway.cache.redis import RedisResponses
from gateway.core.decision import Pending
from gateway.core.ports import ResponseCache
from tests.redis_server import executable, running_redis

REDIS = executable()


T = TypeVar("T")


async def delivered(pending: Pending[T]) -> T:
    """What somebody delivers, waited for."""
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    pending.then(future.set_result, future.set_exception)
    return await asyncio.wait_for(future, 30)


@dataclass
class Bench:
    cache: ResponseCache

    async def keep(self, resource: str, key: str, value: bytes, seconds: float = 60, moment: int | None = None) -> None:
        moment = self.cache.moment(resource) if moment is None else moment
        written = self.cache.keep(resource, key, value, seconds, moment)
        if written is not None:
            await delivered(written)

    async def find(self, resource: str, key: str) -> bytes | None:
        found = self.cache.find(resource, key)
        return await delivered(found) if isinstance(found, Pending) else found


@pytest.fixture(
    params=[
        "memory",
        pytest.param("redis", marks=pytest.mark.skipif(REDIS is None, reason="there is no redis-server")),
    ]
)
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    if request.param == "memory":
        yield Bench(MemoryResponses(1 << 20, 1 << 16))
        return
    assert REDIS is not None
    async with running_redis(REDIS, tmp_path) as server:
        cache = RedisResponses(server.url, 1 << 16, 1 << 18)
        yield Bench(cache)
        await cache.close()


@pytest.mark.parametrize("value", [b"x", b"", b"\x00\r\n\xff" * 1000, b"y" * (1 << 16)])
async def test_what_is_kept_is_found(bench: Bench, value: bytes) -> None:
    assert await bench.find("r", "k") is None
    await bench.keep("r", "k", value)
    assert await bench.find("r", "k") == value
    assert await bench.find("r", "other") is None
    await bench.keep("r", "k", b"newer")
    assert await bench.find("r", "k") == b"newer"


async def test_all_of_a_resource_is_dropped_and_nothing_else(bench: Bench) -> None:
    for resource, key in (("r", "a"), ("r", "b"), ("s", "c")):
        await bench.keep(resource, key, key.encode())
    bench.cache.drop("r")
    assert [await bench.find("r", "a"), await bench.find("r", "b")] == [None, None]
    assert await bench.find("s", "c") == b"c"
    await asyncio.sleep(0.05)  # a drop that is on its way is no obstacle to what comes after it
    await bench.keep("r", "a", b"again")
    assert await bench.find("r", "a") == b"again"
    assert await bench.find("r", "b") is None


async def test_what_was_dropped_meanwhile_is_not_kept(bench: Bench) -> None:
    moment = bench.cache.moment("r")
    bench.cache.drop("r")
    assert bench.cache.moment("r") != moment
    await asyncio.sleep(0.05)
    await bench.keep("r", "k", b"old", moment=moment)
    assert await bench.find("r", "k") is None


async def test_time_ends(bench: Bench) -> None:
    await bench.keep("r", "short", b"1", seconds=0.05)
    await bench.keep("r", "long", b"2", seconds=60)
    await asyncio.sleep(0.1)
    assert await bench.find("r", "short") is None
    assert await bench.find("r", "long") == b"2"


async def test_room_for_what_is_coming_is_bounded(bench: Bench) -> None:
    room = 1 << 18
    assert bench.cache.collect(room)
    assert not bench.cache.collect(1)
    assert bench.cache.collect(-room)
    assert bench.cache.collect(1)


async def test_many_ask_at_once(bench: Bench) -> None:
    await bench.keep("r", "k", b"v")
    assert await asyncio.gather(*(bench.find("r", "k") for _ in range(200))) == [b"v"] * 200
    answers = await asyncio.gather(*(bench.find("r", f"k{at}") for at in range(200)))
    assert answers == [None] * 200
