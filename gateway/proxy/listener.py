"""The proxy's listening sockets: bound, accepting, paused, closed.

The sockets are ours for as long as we listen, and the event loop accepts on duplicates of them.  To pause is to close
the duplicates: the kernel goes on queueing connections, none is refused or lost, and accepting again finds them.
libuv accepts one connection a turn of the loop, and under load a turn is long: new clients would wait for many seconds
beside busy ones.  So whoever is accepted brings along those that wait behind it, `AT_ONCE` at the most.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gateway.core.errors import cannot_listen
from gateway.proxy.greeting import Greeter
from gateway.proxy.plane import Plane

if TYPE_CHECKING:
    from gateway.core.units import Network

_log = logging.getLogger("postern.proxy")

#: Connections that the kernel keeps for us until we accept them: many in a turn of the loop, so that more would only
#: be a longer way out of an overload.
BACKLOG = 1024
#: What the kernel takes for a client beyond what is on its way to it, in bytes.  Without it the kernel holds up to
#: several MiB for each client that reads slowly; two thousand of those put all of the machine's TCP under pressure.
UNSENT = 128 * 1024
#: Linux's TCP_NOTSENT_LOWAT; the socket module has a name for it only from Python 3.12 on.
_NOTSENT_LOWAT = 25
#: Connections that are accepted in one turn of the loop, beside the one that it accepts itself.
AT_ONCE = 128
#: Seconds until accepting is tried again where the system has no file descriptor left for it.
_AGAIN = 0.25


class Listener:
    """One address on which clients connect."""

    def __init__(
        self, plane: Plane, host: str, port: int, proxy_protocol: bool = False, senders: Sequence[Network] = ()
    ) -> None:
        """`host` and `port` as in `listen.proxy`; port 0 takes any free one.  With `proxy_protocol` connections begin
        with a header of it, and come from `senders` (empty: anybody)."""
        self._plane = plane
        self._host = host
        self._greeter = Greeter(plane, proxy_protocol, senders)
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._accepting = False
        self._opening: asyncio.Task[None] | None = None
        #: Connections that were brought along and are being made.
        self._arriving: set[asyncio.Task[object]] = set()
        #: The port: the bound one, once started.
        self.port = port

    @property
    def greeting(self) -> int:
        """How many connections are in their TLS handshake or PROXY header: they are not yet among the plane's."""
        return self._greeter.pending

    async def start(self) -> None:
        """Bind and accept; raises `StartError` when the address cannot be had."""
        loop = self._plane.loop
        try:
            found = await loop.getaddrinfo(self._host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, _, _, _, address in dict.fromkeys(found):
                # With port 0 the first address chooses, the others follow.
                self._bind(family, (address[0], self.port, *address[2:]))
            self._accepting = True
            await self._open()
        except OSError as error:
            self.stop_accepting()
            raise cannot_listen("listen.proxy", self._host, self.port, error) from error

    def pause(self) -> None:
        """Accept nothing for now; the kernel keeps up to `BACKLOG` connections until `resume`."""
        self._accepting = False
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()

    def resume(self) -> None:
        """Accept again, beginning with what has been waiting."""
        if self._accepting or not self._sockets:
            return
        self._accepting = True
        if self._opening is None or self._opening.done():
            self._opening = self._plane.loop.create_task(self._reopen(), name="listen")

    def stop_accepting(self) -> None:
        """Close the listening sockets, and connections that have not come to a request; those that have go on."""
        self.pause()
        sockets, self._sockets = self._sockets, []
        for sock in sockets:
            sock.close()
        self._greeter.close()

    def _bind(self, family: int, address: tuple[object, ...]) -> None:
        sock = socket.socket(family, socket.SOCK_STREAM)
        self._sockets.append(sock)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if sys.platform == "linux":
            # Accepted sockets inherit it.
            sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, UNSENT)
        sock.bind(address)
        sock.listen(BACKLOG)
        self.port = int(sock.getsockname()[1])

    async def _open(self) -> None:
        """Accept on a duplicate of each socket.  Raises OSError."""
        servers: list[asyncio.Server] = []
        try:
            for sock in self._sockets:
                duplicate = sock.dup()
                try:
                    greet = functools.partial(self._greet, sock)
                    server = await self._plane.loop.create_server(greet, sock=duplicate, backlog=BACKLOG)
                except BaseException:
                    duplicate.close()
                    raise
                servers.append(server)
        finally:
            # Paused meanwhile, or not all of them could be had.
            if len(servers) < len(self._sockets) or not self._accepting:
                for server in servers:
                    server.close()
                servers = []
        self._servers = servers

    def _greet(self, sock: socket.socket) -> asyncio.Protocol:
        """The protocol of a connection that the loop has accepted; those that wait behind it come with it."""
        loop, greet = self._plane.loop, self._greeter.greet
        for _ in range(AT_ONCE if self._accepting else 0):
            try:
                accepted, _ = sock.accept()
            except OSError:
                break  # there is none, mostly; whatever else it is, the loop's own accepting meets it and says so
            accepted.setblocking(False)
            arriving: asyncio.Task[object] = loop.create_task(loop.connect_accepted_socket(greet, accepted))
            self._arriving.add(arriving)
            arriving.add_done_callback(self._arrived)
        return greet()

    def _arrived(self, arriving: asyncio.Task[object]) -> None:
        self._arriving.discard(arriving)
        if not arriving.cancelled() and (error := arriving.exception()) is not None:
            _log.debug("a connection was lost as it was accepted: %s", error)

    async def _reopen(self) -> None:
        while self._accepting and not self._servers:
            try:
                await self._open()
            except OSError as error:
                if self._accepting:
                    _log.error("cannot accept connections for now: %s", os.strerror(error.errno or 0))
                    await asyncio.sleep(_AGAIN)
