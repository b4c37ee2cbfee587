"""The backends of the counters, each with a time that only a test moves: what `test_counters` runs over.

A backend is an async context manager of a `Bench`.  Its counts are its own and start at nothing.  The clock that it
counts by, wherever that is, shows the bench's `now`, and nothing else.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from gateway.core.decision import Pending
from gateway.core.ports import Counters, Demand, Verdict
from gateway.counters.hub import HubCounters
from gateway.counters.hub_server import HubServer
from gateway.counters.memory import MemoryCounters
from gateway.counters.opening import open_counters
from tests.redis_server import executable, say, shared_redis

SECOND = 1_000_000_000
START = 1_000 * SECOND
#: Seconds that an answer may take on a machine that is busy with other things.
PATIENCE = 30.0
#: The same for Redis' breaker, in its URL.
PATIENTLY = "socket_timeout=30&socket_connect_timeout=30"


@dataclass
class Bench:
    """Counters, and the time by which they count: `now` in nanoseconds, in whole steps of `tick`."""

    counters: Counters
    tick: int = 1
    now: int = START

    def clock(self) -> int:
        """The time, for those backends that are given a clock."""
        return self.now

    async def take(self, *demands: Demand, after: int = 0) -> Verdict:
        """Ask, once so many nanoseconds more have gone by, and wait for the answer."""
        self.now += after - after % self.tick
        return await delivered(self.counters.take(demands, self.now))

    async def take_at_once(self, asked: Sequence[Sequence[Demand]]) -> list[Verdict]:
        """Ask all of these before the first is answered, and wait for all answers."""
        return await asyncio.gather(*(delivered(self.counters.take(demands, self.now)) for demands in asked))


async def delivered(answer: Verdict | Pending[Verdict]) -> Verdict:
    """The verdict, waited for where it has yet to come."""
    if not isinstance(answer, Pending):
        return answer
    future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
    answer.then(future.set_result, future.set_exception)
    return await asyncio.wait_for(future, PATIENCE)


@asynccontextmanager
async def memory() -> AsyncIterator[Bench]:
    """In this process: the time is handed in with each question."""
    yield Bench(MemoryCounters())


@asynccontextmanager
async def hub() -> AsyncIterator[Bench]:
    """Over a socket, as a worker asks the hub; the hub's own clock is the bench's."""
    bench = Bench(MemoryCounters())
    server, counters = HubServer(MemoryCounters(), bench.clock), HubCounters()
    ours, its = socket.socketpair()
    await server.serve(its)
    await counters.connect(ours)
    bench.counters = counters
    yield bench
    counters.close()
    server.close()
    await asyncio.sleep(0)


_databases = itertools.cycle(range(16))


@asynccontextmanager
async def redis() -> AsyncIterator[Bench]:
    """In a database of a real Redis, whose scripts are handed the bench's time in whole microseconds."""
    bench = Bench(MemoryCounters(), tick=1000)
    port, database = shared_redis(), next(_databases)
    await say(port, "EVAL", f"redis.call('SELECT', {database}) return redis.call('FLUSHDB')", 0)
    counters = await open_counters(f"redis://127.0.0.1:{port}/{database}?{PATIENTLY}", bench.clock)
    bench.counters = counters
    yield bench
    await counters.close()


BACKENDS: dict[str, Callable[[], AbstractAsyncContextManager[Bench]]] = {"memory": memory, "hub": hub}
if executable() is not None:
    BACKENDS["redis"] = redis
