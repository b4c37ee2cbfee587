"""A connection to an upstream: an asyncio protocol that carries one exchange at a time.

It cuts and checks response heads, reads bodies by their framing, and tells its exchange; it knows nothing
of clients.  States: idle in its pool (no exchange), waiting for a head (no reader), in a body (a reader).
Whatever arrives while it is idle, and whatever follows a body, is nobody's answer: the connection is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from gateway.proxy.framing import BodyReader, ChunkedReader, FramingError, chunk, reader
from gateway.proxy.http1 import END, NO_BODY, BadResponse, check_begun_response, parse_response
from gateway.proxy.tls import explain

if TYPE_CHECKING:
    from gateway.proxy.exchange import Exchange
    from gateway.proxy.pool import Pool

#: The largest response head that is believed, in bytes.
MAX_HEAD: Final = 64 * 1024


class Upstream:
    """One connection to an origin, an `asyncio.Protocol` in all but the base class; see the module."""

    __slots__ = ("_chunked", "_halted", "_inbox", "_lost", "_persists", "_reader", "_write", "answered", "deadline",
                 "exchange", "paused", "pool", "served", "transport")  # fmt: skip

    _write: Callable[[bytes], object]

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.transport: asyncio.Transport | None = None
        self.exchange: Exchange | None = None
        self.deadline = 0
        #: Exchanges that it has carried to their end.
        self.served = 0
        #: True while its write buffer is full.
        self.paused = False
        #: True while it is not read from.
        self._halted = False
        self._inbox = b""
        self._reader: BodyReader | None = None
        self._lost = False
        #: False where the response being read says that its connection ends with it.
        self._persists = False
        self._chunked = False
        #: True once a byte of the current exchange's response has come.
        self.answered = False

    # ── the exchange's side ──────────────────────────────────────────────────────────────────

    def usable(self) -> bool:
        """False once the other end has gone, or while something is left from before."""
        transport = self.transport
        return not self._lost and transport is not None and not transport.is_closing() and not self._inbox

    def stale(self) -> bool:
        """A kept connection that died before it answered: it was closed as we began to write (RFC 9112 §9.3.1)."""
        return self.served > 0 and not self.answered

    def release(self, now: int) -> None:
        """The exchange ended cleanly: back to the pool."""
        self.exchange = None
        self.served += 1
        if self._halted:
            # The response's last piece filled the client's buffer: nobody else would let it be read from again.
            self.resume()
        self.pool.give_back(self, now)

    def send(self, exchange: Exchange, head: bytes, body: bytes, last: bool, chunked: bool) -> None:
        """Begin an exchange: the request's head, and what there is of its body, in one write."""
        self.exchange = exchange
        self.answered = False
        self._chunked = chunked
        if chunked:
            head += chunk(body) + (exchange.request_end() if last else b"")
        elif body:
            head += body
        self._write(head)

    def write(self, payload: bytes, last: bool) -> None:
        """More of the request's body (the `Sink` of `sinks`); the exchange pauses its source as we fill up."""
        if self._chunked:
            payload = chunk(payload)
            if last and self.exchange is not None:
                payload += self.exchange.request_end()
        if payload:
            self._write(payload)

    def pause(self) -> None:
        """The client is slower than the upstream."""
        if self.transport is not None and not self._lost:
            self._halted = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """The client can take more."""
        if self.transport is not None and not self._lost:
            self._halted = False
            self.transport.resume_reading()

    def hand_over(self) -> asyncio.Transport:
        """Give the transport to somebody else: nothing more is heard of it here."""
        self.exchange = None
        self._lost = True
        assert self.transport is not None  # noqa: S101 - a response came on it
        return self.transport

    def close(self) -> None:
        """End the connection, whatever was on it; its place in the pool is free at once."""
        self.exchange = None
        self._lost = True
        self.pool.connections.discard(self)
        if self.transport is not None:
            self.transport.abort()

    # ── asyncio's side ───────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._write = self.transport.write

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            self._inbox = b"x"  # an answer that nobody asked for: never usable again
            self.pool.forget(self)
            self.close()
            return
        current = self._reader
        if current is not None:
            self._body(exchange, current, data)
            return
        if self._inbox:
            data = self._inbox + data
        self.answered = True
        while True:
            end = data.find(END)
            if end > MAX_HEAD or (end < 0 and len(data) > MAX_HEAD):
                exchange.upstream_failed("response head too large")
                return
            try:
                if end < 0:
                    check_begun_response(data)
                    self._inbox = data
                    return
                head, data = data[: end + 4], data[end + 4 :]
                response = parse_response(head, exchange.bodiless)
            except BadResponse as bad:  # not `error`, as below: a compiled function's variable has one type
                exchange.upstream_failed(str(bad))
                return
            if response.status >= 200:
                break
            if response.status == 101:
                self._inbox = b""
                exchange.switched(response, data)
                return
            if not exchange.interim(response):
                return
            if not data:
                self._inbox = b""
                return
        self._inbox = b""
        framing = response.framing
        if framing == len(data):
            # Mostly: head and body have come together, to the byte.
            exchange.respond(response, data, True, response.keep_alive)
            return
        if framing == NO_BODY:
            # More than was declared is dropped with the connection.
            exchange.respond(response, b"", True, False)
            return
        current = reader(framing)
        try:
            payload, rest = current.feed(data) if data else (b"", b"")
        except FramingError as error:
            exchange.upstream_failed(str(error))
            return
        if current.done:
            self._trailers(exchange, current)
            exchange.respond(response, payload, True, response.keep_alive and not rest)
            return
        self._reader = current
        self._persists = response.keep_alive
        exchange.respond(response, payload, False, response.keep_alive)

    def _body(self, exchange: Exchange, current: BodyReader, data: bytes) -> None:
        try:
            payload, rest = current.feed(data)
        except FramingError as error:
            exchange.upstream_failed(str(error))
            return
        if current.done:
            self._reader = None
            self._trailers(exchange, current)
            exchange.respond_more(payload, True, self._persists and not rest)
        elif payload:
            exchange.respond_more(payload, False, True)

    @staticmethod
    def _trailers(exchange: Exchange, body: BodyReader) -> None:
        if isinstance(body, ChunkedReader) and body.trailers:
            exchange.trailers = body.trailers

    def eof_received(self) -> bool:
        self._ended("the upstream closed its connection")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None:
            self._ended("the upstream closed its connection")
        else:
            self._ended(f"the upstream's connection broke: {explain(exc)}", broken=True)
        self.pool.forget(self)

    def _ended(self, why: str, broken: bool = False) -> None:
        self._lost = True
        exchange, current = self.exchange, self._reader
        if exchange is None:
            return
        # A body that ends with its connection is whole after a FIN; a reset cut it short.
        if current is not None and not broken:
            self._reader = None
            try:
                current.eof()
            except FramingError as error:
                exchange.upstream_failed(str(error))
                return
            exchange.respond_more(b"", True, False)
            return
        exchange.upstream_failed(why)

    def pause_writing(self) -> None:
        self.paused = True
        if self.exchange is not None:
            self.exchange.upload_blocked()

    def resume_writing(self) -> None:
        self.paused = False
        if self.exchange is not None:
            self.exchange.upload_flowing()
