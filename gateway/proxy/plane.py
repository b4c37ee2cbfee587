"""The data plane: the one object that all connections share, and its clock.

It holds the current snapshot, the upstream targets (which outlive a reload), the connections, and the sweep: one pass
over all deadlines every 250 ms instead of a timer a request.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Final, Protocol

from gateway.core.answers import Answer
from gateway.proxy import messages, peers
from gateway.proxy.lines import forget_lines
from gateway.proxy.overload import Overload
from gateway.proxy.targets import Targets
from gateway.proxy.tunnel import FAREWELL, GOING_AWAY
from gateway.snapshot import SECOND

if TYPE_CHECKING:
    from gateway.proxy.downstream import Downstream
    from gateway.proxy.greeting import Greeter
    from gateway.proxy.tunnel import Tunnel
    from gateway.snapshot import Snapshot

_log = logging.getLogger("postern.proxy")

#: Seconds between two sweeps.
TICK: Final = 0.25
#: Ticks after which the memory of header lines starts anew, to follow the traffic: a minute.
_FORGET_LINES: Final = 240
#: Ticks between two rounds in which what lasts is judged again: revoking a credential ends its streams within a second.
_RECHECK: Final = 2
#: How old what lasts must be, in nanoseconds: what is younger has just been judged.
_LASTING: Final = 400_000_000
#: Seconds that an idle connection has for its next request once the gateway drains, where nothing else is said.
PARTING: Final = 1.0
#: Turns of the loop until a connection that was accepted is known here.
_ARRIVAL: Final = 5
_BYTES: Final = [format(number, "02x") for number in range(256)]


class AccessSink(Protocol):
    """Where access lines go."""

    def record(
        self,
        now: float,
        request_id: str,
        client: str,
        method: str,
        path: str,
        query: bytes,
        status: int,
        sent: int,
        seconds: float,
        upstream_seconds: float | None,
        route: str,
        service: str,
        consumer: str,
        credential: str,
        decision: str,
        reason: str,
        user_agent: bytes,
        host: str,
    ) -> None: ...


class Plane:
    """See the module."""

    def __init__(
        self,
        snapshot: Snapshot,
        loop: asyncio.AbstractEventLoop,
        access: AccessSink | None = None,
        targets: Targets | None = None,
    ) -> None:
        self.snapshot = snapshot
        self.loop = loop
        self.access = access
        self.draining = False
        self.downstreams: set[Downstream] = set()
        #: WebSockets: their clients are no longer among `downstreams`.
        self.tunnels: set[Tunnel] = set()
        #: Connections that have not come to their first request (`greeting`).
        self.greeting = 0
        #: Those who bring them there.
        self.greeters: list[Greeter] = []
        #: How many connections a client address has, those in their handshake included.
        self.clients: dict[str, int] = {}
        self.overload = Overload(loop, snapshot.max_wait)
        self.targets = targets if targets is not None else Targets(loop)
        self.targets.adopt(snapshot.services)
        self.date = formatdate(usegmt=True).encode()
        self._prefix = secrets.token_hex(10)
        self._requests = 0
        #: All but the last two digits of the ids that are being given.
        self._block = self._prefix + "0" * 10
        self._cut = False
        #: How often deadlines have been looked at.
        self.ticks = 0
        self._timer: asyncio.TimerHandle | None = None

    # ── what connections ask ─────────────────────────────────────────────────────────────────

    def request_id(self) -> str:
        """A new request id: 32 hex digits, a random prefix of the process and a counter."""
        self._requests = number = self._requests + 1
        low = number & 0xFF
        if not low:
            self._block = self._prefix + format(number >> 8, "010x")
        return self._block + _BYTES[low]

    def given_id(self, index: dict[bytes, bytes]) -> str:
        """The request id that a trusted proxy gave, or a new one."""
        return messages.given_id(index.get(b"x-request-id")) or self.request_id()

    def admits(self, client: str) -> bool:
        """Count one more connection of a client (`peers.client_network`); False if it has too many."""
        number = self.clients[client] = self.clients.get(client, 0) + 1
        snapshot = self.snapshot
        most = snapshot.connections_per_client
        return not most or number <= most or peers.is_trusted(client, snapshot.trusted)

    def has_room(self, more: int = 0) -> bool:
        """Are there, with so many `more`, no more connections than there may be?"""
        return len(self.downstreams) + len(self.tunnels) + self.greeting + more <= self.snapshot.connections

    def bears(self, client: str) -> bool:
        """May one that is counted, admitted or not, shake hands, to be told 503?  Not past twice its limit."""
        snapshot = self.snapshot
        most = 2 * snapshot.connections_per_client
        return not most or self.clients.get(client, 0) <= most or peers.is_trusted(client, snapshot.trusted)

    def leaves(self, client: str) -> None:
        """One of a client's connections is gone."""
        number = self.clients.get(client, 1) - 1
        if number:
            self.clients[client] = number
        else:
            self.clients.pop(client, None)

    def rejected(self, client: str, request_id: str, answer: Answer, detail: str, sent: int) -> None:
        """Record what was refused before it became a request."""
        stats = self.snapshot.unrouted
        stats.observe("", answer.status, 0.0, None)
        stats.denied("gateway", answer.reason)
        if self.access is not None:
            reason = f"{answer.reason}: {detail}" if detail else answer.reason
            self.access.record(
                time.time(), request_id, client, "", "", b"", answer.status, sent, 0.0, None, "", "", "", "", "denied",
                reason, b"", "",
            )  # fmt: skip

    # ── life ─────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Begin to sweep, to resolve names and to watch targets."""
        self.targets.start()
        self._timer = self.loop.call_later(TICK, self._tick)
        self.overload.start()

    def swap(self, snapshot: Snapshot) -> None:
        """Take a new configuration: requests in flight end on the old one; pools nobody names any more are closed."""
        self.snapshot = snapshot
        self.overload.max_wait = snapshot.max_wait
        self.targets.adopt(snapshot.services)

    async def drain(self, seconds: float, idle: float = PARTING) -> bool:
        """Finish what is in flight, for at most `seconds`; False if something had to be cut.

        Each answer says that its connection closes; an idle connection closes when it has stayed so for `idle` seconds.
        """
        self.draining = True
        self.overload.gates = []
        for _ in range(_ARRIVAL):
            await asyncio.sleep(0)
        until = time.monotonic() + seconds
        for greeter in self.greeters:
            greeter.drain(idle)
        while self._busy() and time.monotonic() < until and not self._cut:
            parting = time.monotonic_ns() + int(idle * SECOND)
            for connection in list(self.downstreams):
                connection.drain(parting)
            await asyncio.sleep(0.02)
        for greeter in self.greeters:
            greeter.close()
        clean = not self.downstreams
        for connection in list(self.downstreams):
            connection.cut()
        await self._farewell()
        return clean

    def _busy(self) -> bool:
        return bool(self.downstreams or self.tunnels or self.greeting)

    async def _farewell(self) -> None:
        """Close the WebSockets that are left, with a closing frame where one can be said."""
        until = time.monotonic_ns() + FAREWELL
        while self.tunnels and time.monotonic_ns() < until:
            for tunnel in list(self.tunnels):
                tunnel.close(GOING_AWAY)
            await asyncio.sleep(0.02)
        for tunnel in list(self.tunnels):
            tunnel.cut()

    def cut(self) -> None:
        """Drain no longer."""
        self._cut = True

    def stop(self) -> None:
        """End the sweep, close every upstream connection and all that have not come to a request."""
        self.overload.stop()
        if self._timer is not None:
            self._timer.cancel()
        for greeter in self.greeters:
            greeter.close()
        self.targets.close()

    def counts(self) -> dict[tuple[str, str], int]:
        """`{(side, state): number}` of connections."""
        pools = self.targets.pools.values()
        active = sum(1 for connection in self.downstreams if connection.exchange is not None)
        return {
            ("downstream", "active"): active + len(self.tunnels),
            ("downstream", "idle"): len(self.downstreams) - active,
            ("downstream", "greeting"): self.greeting,
            ("upstream", "active"): sum(len(pool.connections) - len(pool.idle) for pool in pools),
            ("upstream", "idle"): sum(len(pool.idle) for pool in pools),
        }

    def _tick(self) -> None:
        self._timer = self.loop.call_later(TICK, self._tick)
        self.date = formatdate(usegmt=True).encode()
        self.ticks += 1
        if self.ticks % _FORGET_LINES == 0:
            forget_lines()
        now = time.monotonic_ns()
        try:
            self.sweep(now)
            if self.ticks % _RECHECK == 0:
                self.recheck(now - _LASTING)
        except Exception:  # noqa: BLE001 - the next sweep must come, whatever one connection did to this one
            _log.exception("the deadline sweep failed")

    def sweep(self, now: int) -> None:
        """Tell every connection and exchange whose deadline has passed; `now` is the monotonic clock in nanoseconds."""
        for connection in [c for c in self.downstreams if c.deadline and c.deadline <= now]:
            connection.expired()
        for connection in [c for c in self.downstreams if c.paused]:
            connection.look()
        late = [
            exchange
            for exchange in [c.exchange for c in self.downstreams if c.exchange is not None]
            if 0 < exchange.deadline <= now or 0 < exchange.until <= now
        ]
        for exchange in late:
            exchange.expired()
        for tunnel in [t for t in self.tunnels if t.deadline <= now or t.until <= now]:
            tunnel.expired()
        self.targets.sweep(now)

    def recheck(self, before: int) -> None:
        """Judge again what began before this moment of the monotonic clock and still lasts."""
        lasting = [c.exchange for c in self.downstreams if c.exchange is not None and c.exchange.arrived < before]
        for exchange in lasting:
            exchange.recheck()
        for tunnel in list(self.tunnels):
            tunnel.recheck()
