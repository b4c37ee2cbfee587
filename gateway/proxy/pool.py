"""Connections to one origin: idle ones kept, new ones opened (httpcore's `connection_pool.py` is the model).

Taking is a plain call that either hands over an idle connection or starts to open one; what was opened is
delivered through a `Pending`.  Foreign exceptions are translated here: a failure is a `ConnectError`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from gateway.core.decision import Pending
from gateway.core.errors import PosternError
from gateway.proxy.sinks import HIGH_WATER, LOW_WATER
from gateway.proxy.tls import explain
from gateway.proxy.tls_connection import TlsConnection
from gateway.proxy.upstream import Upstream

if TYPE_CHECKING:
    from gateway.snapshot import ClientTls, Origin

#: Idle connections kept for an origin, and how long, in nanoseconds.
MAX_IDLE: Final = 512
IDLE_TIMEOUT: Final = 55_000_000_000


class ConnectError(PosternError):
    """The origin cannot be reached."""


class Pool:
    """The connections to one origin."""

    __slots__ = ("_closed", "_loop", "connections", "idle", "opening", "origin")

    def __init__(self, origin: Origin, loop: asyncio.AbstractEventLoop) -> None:
        self.origin = origin
        self.idle: list[Upstream] = []
        #: Every open connection, idle or not.
        self.connections: set[Upstream] = set()
        #: How many are being opened.
        self.opening = 0
        self._loop = loop
        self._closed = False

    @property
    def busy(self) -> int:
        """How many connections carry a request, or are being opened for one."""
        return len(self.connections) - len(self.idle) + self.opening

    def take(self) -> Upstream | None:
        """An idle connection that seems alive, the one used last first; None where there is none."""
        idle = self.idle
        while idle:
            connection = idle.pop()
            if connection.usable():
                return connection
            connection.close()
        return None

    def connect(self) -> Pending[Upstream]:
        """Open a new connection; fails with `ConnectError`.  Cancelling gives the attempt up."""
        task = self._loop.create_task(self._open())
        self.opening += 1

        def give_up() -> None:
            self.opening -= 1
            task.cancel()

        pending: Pending[Upstream] = Pending(on_cancel=give_up)

        def opened(finished: asyncio.Task[Upstream]) -> None:
            wanted = not pending.done
            if wanted:
                self.opening -= 1
            if finished.cancelled():
                return
            error = finished.exception()
            if error is not None:
                if wanted:
                    pending.fail(error)
                return
            connection = finished.result()
            if not wanted:
                connection.close()
                return
            if not connection.usable():
                # It ended, or spoke unasked, before anybody had it: nothing more will be heard of it.
                connection.close()
                pending.fail(ConnectError(f"{self.origin}: the connection ended as it was opened"))
                return
            # In a pool that was closed meanwhile, its exchange still gets it; it ends when it is given back.
            self.connections.add(connection)
            pending.resolve(connection)

        task.add_done_callback(opened)
        return pending

    async def _open(self) -> Upstream:
        transport, protocol = await self.dial(self._protocol)
        transport.set_write_buffer_limits(high=HIGH_WATER, low=LOW_WATER)
        return cast(Upstream, protocol)

    async def dial(self, protocol: Callable[[], asyncio.Protocol]) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """A connection to the origin that is not the pool's; raises `ConnectError`."""
        origin = self.origin
        try:
            if origin.path:
                return await self._loop.create_unix_connection(protocol, origin.path)
            if origin.tls is not None:
                return await self._secure(origin.tls, protocol())
            return await self._loop.create_connection(protocol, origin.host, origin.port)
        except (OSError, ValueError) as error:  # ValueError: what is no host name
            raise ConnectError(f"{origin}: {explain(error)}") from error

    async def _secure(self, tls: ClientTls, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """A connection with a handshake; raises OSError, ValueError or `ConnectError`."""
        # Told as a value: a future's exception keeps the frame that awaits it, and that frame the future.
        opened: asyncio.Future[Exception | None] = self._loop.create_future()

        def told(error: Exception | None) -> None:
            if not opened.done():
                opened.set_result(error)

        assert tls.context is not None  # noqa: S101 - `proxy.tls` makes it, a test at the most leaves it out
        connection = TlsConnection(tls.context, protocol, told, tls.server_name)
        try:
            await self._loop.create_connection(
                lambda: cast(asyncio.Protocol, connection), self.origin.host, self.origin.port
            )
            fault = await opened
        except BaseException:
            connection.abort()
            raise
        if fault is not None:
            connection.abort()
            raise ConnectError(f"{self.origin}: {explain(fault)}") from fault
        return cast(asyncio.Transport, connection), protocol

    def _protocol(self) -> asyncio.Protocol:
        # An asyncio.Protocol in all but name: a compiled class has no base that is not.
        return cast(asyncio.Protocol, Upstream(self))

    def give_back(self, connection: Upstream, now: int) -> None:
        """Keep a connection whose exchange ended cleanly."""
        if self._closed or len(self.idle) >= MAX_IDLE or not connection.usable():
            connection.close()
            return
        connection.deadline = now + IDLE_TIMEOUT
        self.idle.append(connection)

    def forget(self, connection: Upstream) -> None:
        """The connection is gone."""
        self.connections.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)

    def sweep(self, now: int) -> None:
        """Close what has been idle too long; the oldest are at the front."""
        idle = self.idle
        if idle and idle[0].deadline < now:
            for connection in [c for c in idle if c.deadline < now]:
                connection.close()
            self.idle = [c for c in idle if c.deadline >= now]

    def close(self) -> None:
        """Close the idle connections; busy ones close when they are given back."""
        self._closed = True
        for connection in self.idle:
            connection.close()
        self.idle = []
