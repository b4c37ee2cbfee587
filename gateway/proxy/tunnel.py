"""A WebSocket between a client and an upstream, once its handshake has passed every policy (RFC 6455).

Bytes go through untouched, both ways, with back-pressure.  Frames are looked at only to know where one ends, so that
a closing frame of the gateway's own can stand between two (1001 at a drain's end or a time-out, 1008 when the
credential is revoked).  The two transports change hands: each is given one `Side` as its protocol.

States: open; half closed - one end says no more, the other may still answer; closing - our farewell is being said,
what comes beyond the frame under way is dropped; ended - both transports write what they have and close.  Every path
ends in `_end`, once, which lets the exchange record itself; the plane forgets the tunnel when both ends are gone.
"""

from __future__ import annotations

import asyncio
import os
from time import monotonic_ns
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.proxy.exchange import Exchange

#: Closing codes (RFC 6455 §7.4.1).
GOING_AWAY: Final = 1001
POLICY_VIOLATION: Final = 1008

#: How long a farewell may take, and how long what is written may wait for a reader who is leaving, in nanoseconds.
#: Who is no longer authorized gets less: with the time until that is noticed it stays within a second.
FAREWELL: Final = 1_000_000_000
DISMISSAL: Final = 200_000_000
PATIENCE: Final = 10_000_000_000

#: Stands in for the transports of a tunnel that is over: it and its sides hold each other, and nothing else any more.
_GONE: Final = asyncio.Transport()

_REASONS: Final = {GOING_AWAY: b"going away", POLICY_VIOLATION: b"no longer authorized"}


class Frames:
    """Where frames end in a stream of them (RFC 6455 §5.2); nothing is judged, nothing is kept but a begun header."""

    __slots__ = ("_header", "_left")

    def __init__(self) -> None:
        self._header = b""
        self._left = 0

    def between(self) -> bool:
        """True where one frame has ended and the next has not begun."""
        return not self._left and not self._header

    def feed(self, data: bytes) -> int:
        """Take what passes; returns the index in `data` behind the last frame that ended there, -1 if none did."""
        at, size, end = 0, len(data), -1
        while at < size:
            if self._left:
                step = min(self._left, size - at)
                at += step
                self._left -= step
            else:
                begun = self._header
                header = begun + data[at : at + 14 - len(begun)]
                need = _header_size(header)
                if len(header) < need:
                    self._header = header
                    return end
                self._header = b""
                self._left = _payload_size(header)
                at += need - len(begun)
            if not self._left:
                end = at
        return end


def _header_size(header: bytes) -> int:
    if len(header) < 2:
        return 2
    size = header[1] & 0x7F
    return 2 + (4 if header[1] & 0x80 else 0) + (2 if size == 126 else 8 if size == 127 else 0)


def _payload_size(header: bytes) -> int:
    size = header[1] & 0x7F
    if size == 126:
        return int.from_bytes(header[2:4], "big")
    if size == 127:
        return int.from_bytes(header[2:10], "big")
    return size


def closing_frame(code: int, masked: bool) -> bytes:
    """A Close frame (RFC 6455 §5.5.1); `masked` as what a client sends must be (§5.3)."""
    payload = code.to_bytes(2, "big") + _REASONS.get(code, b"")
    if not masked:
        return bytes((0x88, len(payload))) + payload
    mask = os.urandom(4)
    return bytes((0x88, 0x80 | len(payload))) + mask + bytes(byte ^ mask[at & 3] for at, byte in enumerate(payload))


class Side:
    """One end of a tunnel, an `asyncio.Protocol` in all but the base class: what it reads, the other end writes."""

    __slots__ = ("_frames", "_tunnel", "gone", "masks", "other", "received", "taken_leave", "transport")

    other: Side

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport, masks: bool) -> None:
        self._tunnel = tunnel
        self._frames = Frames()
        self.transport = transport
        #: True where what we write must be masked: towards the upstream we are the client.
        self.masks = masks
        self.received = 0
        #: True once nothing more may be written to this end.
        self.taken_leave = False
        self.gone = False

    # ── asyncio's side ───────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Never called: the transport was there before us."""

    def data_received(self, data: bytes) -> None:
        tunnel = self._tunnel
        other = self.other
        if other.taken_leave:
            return
        end = self._frames.feed(data)
        self.received += len(data)
        if not tunnel.closing:
            tunnel.deadline = monotonic_ns() + tunnel.idle
            other.transport.write(data)
        elif end < 0:
            other.transport.write(data)
        else:
            other.transport.write(data[:end])
            other.take_leave(tunnel.closing)

    def eof_received(self) -> bool:
        return self._tunnel.half_closed(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._tunnel.lost(self, exc)

    def pause_writing(self) -> None:
        if not self.other.transport.is_closing():
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    # ── the tunnel's side ────────────────────────────────────────────────────────────────────

    def between_frames(self) -> bool:
        """Has everything that was read here ended with a whole frame?"""
        return self._frames.between()

    def take_leave(self, code: int) -> None:
        """Write our closing frame, and nothing more."""
        self.taken_leave = True
        if self.transport.is_closing():
            return
        self.transport.write(closing_frame(code, self.masks))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()


class Tunnel:
    """See the module.  `deadline` is looked at by the sweep of `plane`, nanoseconds of the monotonic clock."""

    __slots__ = ("_exchange", "client", "closing", "deadline", "ended", "half", "idle", "server", "until")

    def __init__(
        self,
        exchange: Exchange,
        client: asyncio.Transport,
        server: asyncio.Transport,
        idle: int,
        total: int,
    ) -> None:
        """Tie two transports; `idle` and `total` are the longest silence and the longest life, in nanoseconds,
        0 for any."""
        self._exchange: Exchange | None = exchange
        self.idle = idle or 1 << 62
        now = monotonic_ns()
        self.deadline = now + self.idle
        self.until = now + (total or 1 << 62)
        #: The code of the closing frame once a farewell has begun.
        self.closing = 0
        self.half = False
        self.ended = False
        self.client = Side(self, client, masks=False)
        self.server = Side(self, server, masks=True)
        self.client.other, self.server.other = self.server, self.client

    def begin(self, from_client: bytes, from_server: bytes, client_blocked: bool, server_blocked: bool) -> None:
        """Take the transports over; what had arrived behind the handshake goes on first."""
        for side, blocked in ((self.client, client_blocked), (self.server, server_blocked)):
            side.transport.set_protocol(side)  # type: ignore[arg-type]  # a protocol in all but the base class
            if blocked:
                side.other.transport.pause_reading()
            else:
                side.other.transport.resume_reading()
        if from_server:
            self.server.data_received(from_server)
        if from_client:
            self.client.data_received(from_client)

    def close(self, code: int) -> None:
        """Say farewell to both ends with a closing frame of this code, as soon as no frame is under way."""
        if self.closing or self.ended:
            return
        self.closing = code
        self.deadline = monotonic_ns() + (DISMISSAL if code == POLICY_VIOLATION else FAREWELL)
        for side in (self.client, self.server):
            if side.other.between_frames():
                side.take_leave(code)

    def expired(self) -> None:
        """The sweep found that the deadline, or the longest life, has passed."""
        if self.ended:
            self.cut()
        elif self.closing == POLICY_VIOLATION:
            self._end()
            for side in (self.client, self.server):
                if not side.taken_leave or side.transport.get_write_buffer_size():
                    side.transport.abort()  # in the middle of a frame, or not reading: neither buys time
        elif self.closing or self.half:
            self._end()
        else:
            self.close(GOING_AWAY)

    def recheck(self) -> None:
        """Judge again whether it may go on."""
        if not self.ended and self._exchange is not None:
            self._exchange.recheck()

    def cut(self) -> None:
        """End both connections at once."""
        self._end()
        for side in (self.client, self.server):
            side.transport.abort()

    def half_closed(self, side: Side) -> bool:
        """One end says no more; the other is told, and may still answer, but not be silent for long."""
        other = side.other.transport
        if self.closing or self.half or other.is_closing() or not other.can_write_eof():
            self._end()
            return False
        self.half = True
        self.idle = min(self.idle, PATIENCE)
        self.deadline = monotonic_ns() + self.idle
        side.other.taken_leave = True
        other.write_eof()
        return True

    def lost(self, side: Side, exc: Exception | None) -> None:
        """One end is gone: so is the other, once what was read for it is written."""
        side.gone = True
        if exc is not None:
            side.other.transport.abort()
        self._end()
        if side.other.gone:
            self.client.transport = self.server.transport = _GONE
            exchange, self._exchange = self._exchange, None
            if exchange is not None:
                exchange.tunnel_forgotten()

    def _end(self) -> None:
        if self.ended:
            return
        self.ended = True
        self.until = 1 << 62
        self.deadline = monotonic_ns() + PATIENCE
        for side in (self.client, self.server):
            side.transport.close()
        if self._exchange is not None:
            self._exchange.tunnel_ended(self.server.received)
