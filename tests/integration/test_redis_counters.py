"""A gateway that counts in Redis: one limit over workers and gateways, and what clients see without Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.counters.opening import open_counters
from tests.counters.redis.servers import PROGRAM, Cluster, needs_redis, running_cluster, until
from tests.integration.chaos import Chaos
from tests.integration.gateways import Gateway, Response, get, routed, running_gateway
from tests.integration.programs import Program, running_program
from tests.redis_server import RedisServer, running_redis
from upstream_stub.raw import RawServer, by_query

pytestmark = needs_redis

LIMITED = "{auth: none, rate-limiting: {limits: [%s], by: %s, on_fault: %s}}"
SHOWN = ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset", "ratelimit-policy", "ratelimit")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    (tmp_path / "redis").mkdir()
    async with running_redis(PROGRAM, tmp_path / "redis") as running:
        yield running


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    (tmp_path / "redis").mkdir()
    async with running_cluster(tmp_path / "redis") as running:
        yield running


def shown(response: Response) -> list[str]:
    """The fields about limits that an answer has."""
    return [name for name in SHOWN if name in response.headers]


async def statuses(gateway: Gateway | Program, connections: int, each: int) -> list[int]:
    """Of so many requests on so many connections at once."""

    async def one() -> list[int]:
        async with await gateway.connect() as client:
            return [(await client.request(get())).status for _ in range(each)]

    return [status for some in await asyncio.gather(*(one() for _ in range(connections))) for status in some]


@pytest.mark.parametrize(("on_fault", "status"), [("allow", 200), ("deny", 503)])
@pytest.mark.parametrize("fault", ["refuse", "swallow", "reset", "delay"])
async def test_what_clients_see_while_redis_cannot_be_asked(
    server: RedisServer, on_fault: str, status: int, fault: str
) -> None:
    """With `allow` nothing is claimed that is not known; with `deny` the answer is 503; and then all is as before."""
    async with Chaos(server.port) as chaos, RawServer(by_query) as upstream:
        counters = await open_counters(f"redis://127.0.0.1:{chaos.port}")
        text = routed(upstream.url, policies=LIMITED % ("100000/minute", "ip", on_fault))
        async with running_gateway(text, counters=counters) as gateway, await gateway.connect() as client:

            async def counted() -> bool:
                return shown(await client.request(get())) == list(SHOWN)

            await until(counted)
            await getattr(chaos, fault)()

            async def not_counted() -> bool:
                response = await client.request(get())
                assert response.status in {200, status}
                return not counters.up and not shown(response)

            await until(not_counted)
            answers = [await client.request(get()) for _ in range(50)]
            if not counters.up:
                assert {answer.status for answer in answers} == {status}
                assert not any(map(shown, answers))
                if status == 503:
                    assert answers[0].headers["retry-after"] == "1"
                    assert b"Service overloaded" in answers[0].body
            await chaos.heal()
            await until(counted)
        await counters.close()


async def test_one_limit_over_all_workers_of_all_gateways(tmp_path: Path, server: RedisServer) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    async with RawServer(by_query) as upstream:
        text = (
            routed(upstream.url, policies=LIMITED % ("150/hour", "route", "deny"))
            + f'\ncounters: "{server.url}?socket_timeout=30&socket_connect_timeout=30"\nworkers: 2\n'
        )
        async with (
            running_program(tmp_path / "one", text) as one,
            running_program(tmp_path / "two", text) as two,
        ):
            for program in (one, two):
                assert await program.metric("postern_counters_up") == 1
            answers = await asyncio.gather(statuses(one, 8, 20), statuses(two, 8, 20))
            everything = answers[0] + answers[1]
            assert (everything.count(200), everything.count(429)) == (150, 170)


async def test_a_gateway_starts_without_redis_and_says_so(tmp_path: Path) -> None:
    home = tmp_path / "redis"
    home.mkdir()
    server = RedisServer(PROGRAM, home)
    async with RawServer(by_query) as upstream:
        text = (
            routed(upstream.url, policies=LIMITED % ("5/hour", "ip", "allow"))
            + f'\ncounters: "redis://:hunter2@127.0.0.1:{server.port}"\n'
        )
        async with running_program(tmp_path, text) as program:
            try:
                assert await program.metric("postern_counters_up") == 0
                assert set(await statuses(program, 1, 10)) == {200}
                told = [event for event in program.events if "cannot be asked" in str(event["event"])]
                assert told
                assert f"127.0.0.1:{server.port} cannot be reached: Connection refused" in str(told[0]["event"])
                await server.start()
                await server.say("CONFIG", "SET", "requirepass", "hunter2")

                async def up() -> bool:
                    return await program.metric("postern_counters_up") == 1

                await until(up)

                async def refused() -> bool:
                    return 429 in await statuses(program, 1, 6)

                await until(refused)
                assert "hunter2" not in str(program.events)
            finally:
                await server.stop()


async def test_rules_of_several_identities_in_a_cluster(cluster: Cluster) -> None:
    """By route and by header: two slots.  A request that one refuses is counted by neither."""
    async with RawServer(by_query) as upstream:
        counters = await open_counters(f"{cluster.url}?socket_timeout=30&socket_connect_timeout=30")
        rules = "[{name: all, limits: [20/hour], by: route}, {name: each, limits: [3/hour], by: header.X-Device}]"
        text = routed(upstream.url, policies=f"{{auth: none, rate-limiting: {rules}}}")
        async with running_gateway(text, counters=counters) as gateway, await gateway.connect() as client:
            admitted = 0
            for number in range(10):
                for turn in range(4):
                    response = await client.request(get("/", f"X-Device: {number}"))
                    assert response.status == (200 if turn < 3 and admitted < 20 else 429)
                    admitted += response.status == 200
            assert admitted == 20
        await counters.close()
