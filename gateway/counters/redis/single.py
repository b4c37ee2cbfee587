"""Counters in one Redis: a server of its own, or the master that sentinels name.

One request is one script call, whatever it demands, so all windows of all demands admit it, or none counts it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.core.counters_url import Address, RedisLocation
from gateway.core.decision import Pending
from gateway.core.ports import Demand, Verdict
from gateway.core.units import Rate
from gateway.counters.redis.asking import Host, Query, Taking
from gateway.counters.redis.door import Door, Sentinels
from gateway.counters.redis.node import Node
from gateway.counters.redis.questions import PREFIX, Question, Questions

#: What a probe counts: enough to see that the server counts, and soon forgotten.
PROBE = Demand("probe", (Rate(1_000_000_000, 1, "second"),), "fixed-window")


class RedisCounters(Host):
    """`gateway.core.ports.Counters` in one Redis.  Made and used on the event loop's thread.

    `clock` (nanoseconds) counts in place of Redis' own time, in tests.
    """

    def __init__(self, location: RedisLocation, clock: Callable[[], int] | None = None) -> None:
        self._clock = clock
        self._questions = Questions()
        self._door = Door(location)
        self._addresses = location.addresses
        self._sentinels: Sentinels | None = None
        question = Question((PROBE,), (0,), PREFIX)
        sentinel = location.kind == "sentinel"
        self.node = Node(
            location,
            self._door,
            str(location),
            self._master if sentinel else self._server,
            lambda node: question.request,
            moves=sentinel,
        )

    @property
    def up(self) -> bool:
        """Whether it can be asked."""
        return self.node.up

    def take(self, demands: Sequence[Demand], now_ns: int) -> Pending[Verdict]:
        """Admit and count one request in all windows of all demands, or in none.

        `now_ns` is not used: all gateways count by Redis' own time.  Raises `CountersError`, or fails with it.
        """
        if not demands:
            raise ValueError("nothing is demanded")
        question = self._questions.of(demands)[0]
        clock = self._clock
        command = question.request if clock is None else question.at(b"%d" % (clock() // 1000))
        pending: Pending[Verdict] = Pending()
        self.ask(Taking(command, self, question.slot, pending))
        return pending

    def ask(self, query: Query) -> None:
        """Ask the one server.  Raises `CountersError`."""
        self.send(query, self.node)

    def sweep(self, now_ns: int) -> int:
        """Nothing: keys expire by themselves."""
        return 0

    async def opened(self) -> None:
        """Wait until it has been tried once, well or not."""
        await self.node.tried()

    async def close(self) -> None:
        """Close all connections; what waits fails."""
        await self.node.close()
        if self._sentinels is not None:
            await self._sentinels.close()

    async def _server(self) -> Address:
        return self._addresses[0]

    async def _master(self) -> Address:
        if self._sentinels is None:
            self._sentinels = await self._door.sentinels()
        return await self._sentinels.master()
