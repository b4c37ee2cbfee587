"""A client's connection: an asyncio protocol that cuts requests and carries one exchange at a time.

States: open (waiting for a head, or carrying an exchange), lingering (answered, closed for writing, reading
what the client still sends so that the answer is not reset: RFC 9112 §9.6), closed.  Pipelined requests wait
in an inbox of 64 KiB, after which reading stops; the next one starts from a loop, never by recursion.
A connection that has been idle long enough is closed for writing alone, and not before what the kernel has of its next
request was served: a request that crosses our end is not reset.
The clock is the sweep of `plane`: `deadline` is one field, its meaning follows from the state.  The sweep also looks
whether a client that is not read from is still there.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import struct
from collections.abc import Callable
from time import monotonic_ns
from typing import TYPE_CHECKING, Final, cast

from gateway.core import answers
from gateway.core.answers import Answer
from gateway.proxy import messages, peers
from gateway.proxy.exchange import Exchange
from gateway.proxy.http1 import END, NO_BODY, Refused, RequestHead, find_end, glance, parse_request
from gateway.proxy.sinks import HIGH_WATER, INBOX, LOW_WATER
from gateway.proxy.states import DECIDING, DONE, RESPONDING, WAITING

if TYPE_CHECKING:
    from gateway.proxy.peers import Peer
    from gateway.proxy.plane import Plane
    from gateway.snapshot import Snapshot

_log = logging.getLogger("postern.proxy")

#: After a client's FIN its answer is still sent if it starts within this time, in nanoseconds.
HALF_CLOSE_GRACE: Final = 1_000_000_000
#: How long, and how much, a lingering connection reads.
LINGER: Final = 2_000_000_000
LINGER_BYTES: Final = 16 * 1024 * 1024
#: A connection that is being closed is cut after this time, written or not.
CLOSE_PATIENCE: Final = 10_000_000_000
#: Empty lines before a request line that are ignored (RFC 9112 §2.2).
_MAX_EMPTY_LINES = 4
_RESET = struct.pack("ii", 1, 0)


#: The states; plain numbers for the same reason as in `exchange`.
OPEN: Final = 0
LINGERING: Final = 1
CLOSING: Final = 2
CLOSED: Final = 3


def endpoints(transport: asyncio.BaseTransport) -> tuple[str, int] | None:
    """The address that connected, and the port that it connected to; None where it is gone already."""
    peername = transport.get_extra_info("peername")
    sockname = transport.get_extra_info("sockname")
    if not isinstance(peername, tuple):
        return None
    return peername[0], sockname[1] if isinstance(sockname, tuple) else 0


class Downstream:
    """One client connection, an `asyncio.Protocol` in all but the base class (compiled classes have none of others').

    See the module.
    """

    __slots__ = ("_address", "_admitted", "_blocked", "_client", "_half_closed", "_heading", "_inbox", "_life",
                 "_lingered", "_network", "_pace", "_parting", "_peer", "_peer_of", "_plane", "_port", "_pumping",
                 "_scheme", "_served", "_unsent", "_write", "deadline", "exchange", "paused", "transport")  # fmt: skip

    _write: Callable[[bytes], object]

    def __init__(
        self,
        plane: Plane,
        scheme: str = "http",
        client: tuple[str, int] | None = None,
        admitted: bool | None = None,
    ) -> None:
        """`client`: the address that connected and the port that it connected to, where its greeting has told
        (`greeting`); with `admitted` it has been counted already, and judged."""
        self._plane = plane
        self._scheme = scheme
        self._client = client
        self._admitted = admitted
        self._inbox = b""
        self._life = OPEN
        self._pumping = False
        self.paused = False
        self._blocked = False
        self._half_closed = False
        #: True while the deadline is that of a head: of the connection's first one, or of one that has begun.
        self._heading = True
        self._lingered = 0
        #: Requests that have been begun.
        self._served = 0
        #: Bytes of its body that the client must send before its deadline moves on.
        self._pace = 0
        #: How many requests had been begun when it was found idle for too long, with something arriving; -1: never.
        self._parting = -1
        #: What waited to be written when a closing connection was last looked at, in bytes.
        self._unsent = 0
        self._peer: Peer | None = None
        self._peer_of: Snapshot | None = None
        self.exchange: Exchange | None = None
        self.transport: asyncio.Transport | None = None
        self.deadline = 0

    # ── asyncio's side ───────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._write = self.transport.write
        self.transport.set_write_buffer_limits(high=HIGH_WATER, low=LOW_WATER)
        client = self._client or endpoints(transport)
        if client is None:
            # Reset before it was accepted: what it has sent may not be served to nobody knows whom.
            self._life = CLOSED
            self.transport.abort()
            return
        self._address, self._port = client
        plane = self._plane
        self.deadline = monotonic_ns() + plane.snapshot.timeouts.header
        plane.downstreams.add(self)
        self._network = peers.client_network(self._address)
        admitted = self._admitted
        if admitted is None:
            admitted = plane.admits(self._network) and plane.has_room()
        if not admitted:
            self._reject(answers.OVERLOADED, ((b"Retry-After", b"1"),))

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is not None:
            body = exchange.reader
            if body is not None and not body.done:
                self._pace -= len(data)
                if self._pace <= 0 and not self._blocked:
                    self._wait_for_body()
                exchange.feed(data)
                return
            self._inbox += data
            if len(self._inbox) > INBOX:
                self.pause()
            return
        if self._life != OPEN:
            self._lingered += len(data)
            if self._lingered > LINGER_BYTES:
                self.reset()
            return
        self._inbox = self._inbox + data if self._inbox else data
        if self._blocked:
            # It does not read its answers: its next requests wait until it does.
            if len(self._inbox) > INBOX:
                self.pause()
            return
        self._pump()

    def eof_received(self) -> bool:
        exchange = self.exchange
        if self._life != OPEN:
            return False
        if exchange is None:
            # Requests that wait until it reads the answers before theirs are answered yet.
            self._half_closed = self._blocked and END in self._inbox
            return self._half_closed
        if self._uploading(exchange):
            self._gone(exchange)
            return False
        # It has said all that it wants to say; the answers to what it has asked are still due.
        self._half_closed = True
        self._grace(exchange)
        return True

    def _gone(self, exchange: Exchange) -> None:
        """Nobody waits for this exchange any more."""
        exchange.client_gone()
        self.exchange = None
        self._close()

    def _wait_for_body(self) -> None:
        """A piece of its body must come in time: as many bytes as the pace says."""
        timeouts = self._plane.snapshot.timeouts
        self._pace = timeouts.pace
        self.deadline = monotonic_ns() + timeouts.body

    def _grace_if_it_goes_on(self, exchange: Exchange) -> None:
        # Apart from its caller, where the compiler takes `self.exchange` for what was put there before a call.
        if self.exchange is exchange:
            self._grace(exchange)

    def _grace(self, exchange: Exchange) -> None:
        """The exchange of a client that has closed its side: its answer must begin soon."""
        self.deadline = monotonic_ns() + HALF_CLOSE_GRACE
        if exchange.state == WAITING:
            return  # its body lies in the inbox
        if self._uploading(exchange):
            self._gone(exchange)  # what is left of its body will never come
            return
        if END not in self._inbox:
            self._inbox = b""
            exchange.close = True

    def connection_lost(self, exc: Exception | None) -> None:
        known = self._life != CLOSED
        self._life = CLOSED
        self._plane.downstreams.discard(self)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.client_gone()
        if known:
            self.forgotten()

    def pause_writing(self) -> None:
        self._blocked = True
        self.deadline = monotonic_ns() + self._plane.snapshot.timeouts.body
        if self.transport is not None:
            self._unsent = self.transport.get_write_buffer_size()
        if self.exchange is not None:
            self.exchange.download_blocked()

    def resume_writing(self) -> None:
        self._blocked = False
        if self._life != OPEN:
            return
        exchange = self.exchange
        if exchange is not None:
            self.deadline = 0
            if self._uploading(exchange) and not self.paused:
                self._wait_for_body()
            exchange.download_flowing()
            return
        self.resume()
        self._heading = False
        self._pump()

    @staticmethod
    def _uploading(exchange: Exchange) -> bool:
        """Is the client in the middle of its body?"""
        return exchange.reader is not None and not exchange.reader.done

    # ── requests ─────────────────────────────────────────────────────────────────────────────

    def _pump(self) -> None:
        """Start the exchange of each whole head in the inbox, one after the other."""
        if self._pumping:
            return
        self._pumping = True
        plane = self._plane
        while self.exchange is None and self._inbox and self._life == OPEN and not self._blocked:
            inbox = self._inbox
            limits = plane.snapshot.limits
            if inbox[0] == 0x0D:
                inbox = self._skip_empty_lines(inbox)
                if not inbox:
                    if self.deadline:
                        self._pumping = False
                        return  # empty lines alone buy no time
                    break
            end = inbox.find(END) + 4
            try:
                if end < 4 or end > limits.header_bytes:
                    end = find_end(inbox, limits)
                    if end < 0:
                        if not self._heading:
                            self._heading = True
                            self.deadline = monotonic_ns() + plane.snapshot.timeouts.header
                        self._inbox = inbox
                        self._pumping = False
                        if self._half_closed:
                            self._close()
                        return
                if end == len(inbox):
                    head = parse_request(inbox, limits)
                    self._inbox = b""
                else:
                    head = parse_request(inbox[:end], limits)
                    self._inbox = inbox[end:]
            except Refused as refused:
                self._inbox = b""
                self._reject(refused.answer, detail=refused.detail, begun=inbox)
                break
            self._heading = False
            self.deadline = 0
            if head.framing:
                self._wait_for_body()
            exchange = self.exchange = Exchange(self, plane, head)
            self._served += 1
            if self._served >= plane.snapshot.requests_per_connection:
                exchange.close = True
            if plane.overload.crowded:
                exchange.state = WAITING
                plane.overload.hold(self)
                break
            try:
                exchange.begin()
            except Exception as error:  # noqa: BLE001 - a defect of ours: the client gets a 500, never silence
                exchange.crashed(error)
            if self._half_closed:
                self._grace_if_it_goes_on(exchange)  # after it has taken its body from the inbox
        self._pumping = False
        if self.exchange is None and self._life == OPEN and not self._blocked:
            if self._half_closed:
                self._close()
                return
            self._heading = False
            self.deadline = monotonic_ns() + plane.snapshot.timeouts.idle

    def take_turn(self, now: int) -> None:
        """The request that was held (`overload`) begins."""
        exchange = self.exchange
        if exchange is None or exchange.state != WAITING:
            return
        exchange.state = DECIDING
        self.resume()  # what the body is held by pauses again when it has enough
        if exchange.head.framing:
            self._wait_for_body()
        try:
            exchange.begin()
        except Exception as error:  # noqa: BLE001 - as in `_pump`
            exchange.crashed(error)
        if self._half_closed and self.exchange is exchange:
            self._grace(exchange)

    def shed(self, now: int) -> None:
        """The request that was held has waited too long: a fast 503."""
        exchange, plane = self.exchange, self._plane
        if exchange is None or exchange.state != WAITING:
            return
        exchange.state = DONE
        head = exchange.head
        request_id = plane.request_id()
        content_type, body = answers.render(answers.OVERLOADED, head.index.get(b"accept"), request_id)
        close = exchange.close or plane.draining or head.framing != NO_BODY
        lines = ((b"Retry-After", b"1"), (b"Content-Type", content_type))
        out = messages.own_head(503, lines, body, (), plane.date, close, head.version)
        self.write(out if exchange.bodiless else out + body)
        plane.rejected(self._address, request_id, answers.OVERLOADED, "waited too long", len(body))
        if close:
            self.linger()
        else:
            self.released(False, now)

    def _skip_empty_lines(self, inbox: bytes) -> bytes:
        for _ in range(_MAX_EMPTY_LINES):
            if not inbox.startswith(b"\r\n"):
                break
            inbox = inbox[2:]
        self._inbox = inbox
        return inbox

    def _reject(
        self, answer: Answer, headers: tuple[tuple[bytes, bytes], ...] = (), detail: str = "", begun: bytes = b""
    ) -> None:
        """Answer what never became a request, and close; `begun` is what there is of its head."""
        plane = self._plane
        request_id = plane.request_id()
        bodiless, accept = glance(begun)
        content_type, body = answers.render(answer, accept, request_id)
        if answer is answers.METHOD_NOT_ALLOWED:
            headers = (*headers, messages.ALLOW)
        lines = (*headers, (b"Content-Type", content_type))
        head = messages.own_head(answer.status, lines, body, (), plane.date, True, 1)
        if bodiless:
            body = b""
        self.write(head + body)
        plane.rejected(self._address, request_id, answer, detail, len(body))
        self.linger()

    # ── the exchange's side ──────────────────────────────────────────────────────────────────

    def peer(self, snapshot: Snapshot, head: RequestHead) -> Peer:
        """Who the client is, as the snapshot's trusted proxies make us see it."""
        peer = self._peer
        if peer is not None and self._peer_of is snapshot:
            return peer
        if snapshot.trusted and peers.is_trusted(self._address, snapshot.trusted):
            return peers.trusted_peer(self._address, self._scheme, self._port, snapshot.trusted, head.index)
        self._peer = peer = peers.untrusted_peer(self._address, self._scheme, self._port)
        self._peer_of = snapshot
        return peer

    def take_inbox(self) -> bytes:
        """What has arrived after the head."""
        inbox, self._inbox = self._inbox, b""
        return inbox

    def give_inbox(self, rest: bytes) -> None:
        """What follows a body belongs to the next request."""
        self._inbox = rest
        self.deadline = 0
        if len(rest) > INBOX:
            self.pause()

    def write(self, data: bytes) -> None:
        """Send to the client; dropped when it is gone."""
        if self._life == OPEN:
            self._write(data)

    def pause(self) -> None:
        """Stop reading."""
        if not self.paused and self._life == OPEN and self.transport is not None:
            self.paused = True
            if not self._blocked:
                self.deadline = 0
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self.paused and self._life < CLOSED and self.transport is not None:
            self.paused = False
            self.transport.resume_reading()
            if self.exchange is not None and not self._blocked and self._uploading(self.exchange):
                self._wait_for_body()

    def look(self) -> None:
        """Find out whether a client that is not read from has reset its connection: the loop does not tell."""
        if self._life != OPEN or self.transport is None:
            return
        sock = self.transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return
        poller = select.poll()
        poller.register(sock.fileno(), 0)  # errors are told unasked
        if poller.poll(0):
            self.transport.abort()

    def blocked(self) -> bool:
        """Does the client take no more for now?"""
        return self._blocked

    def hand_over(self) -> asyncio.Transport | None:
        """Give the transport to somebody else, None if it is gone: nothing more is heard of it here."""
        transport = self.transport
        if self._life != OPEN or transport is None or transport.is_closing() or self._half_closed:
            return None
        self.exchange = None
        self.transport = None
        self.deadline = 0
        self._life = CLOSED
        self._plane.downstreams.discard(self)
        return transport

    def forgotten(self) -> None:
        """The connection is gone, whoever had it last."""
        self._plane.leaves(self._network)

    def released(self, close: bool, now: int) -> None:
        """The exchange is over, at `now` of the monotonic clock, and its request was read to the end."""
        exchange, self.exchange = self.exchange, None
        if close or (self._half_closed and not self._inbox):
            if self._inbox or self.paused or (exchange is not None and exchange.head.keep_alive):
                self.linger()  # its next request may be on its way
            else:
                self._close()
            return
        if self._life != OPEN:
            return
        if self.paused and not self._blocked:
            self.resume()
        if self._inbox:
            self._pump()
        elif not self._pumping and not self._blocked:
            self.deadline = now + self._plane.snapshot.timeouts.idle

    def linger(self) -> None:
        """Close for writing, and read what still comes for a while (RFC 9112 §9.6)."""
        transport = self.transport
        self.exchange = None
        if self._life != OPEN or transport is None:
            return
        if self._half_closed or not transport.can_write_eof():
            self._close()
            return
        self._life = LINGERING
        self._inbox = b""
        self._unsent = transport.get_write_buffer_size()
        self.deadline = monotonic_ns() + LINGER
        self.resume()
        if not transport.is_closing():
            transport.write_eof()

    def _close(self) -> None:
        if self._life < CLOSING and self.transport is not None:
            self._life = CLOSING
            self._unsent = self.transport.get_write_buffer_size()
            self.deadline = monotonic_ns() + CLOSE_PATIENCE
            self.transport.close()

    def _leaving(self) -> None:
        """A closing connection's patience is over: cut it, unless the client is still reading what was written."""
        transport = self.transport
        if transport is None or self._life == CLOSED:
            return
        unsent = transport.get_write_buffer_size()
        if unsent < self._unsent:
            self._unsent = unsent
            self.deadline = monotonic_ns() + CLOSE_PATIENCE
        elif unsent:
            self.reset()
        else:
            transport.abort()

    def reset(self) -> None:
        """End the connection at once, and so that the client can see that it was cut short."""
        transport = self.transport
        if self._life == CLOSED or transport is None:
            return
        self.exchange = None
        self._life = CLOSING
        sock = transport.get_extra_info("socket")
        if sock is not None:
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            except OSError as error:
                _log.debug("SO_LINGER on a dying connection: %s", error)
        transport.abort()

    def drain(self, until: int) -> None:
        """The gateway is stopping: an idle connection has until this moment of the monotonic clock for its next
        request, whose answer will say close as that to a request in flight will."""
        if self.exchange is not None or self._life != OPEN or self._inbox:
            return
        if self._blocked:
            self.linger()  # it has yet to read its last answers
        elif not self.deadline or self.deadline > until:
            self.deadline = until
            self._heading = False  # a head that begins now gets its own time

    def cut(self) -> None:
        """Its time is over, whatever it does: what is not complete is reset."""
        transport = self.transport
        if transport is None or self.exchange is not None or transport.get_write_buffer_size():
            self.reset()
            return
        self._life = max(self._life, CLOSING)
        transport.close()  # everything was written, and nothing will be

    def _part(self) -> None:
        """It has been idle for long enough: close it, once what has arrived is served."""
        if self._arriving() and self._parting != self._served:
            self._parting = self._served
            self.deadline = monotonic_ns()  # the loop tells of it before the next sweep
        elif self._served or self._plane.draining:
            self.linger()  # its next request may be on its way
        else:
            self._close()

    def _arriving(self) -> bool:
        """Does the kernel hold something that the loop has not told of yet?"""
        sock = self.transport.get_extra_info("socket") if self.transport is not None else None
        if sock is None or sock.fileno() < 0:
            return False
        poller = select.poll()
        poller.register(sock.fileno(), select.POLLIN)
        return bool(poller.poll(0))

    def _keeps_pace(self) -> bool:
        """Has a client that does not take all that it could taken enough since it was looked at last?"""
        transport = self.transport
        if transport is None:
            return False
        before, self._unsent = self._unsent, transport.get_write_buffer_size()
        return before - self._unsent >= self._plane.snapshot.timeouts.pace

    def expired(self) -> None:
        """The sweep found that the deadline has passed: what it was for follows from the state."""
        self.deadline = 0
        exchange = self.exchange
        if self._life != OPEN:
            self._leaving()
        elif self._blocked and self._keeps_pace():
            self.deadline = monotonic_ns() + self._plane.snapshot.timeouts.body
        elif exchange is None:
            if self._blocked:
                self.reset()
            elif self._inbox:
                self._reject(answers.REQUEST_TIMEOUT, detail="the head did not arrive in time", begun=self._inbox)
            else:
                self._part()
        elif self._half_closed and exchange.state < RESPONDING:
            self._gone(exchange)
        elif self._blocked:
            exchange.abort("the client stopped reading")
        elif self._uploading(exchange):
            exchange.client_timeout()
