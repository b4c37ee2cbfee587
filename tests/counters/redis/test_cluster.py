"""Three nodes: one script where one identity's demands lie, and all or nothing where they lie apart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.errors import CountersError
from gateway.core.ports import Demand
from gateway.counters.redis.questions import key_of, slot_of
from tests.counters.redis.servers import (
    PROGRAM,
    Cluster,
    counting,
    demand,
    needs_redis,
    running_cluster,
    take,
    take_at_last,
    until,
)
from tests.redis_server import RedisServer, running_redis

pytestmark = needs_redis

ALGORITHMS = ("sliding-window", "fixed-window", "token-bucket")


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running_cluster(tmp_path) as running:
        yield running


def apart(cluster: Cluster, *demands: Demand) -> list[RedisServer]:
    """Where each of these lies."""
    return [cluster.owner(slot_of(key_of(one))) for one in demands]


def on_other_nodes(cluster: Cluster, algorithm: str) -> tuple[Demand, Demand, Demand]:
    """Three demands, each on a node of its own: 9, 2 and 5 a minute."""
    found: dict[int, Demand] = {}
    for number in range(1000):
        index = len(found)
        one = demand("k", f"{(9, 2, 5)[index % 3]}/minute", subject=f"credential {number}", algorithm=algorithm)
        port = apart(cluster, one)[0].port
        if port not in found:
            found[port] = one
        if len(found) == 3:
            break
    first, second, third = found.values()
    return first, second, third


async def test_slots_are_computed_as_the_cluster_does(cluster: Cluster) -> None:
    for key in ("a{b", "{}x", "x{y}z}", "postern:s:k {credential 7}", "über{ü}"):
        assert await cluster.servers[0].say("CLUSTER", "KEYSLOT", key) == slot_of(key.encode())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_refused_request_has_counted_nowhere(cluster: Cluster, algorithm: str) -> None:
    wide, narrow, middle = on_other_nodes(cluster, algorithm)
    async with counting(cluster.url) as counters:
        assert counters.up
        verdicts = [await take(counters, wide, narrow, middle) for _ in range(5)]
        assert [verdict.admitted for verdict in verdicts] == [True, True, False, False, False]
        for verdict in verdicts[2:]:
            assert [left for left, _ in verdict.states] == [7, 0, 3]
        assert [(await take(counters, one)).states[0][0] for one in (wide, middle)] == [6, 2]


async def test_what_counts_by_one_identity_is_one_question(cluster: Cluster) -> None:
    async with counting(cluster.url) as counters:
        one = demand("a", "5/minute", subject="credential 1")
        two = demand("b", "3/minute", subject="credential 1", algorithm="token-bucket")
        states = (await take(counters, one, two)).states
        assert [left for left, _ in states] == [4, 2]
        assert await apart(cluster, one)[0].say("EXISTS", key_of(one).decode(), key_of(two).decode()) == 2


async def test_many_at_once_are_never_too_many(cluster: Cluster) -> None:
    """Those that are refused take back what they held: others may be refused meanwhile, none is admitted too much."""
    wide, narrow, _ = on_other_nodes(cluster, "sliding-window")
    async with counting(cluster.url) as one, counting(cluster.url) as two:
        asked = [take(counters, wide, narrow) for counters in (one, two) for _ in range(200)]
        admitted = sum(verdict.admitted for verdict in await asyncio.gather(*asked))
        assert admitted <= 2
        # Nothing is held any more.
        while admitted < 2:
            admitted += (await take(one, wide, narrow)).admitted
        refused = await take(two, wide, narrow)
        assert [left for left, _ in refused.states] == [7, 0]


async def test_slots_that_move_are_followed(cluster: Cluster) -> None:
    one = demand("k", "9/minute", subject="credential 1")
    slot, key = slot_of(key_of(one)), key_of(one).decode()
    source = cluster.owner(slot)
    target = next(server for server in cluster.servers if server is not source)
    source_id, target_id = await source.say("CLUSTER", "MYID"), await target.say("CLUSTER", "MYID")
    async with counting(cluster.url) as counters:
        assert (await take(counters, one)).states[0][0] == 8
        await target.say("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        await source.say("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        await source.say("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
        # ASK: the key has moved, the slot has not.
        assert (await take(counters, one)).states[0][0] == 7
        await cluster.known_to_all(slot, target_id)
        # MOVED.
        assert (await take(counters, one)).states[0][0] == 6
        assert (await take(counters, one)).states[0][0] == 5
        assert counters.up
        assert await target.say("EXISTS", key) == 1


async def test_keys_in_the_middle_of_a_move_are_asked_again(cluster: Cluster) -> None:
    one, two = (demand(name, "9/minute", subject="credential 1") for name in ("a", "b"))
    slot, keys = slot_of(key_of(one)), [key_of(one).decode(), key_of(two).decode()]
    source = cluster.owner(slot)
    target = next(server for server in cluster.servers if server is not source)
    source_id, target_id = await source.say("CLUSTER", "MYID"), await target.say("CLUSTER", "MYID")
    async with counting(cluster.url) as counters:
        await take(counters, one, two)
        await target.say("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        await source.say("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        await source.say("MIGRATE", "127.0.0.1", target.port, keys[0], 0, 5000)
        with pytest.raises(CountersError, match="is moving what was asked for"):
            await take(counters, one, two)
        assert counters.up
        await source.say("MIGRATE", "127.0.0.1", target.port, keys[1], 0, 5000)
        await cluster.known_to_all(slot, target_id)
        assert [left for left, _ in (await take_at_last(counters, one, two)).states] == [7, 7]


async def test_a_node_that_is_lost_is_nobodys_but_its_own(cluster: Cluster) -> None:
    wide, narrow, middle = on_other_nodes(cluster, "sliding-window")
    lost = apart(cluster, narrow)[0]
    # The others go on to serve what they have.
    for server in cluster.servers:
        await server.say("CONFIG", "SET", "cluster-require-full-coverage", "no")
    async with counting(cluster.url) as counters:
        await take(counters, wide, narrow, middle)
        await lost.stop()
        await until(lambda: not counters.up)
        with pytest.raises(CountersError):
            await take(counters, wide, narrow, middle)

        # What the others had counted of it was taken back, or never asked for.
        async def two_counted() -> bool:
            return [left for left, _ in (await take(counters, wide, middle)).states] == [7, 3]

        assert await two_counted()
        await lost.start()
        await until(lambda: counters.up)
        assert (await take_at_last(counters, narrow)).admitted


async def test_a_single_server_is_no_cluster(tmp_path: Path) -> None:
    async with (
        running_redis(PROGRAM, tmp_path) as server,
        counting(f"redis+cluster://127.0.0.1:{server.port}") as counters,
    ):
        assert not counters.up
        with pytest.raises(CountersError, match="cluster support disabled"):
            await take(counters, demand("k", "1/minute"))
