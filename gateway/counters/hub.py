"""A worker's end of the hub: `gateway.core.ports.Counters` that another process keeps for the whole node.

All questions of one turn of the event loop go out in one write, and the answers of one read come back in one; they
come in the order of asking, so a question is no more than a place in a queue.  While answers are to come nothing more
is written: what is asked meanwhile goes out together once they have (as Nagle's algorithm has it, RFC 896), so that
the busier the node is, the less a question costs.  How they are written is told in `hub_frames`, who counts in
`hub_server`.

Faults are never silent: where the hub is gone, or says nothing for longer than `patience` while it is asked, everything
that waits fails with `CountersError`, and so does at once whatever is asked until the hub answers again.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic_ns
from typing import Any, Final, cast

from gateway.core.decision import Pending
from gateway.core.errors import CountersError
from gateway.core.ports import Demand, Verdict
from gateway.core.units import Rate
from gateway.counters.hub_frames import DEFINITIONS, Frames, frame

_log = logging.getLogger("postern.counters")

#: Nanoseconds that the hub may say nothing while something waits.
PATIENCE: Final = 1_000_000_000
#: Sweeps that must find it silent: one that comes late because this process stood still proves nothing.
_SWEEPS: Final = 4
#: Questions that may wait for an answer.
WAITING: Final = 100_000
#: Items of a list at which it is written without waiting for the end of the turn.
_LONG: Final = 2048


class HubCounters:
    """See the module.  Belongs to the event loop's thread.

    `on_lost` is told when the connection is over, which is for good: the socket was inherited.
    """

    def __init__(
        self, patience: int = PATIENCE, waiting: int = WAITING, on_lost: Callable[[], None] | None = None
    ) -> None:
        #: Whether the hub can be asked.
        self.up = False
        self._patience = patience
        self._most = waiting
        self._on_lost = on_lost
        self._loop: asyncio.AbstractEventLoop | None = None
        self._transport: asyncio.Transport | None = None
        self._readable: select.poll | None = None
        self._frames = Frames()
        self._paused = False
        self._scheduled = False
        self._unsent: list[Any] = []
        self._waiting: deque[Pending[Verdict]] = deque()
        #: Questions that are in `_unsent`, and that have been written and not answered.
        self._asked = 0
        self._unanswered = 0
        #: Answers to come that nobody waits for any more; they come before all others.
        self._abandoned = 0
        self._heard = 0
        self._silent = 0
        self._known: dict[str, dict[int, tuple[Sequence[Rate], int]]] = {}
        self._numbers: dict[tuple[Any, ...], int] = {}

    async def connect(self, connection: socket.socket) -> None:
        """Ask over this socket, which is this object's from now on."""
        self._loop = asyncio.get_running_loop()
        self._readable = select.poll()
        self._readable.register(connection.fileno(), select.POLLIN)
        await self._loop.create_unix_connection(lambda: cast(asyncio.Protocol, self), sock=connection)

    def close(self) -> None:
        """Close the connection; what waits fails."""
        self._on_lost = None
        if self._transport is not None:
            self._transport.abort()

    # ── the port ────────────────────────────────────────────────────────────────────────────────

    def take(self, demands: Sequence[Demand], now_ns: int) -> Pending[Verdict]:
        """Ask for one request to be admitted and counted in all windows of all demands, or in none.

        `now_ns` is not used: the hub has a clock of its own.  Raises `CountersError` when it cannot be asked.
        """
        if not self.up:
            raise CountersError("the hub of the counters does not answer")
        if len(self._waiting) >= self._most:
            raise CountersError("too many questions wait for the hub of the counters")
        if self._unanswered == 0 and not self._scheduled:
            self._schedule()
        if len(demands) == 1:
            demand = demands[0]
            number = self._number(demand)
            unsent = self._unsent
            unsent.append(number)
            unsent.append(demand.key)
        else:
            self._ask_for_several(demands)
        asked: Pending[Verdict] = Pending()
        self._waiting.append(asked)
        self._asked += 1
        if len(self._unsent) >= _LONG:
            self._write()
        return asked

    def sweep(self, now_ns: int) -> None:
        """Notice a hub that says nothing: called a few times a second, with the monotonic clock's time."""
        if self._heard == 0 or not self._waiting:
            self._silent = 0
            return
        self._silent += 1
        if self._silent < _SWEEPS or now_ns - self._heard <= self._patience:
            return
        if self._readable is not None and self._readable.poll(0):
            return  # it has answered: it is this process that has yet to read
        if self.up:
            _log.error("the hub of the counters does not answer")
        self.up = False
        self._fail("the hub of the counters does not answer")

    # ── asking ──────────────────────────────────────────────────────────────────────────────────

    def _ask_for_several(self, demands: Sequence[Demand]) -> None:
        if len(self._numbers) + len(demands) > DEFINITIONS:
            self._forget_definitions()
        asked: list[Any] = [-1 - len(demands)]
        for demand in demands:
            asked.append(self._number(demand))
            asked.append(demand.key)
        self._unsent += asked

    def _number(self, demand: Demand) -> int:
        """The number under which the rates and the algorithm of `demand` are known at the other end."""
        known = self._known.get(demand.algorithm)
        if known is not None:
            found = known.get(id(demand.rates))
            if found is not None:
                return found[1]
        return self._define(demand)

    def _define(self, demand: Demand) -> int:
        """Find the number of what is equal, or define it; keeping the object keeps its id from being reused."""
        known = self._known.setdefault(demand.algorithm, {})
        told = tuple([(rate.limit, rate.seconds, rate.name) for rate in demand.rates])
        definition = (demand.algorithm, told)
        number = self._numbers.get(definition)
        if number is None:
            if len(self._numbers) >= DEFINITIONS:
                self._forget_definitions()
                known = self._known.setdefault(demand.algorithm, {})
            number = self._numbers[definition] = len(self._numbers)
            self._unsent.append(definition)
        elif len(known) >= DEFINITIONS:
            known.clear()
        known[id(demand.rates)] = (demand.rates, number)
        return number

    def _forget_definitions(self) -> None:
        self._known.clear()
        self._numbers.clear()
        self._unsent.append(None)

    def _schedule(self) -> None:
        self._scheduled = True
        cast(asyncio.AbstractEventLoop, self._loop).call_soon(self._flush)

    def _flush(self) -> None:
        """The turn is over: write what was asked in it, and while answers were to come."""
        self._scheduled = False
        self._write()

    def _write(self) -> None:
        unsent, transport = self._unsent, self._transport
        if not unsent or transport is None or self._paused:
            return
        self._unsent = []
        self._unanswered += self._asked
        self._asked = 0
        if self._heard == 0:
            self._heard = monotonic_ns()
        transport.write(frame(unsent))

    # ── answers: an `asyncio.Protocol` in all but name, so that it can be compiled ────────────────

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.up = True

    def data_received(self, data: bytes) -> None:
        try:
            answers = self._frames.feed(data)
        except CountersError as error:
            self._nonsense(str(error))
            return
        self._silent = 0
        if not self.up and self._transport is not None:
            _log.info("the hub of the counters answers again")
            self.up = True
        waiting, size = self._waiting, len(answers)
        self._unanswered -= size // 2
        at = 2 * min(self._abandoned, size // 2)
        self._abandoned -= at // 2
        while at < size:
            if not waiting:
                self._nonsense("more answers than questions")
                return
            asked = waiting.popleft()
            verdict = Verdict(answers[at], answers[at + 1])
            at += 2
            try:
                asked.resolve(verdict)
            except Exception:  # noqa: BLE001 - a defect of who waits must not strike those who wait behind
                _log.exception("what waited for the counters broke")
        self._heard = monotonic_ns() if waiting or self._abandoned else 0
        if self._unanswered == 0 and self._unsent and not self._scheduled:
            self._schedule()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._write()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._readable = None
        self.up = False
        self._fail("the connection to the hub of the counters is gone")
        self._unsent.clear()
        on_lost, self._on_lost = self._on_lost, None
        if on_lost is not None:
            _log.error("the connection to the hub of the counters is gone")
            on_lost()

    def _nonsense(self, what: str) -> None:
        """What came is no answer: which question the next one belongs to, nobody knows."""
        _log.error("the hub of the counters sent %s", what)
        self.up = False
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, why: str) -> None:
        failed = list(self._waiting)
        self._waiting.clear()
        self._abandoned += len(failed)
        for asked in failed:
            try:
                asked.fail(CountersError(why))
            except Exception:  # noqa: BLE001 - as in `data_received`
                _log.exception("what waited for the counters broke")
