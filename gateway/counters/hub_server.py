"""The hub: one exact count for all workers of a node, without Redis.

It lives in the control process and counts in `MemoryCounters`.  Each worker has a connection of its own (an inherited
Unix stream socket, see `hub_frames`).  Laws:

* One clock orders everything, the hub's: what a worker takes for the time is not even sent.
* What arrives in one read is answered in one write, in the order of asking.
* A worker harms nobody but itself: what it leaves torn is never counted, what it sends wrong ends its connection, and
  while it does not read its answers nothing more is read from it, so that the hub's memory stays bounded.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from time import monotonic_ns
from typing import Any, Final, cast

from gateway.core.errors import CountersError
from gateway.core.ports import Demand
from gateway.core.units import Rate
from gateway.counters.hub_frames import DEFINITIONS, Frames, frame
from gateway.counters.memory import MemoryCounters

_log = logging.getLogger("postern.counters")

#: Bytes of answers that may wait for a worker before nothing more is read from it.
_UNREAD: Final = 1 << 20
#: Sets of rates that are one object for all workers.
_RATES: Final = 4096

Definition = tuple[str, tuple[Rate, ...]]


class HubServer:
    """See the module.  `clock` is monotonic, in nanoseconds; everything happens on the event loop's thread.

    `counters` are swept by whoever owns them.
    """

    def __init__(self, counters: MemoryCounters, clock: Callable[[], int] = monotonic_ns) -> None:
        self.counters = counters
        self.clock = clock
        self._workers: set[_Worker] = set()
        self._rates: dict[tuple[Any, ...], tuple[Rate, ...]] = {}

    async def serve(self, connection: socket.socket) -> None:
        """Answer a worker on this socket, which is the hub's from now on, until the worker closes it."""
        worker = _Worker(self)
        await asyncio.get_running_loop().create_unix_connection(lambda: cast(asyncio.Protocol, worker), sock=connection)

    def __len__(self) -> int:
        """How many workers are connected."""
        return len(self._workers)

    @property
    def unread(self) -> int:
        """Bytes of answers that no worker has taken yet."""
        return sum([worker.unread() for worker in self._workers])

    def close(self) -> None:
        """End all connections; what has been asked and not answered fails at the worker's end."""
        for worker in list(self._workers):
            worker.close()

    def join(self, worker: _Worker) -> None:
        """A connection begins."""
        self._workers.add(worker)

    def leave(self, worker: _Worker) -> None:
        """A connection is over."""
        self._workers.discard(worker)

    def rates(self, told: tuple[Any, ...]) -> tuple[Rate, ...]:
        """The rates that these `(limit, seconds, name)` are: one object for equal ones, whoever asks.

        `MemoryCounters` knows by the object that an identity's windows are the same as last time.
        """
        known = self._rates.get(told)
        if known is None:
            if len(self._rates) >= _RATES:
                self._rates.clear()
            known = self._rates[told] = tuple([Rate(limit, seconds, name) for limit, seconds, name in told])
        return known


class _Worker:
    """One worker's connection: an `asyncio.Protocol` in all but name, so that it can be compiled."""

    def __init__(self, hub: HubServer) -> None:
        self._hub = hub
        self._counters = hub.counters
        self._frames = Frames()
        self._definitions: list[Definition] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=_UNREAD, low=_UNREAD // 4)
        self._hub.join(self)

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        try:
            items = self._frames.feed(data)
            if items:
                transport.write(frame(self._answers(items, self._hub.clock())))
        except Exception:  # noqa: BLE001 - whatever it was, it ends this worker's connection and nobody else's
            _log.exception("a worker asked the counters what makes no sense; its connection is closed")
            self.close()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._hub.leave(self)

    def unread(self) -> int:
        """Bytes of answers that it has not taken yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def close(self) -> None:
        """End the connection now."""
        if self._transport is not None:
            self._transport.abort()

    def _answers(self, items: list[Any], now: int) -> list[Any]:
        """What to answer to all questions among `items`."""
        counters, definitions = self._counters, self._definitions
        answers: list[Any] = []
        at, size = 0, len(items)
        while at < size:
            first = items[at]
            if isinstance(first, int) and first >= 0:
                algorithm, rates = definitions[first]
                demands: tuple[Demand, ...] = (Demand(items[at + 1], rates, algorithm),)
                at += 2
            elif isinstance(first, int):
                end = at - 1 - 2 * first
                demands = tuple([self._demand(items[place], items[place + 1]) for place in range(at + 1, end, 2)])
                at = end
            else:
                self._define(first)
                at += 1
                continue
            verdict = counters.take(demands, now)
            answers.append(verdict.admitted)
            answers.append(verdict.states)
        return answers

    def _demand(self, number: int, key: str) -> Demand:
        algorithm, rates = self._definitions[number]
        return Demand(key, rates, algorithm)

    def _define(self, definition: tuple[str, tuple[Any, ...]] | None) -> None:
        """Note the next definition; None forgets all."""
        if definition is None:
            self._definitions.clear()
        elif len(self._definitions) >= DEFINITIONS:
            raise CountersError("too many definitions")
        else:
            self._definitions.append((definition[0], self._hub.rates(definition[1])))
