"""The proxy's listening sockets: bound or inherited, accepting, paused, closed.

The sockets are ours for as long as we listen, and the event loop accepts on duplicates of them.  To pause is to close
the duplicates: the kernel goes on queueing connections, none is refused or lost, and accepting again finds them.
libuv accepts one connection a turn of the loop, and under load a turn is long: new clients would wait for many seconds
beside busy ones.  So whoever is accepted brings along those that wait behind it, `AT_ONCE` at the most.

Several processes share an address by slots (`bind_slots`): each slot has sockets of its own, among which the kernel
spreads the connections, and whoever holds a slot accepts from duplicates of them.  As long as anybody keeps them open,
what waits in them waits for the slot's next holder.  Law: who stops takes what the kernel has accepted, so that no
connection is lost where nobody else holds its socket.
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


def bind_slots(host: str, port: int, slots: int) -> list[list[socket.socket]]:
    """Sockets for so many processes that share an address: for each slot its own, one an address family, bound and
    listening.  Port 0 takes any free one, the same for all.

    Raises `StartError` when the address cannot be had, also where another program that would share it (SO_REUSEPORT)
    listens already: a second gateway may not take a part of the first one's connections.
    """
    opened: list[list[socket.socket]] = [[] for _ in range(slots)]
    chosen = port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            if chosen:
                _bound(family, (address[0], chosen, *address[2:])).close()
            for slot in opened:
                sock = _bound(family, (address[0], chosen, *address[2:]), shared=True)
                slot.append(sock)
                sock.listen(BACKLOG)
                chosen = int(sock.getsockname()[1])
    except OSError as error:
        for slot in opened:
            for sock in slot:
                sock.close()
        raise cannot_listen("listen.proxy", host, port, error) from error
    return opened


def _bound(family: int, address: tuple[object, ...], *, shared: bool = False) -> socket.socket:
    """A socket that is bound and does not listen yet; `shared` among slots.  Raises OSError."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if sys.platform == "linux":
            # Accepted sockets inherit it.
            sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, UNSENT)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


class Listener:
    """One address on which clients connect."""

    def __init__(
        self,
        plane: Plane,
        host: str,
        port: int,
        proxy_protocol: bool = False,
        senders: Sequence[Network] = (),
        sockets: Sequence[socket.socket] | None = None,
    ) -> None:
        """`host` and `port` as in `listen.proxy`; port 0 takes any free one.  With `proxy_protocol` connections begin
        with a header of it, and come from `senders` (empty: anybody).  `sockets` are those of a slot (`bind_slots`),
        which are taken over; duplicates of them can be somebody else's at the same time."""
        self._plane = plane
        self._host = host
        self._greeter = Greeter(plane, proxy_protocol, senders)
        self._inherited = sockets
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._accepting = False
        #: True from the start until it stops for good, paused or not.
        self._started = False
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
        """Bind what is not inherited, and accept; raises `StartError` when the address cannot be had."""
        try:
            if self._inherited is None:
                await self._bind()
            else:
                self._sockets = list(self._inherited)
                for sock in self._sockets:
                    # It does not block: whoever made it saw to that.  But of one that came as a number Python does not
                    # know so, and to duplicate it would make it block for a moment, in every process that holds it.
                    sock.setblocking(False)
                self.port = int(self._sockets[0].getsockname()[1])
            self._accepting = True
            await self._open()
        except OSError as error:
            self._close()
            raise cannot_listen("listen.proxy", self._host, self.port, error) from error
        self._started = True

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
        """Take the connections that wait, and no more; those that have been accepted go on."""
        if self._started:
            self._started = False
            for sock in self._sockets:
                self._bring(sock, BACKLOG)
        self._close()

    def _close(self) -> None:
        self.pause()
        sockets, self._sockets = self._sockets, []
        for sock in sockets:
            sock.close()

    async def _bind(self) -> None:
        loop = self._plane.loop
        found = await loop.getaddrinfo(self._host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            # With port 0 the first address chooses, the others follow.
            sock = _bound(family, (address[0], self.port, *address[2:]))
            self._sockets.append(sock)
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
        if self._accepting:
            self._bring(sock, AT_ONCE)
        return self._greeter.greet()

    def _bring(self, sock: socket.socket, most: int) -> None:
        """Accept connections that wait, at most so many."""
        loop, greet = self._plane.loop, self._greeter.greet
        for _ in range(most):
            try:
                accepted, _ = sock.accept()
            except OSError:
                break  # there is none, mostly; whatever else it is, the loop's own accepting meets it and says so
            accepted.setblocking(False)
            arriving: asyncio.Task[object] = loop.create_task(loop.connect_accepted_socket(greet, accepted))
            self._arriving.add(arriving)
            arriving.add_done_callback(self._arrived)

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
