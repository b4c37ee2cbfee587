"""What comes before the first request of a client's connection: a PROXY protocol header, a TLS handshake, or both.

Each is a protocol that hands the connection on to the next one.  Laws: each gets `limits.header_timeout`, there are
no more of them at once than `limits.connections`, and one that fails is closed and is nobody's error: there was no
request.  A connection counts from the moment that it is accepted, and for its client from the moment that this is
known; then it is judged.  One too many is still heard, so that it can be told; far too many are not.  When the gateway
drains, one that has begun comes to its request, and one that has said nothing has a moment to begin.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, cast

from gateway.proxy.downstream import Downstream, endpoints
from gateway.proxy.peers import client_network, is_trusted
from gateway.proxy.proxy_protocol import ProxyProtocolError, Source, parse
from gateway.proxy.tls import explain
from gateway.proxy.tls_connection import TlsConnection
from gateway.snapshot import SECOND

if TYPE_CHECKING:
    from gateway.core.units import Network
    from gateway.proxy.plane import Plane

_log = logging.getLogger("postern.proxy")


class Greeting(Protocol):
    """A connection on its way to its first request."""

    @property
    def begun(self) -> bool:
        """Has the client said anything?"""
        ...


class Greeter:
    """Makes the protocols of new connections; knows those that have not come to their first request."""

    def __init__(self, plane: Plane, proxy_protocol: bool = False, senders: Sequence[Network] = ()) -> None:
        """With `proxy_protocol` every connection must begin with a header; `senders` may connect then, all if empty."""
        self._plane = plane
        self._proxy_protocol = proxy_protocol
        self._senders = senders
        #: Connections on their way: what gives each one up.
        self._pending: dict[Greeting, tuple[asyncio.TimerHandle, Callable[[], None]]] = {}
        plane.greeters.append(self)

    @property
    def pending(self) -> int:
        """How many connections have not come to their first request."""
        return len(self._pending)

    def greet(self) -> asyncio.Protocol:
        """The protocol of a connection that was just accepted."""
        if self._proxy_protocol:
            return cast(asyncio.Protocol, _HeaderFirst(self))
        if self._plane.snapshot.tls is not None:
            return cast(asyncio.Protocol, _HandshakeFirst(self))
        return cast(asyncio.Protocol, Downstream(self._plane, "http"))

    def serve(self, transport: asyncio.Transport, source: Source | None, room: bool) -> asyncio.Protocol | None:
        """Put the next protocol in charge of a connection whose next byte is the client's, and return it; None where
        the client is gone.  `room`: was there room for it when it was accepted?"""
        plane = self._plane
        client = endpoints(transport) if source is None else (source.address, source.destination_port)
        if client is None:
            transport.abort()
            return None
        network = client_network(client[0])
        admitted = plane.admits(network) and room
        context = plane.snapshot.tls
        if context is None:
            following = cast(asyncio.Protocol, Downstream(plane, "http", client, admitted))
        else:
            following = self._secured(context, Downstream(plane, "https", client, admitted), network)
        transport.set_protocol(following)
        following.connection_made(transport)
        return following

    def has_room(self, more: int) -> bool:
        """Is there room for as many connections as there are, and so many `more`?"""
        return self._plane.has_room(more)

    def welcome(self, transport: asyncio.BaseTransport) -> bool:
        """May this peer send headers?"""
        peer = transport.get_extra_info("peername")
        return isinstance(peer, tuple) and (not self._senders or is_trusted(peer[0], self._senders))

    def begin(self, greeting: Greeting, give_up: Callable[[], None]) -> None:
        """A connection is on its way; `give_up` ends it."""
        plane = self._plane
        snapshot = plane.snapshot
        if len(self._pending) >= snapshot.connections:
            give_up()
            return

        def late() -> None:
            _log.debug("a client took too long before its first request")
            self.end(greeting)
            give_up()

        self._pending[greeting] = (plane.loop.call_later(snapshot.timeouts.header / SECOND, late), give_up)
        plane.greeting += 1

    def end(self, greeting: Greeting) -> None:
        """It has arrived, or is gone."""
        found = self._pending.pop(greeting, None)
        if found is not None:
            found[0].cancel()
            self._plane.greeting -= 1

    def drain(self, seconds: float) -> None:
        """Give up those that say nothing for so long."""
        self._plane.loop.call_later(seconds, self._give_up_silent)

    def _give_up_silent(self) -> None:
        for greeting, (_, give_up) in list(self._pending.items()):
            if not greeting.begun:
                give_up()

    def close(self) -> None:
        """Give up all that are on their way."""
        for _, give_up in list(self._pending.values()):
            give_up()

    def _secured(self, context: ssl.SSLContext, carried: Downstream, network: str) -> asyncio.Protocol:
        """TLS for a client that has been counted."""
        plane = self._plane

        def arrived(error: BaseException | None) -> None:
            self.end(connection)
            if isinstance(error, Exception):
                plane.leaves(network)
                _log.debug("a handshake with %s failed: %s", connection.get_extra_info("peername"), explain(error))

        connection = TlsConnection(context, cast(asyncio.Protocol, carried), arrived)
        if plane.bears(network):
            self.begin(connection, connection.abort)
        else:
            connection.abort()
        return cast(asyncio.Protocol, connection)


class _HandshakeFirst(asyncio.Protocol):
    """The protocol of a connection whose peer is not known yet: TLS takes its place."""

    def __init__(self, greeter: Greeter) -> None:
        self._greeter = greeter

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._greeter.serve(cast(asyncio.Transport, transport), None, room=self._greeter.has_room(1))


class _HeaderFirst:
    """An `asyncio.Protocol` that reads a PROXY protocol header, and is replaced."""

    def __init__(self, greeter: Greeter) -> None:
        self._greeter = greeter
        self._inbox = b""
        self._room = True
        self._transport: asyncio.Transport | None = None

    @property
    def begun(self) -> bool:
        """Has a byte of the header come?"""
        return bool(self._inbox)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._greeter.welcome(transport):
            self._greeter.begin(self, self._transport.abort)
            self._room = self._greeter.has_room(0)
        else:
            _log.debug("a peer that may not send PROXY headers: %s", transport.get_extra_info("peername"))
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._inbox += data
        try:
            header = parse(self._inbox)
        except ProxyProtocolError as error:
            _log.debug("%s %s", transport.get_extra_info("peername"), error)
            transport.abort()
            return
        if header is None:
            return
        self._greeter.end(self)
        following = self._greeter.serve(transport, header.source, self._room)
        rest = self._inbox[header.size :]
        if following is not None and rest and not transport.is_closing():
            following.data_received(rest)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._greeter.end(self)
