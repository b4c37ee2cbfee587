"""A process that asks the hub, and says of each answer what it was.

`python -m tests.integration.hub_asker FD TAKES LIMIT`: `FD` is its end of an inherited socket.  It begins with the
first line of its standard input, and writes one letter an answer to its standard output as soon as it comes: `a` for
admitted, `r` for refused.  So what it was told is known even if it is killed.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys

from gateway.core.ports import Demand, Verdict
from gateway.core.units import Rate
from gateway.counters.hub import HubCounters

#: Questions that go out in one turn of the loop, and that may be open.
AT_ONCE, OPEN = 100, 1000


def demand(limit: int) -> tuple[Demand, ...]:
    """What everybody asks for."""
    return (Demand("everybody", (Rate(limit, 3600, "hour"),)),)


async def ask(connection: socket.socket, takes: int, limit: int) -> None:
    """Ask so often, and return when everything has been answered."""
    counters = HubCounters()
    await counters.connect(connection)
    demands, done = demand(limit), asyncio.Event()
    sys.stdin.readline()
    told = 0

    def tell(verdict: Verdict) -> None:
        nonlocal told
        os.write(1, b"a" if verdict.admitted else b"r")
        told += 1
        if told == takes:
            done.set()

    def fail(error: BaseException) -> None:
        raise error

    asked = 0
    while asked < takes:
        for _ in range(min(AT_ONCE, takes - asked)):
            counters.take(demands, 0).then(tell, fail)
            asked += 1
        await asyncio.sleep(0)
        while asked - told > OPEN:
            await asyncio.sleep(0.001)
    await done.wait()


if __name__ == "__main__":
    asyncio.run(ask(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])))
