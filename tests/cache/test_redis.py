"""Redis as a cache when it is not well: every fault is a miss, said once, and what was dropped stays dropped."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import pytest

from gateway.cache.redis import PAUSE, RedisResponses
from tests.contract.test_response_cache import REDIS, Bench
from tests.redis_server import RedisServer, free_port, running_redis

needs_redis = pytest.mark.skipif(REDIS is None, reason="there is no redis-server")


class Clock:
    """Runs with the real clock, and can be put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


async def test_nobody_there_is_a_miss_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    cache = RedisResponses(f"redis://:secret-word@127.0.0.1:{free_port()}/0", 1000, 1000, clock)
    bench = Bench(cache)
    for _ in range(3):
        assert await bench.find("r", "k") is None
        await bench.keep("r", "k", b"v")
        cache.drop("r")
        clock.ahead += PAUSE + 0.1
    await cache.close()
    faults = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(faults) == 1
    assert "the cache cannot be used" in faults[0]
    assert "secret-word" not in caplog.text


async def test_while_it_rests_nobody_asks() -> None:
    connections = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    cache = RedisResponses(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", 1000, 1000)
    bench = Bench(cache)
    assert await bench.find("r", "k") is None
    before = len(connections)
    for _ in range(10):
        assert cache.find("r", "k") is None
        assert cache.keep("r", "k", b"v", 60, 0) is None
    assert len(connections) == before
    await cache.close()
    server.close()


async def test_one_that_never_answers_costs_no_more_than_the_timeout() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    cache = RedisResponses(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", 1000, 1000)
    async with asyncio.timeout(30):
        assert await Bench(cache).find("r", "k") is None
    await cache.close()
    server.close()


@needs_redis
async def test_what_was_dropped_while_it_was_away_stays_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert REDIS is not None
    monkeypatch.setattr("gateway.cache.redis.PAUSE", 0.05)
    clock = Clock()
    async with running_redis(REDIS, tmp_path) as server:
        # Another gateway, whose way to Redis is not disturbed.
        other = Bench(RedisResponses(server.url, 1000, 1000))
        cache = RedisResponses(server.url, 1000, 1000, clock)
        bench = Bench(cache)
        await bench.keep("r", "k", b"old")
        assert await other.find("r", "k") == b"old"
        cache._resting_until = clock() + 60  # as after a fault
        cache.drop("r")
        assert await bench.find("r", "k") is None
        assert await other.find("r", "k") == b"old"
        clock.ahead += 61
        # Nobody need ask anything for it.
        async with asyncio.timeout(30):
            while await other.find("r", "k") is not None:
                await asyncio.sleep(0.01)
        await bench.keep("r", "k", b"new")
        assert await other.find("r", "k") == b"new"
        assert await bench.find("r", "k") == b"new"
        await cache.close()
        other_cache = other.cache
        assert isinstance(other_cache, RedisResponses)
        await other_cache.close()


@needs_redis
async def test_it_comes_back(tmp_path: Path) -> None:
    assert REDIS is not None
    clock = Clock()
    server = RedisServer(REDIS, tmp_path)
    cache = RedisResponses(server.url, 1000, 1000, clock)
    bench = Bench(cache)
    assert await bench.find("r", "k") is None
    await server.start()
    clock.ahead += PAUSE + 0.1
    await bench.keep("r", "k", b"v")
    assert await bench.find("r", "k") == b"v"
    await server.stop()
    assert await bench.find("r", "k") is None
    await cache.close()
