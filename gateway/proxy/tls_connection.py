"""TLS between a socket and the protocol that it carries: RFC 8446 and 5246 through OpenSSL, fed from memory.

`TlsConnection` is an `asyncio.Protocol` towards the socket and an `asyncio.Transport` towards what it carries, which
thereby need not know of it.  Law: it behaves like TCP.  Either side may close its half and still hear the other;
reading that is paused loses nothing, not even when the end follows at once; and an end without TLS's own goodbye
(`close_notify`) is no end but a cut, told as an error to `connection_lost`.  The event loop's own TLS does neither.
OpenSSL's buffers never shrink: they are fed and emptied in small pieces, so that an idle connection is a small one.

States: in its handshake (what it carries has not heard of it), open, closed.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final, cast

#: The largest record in bytes (RFC 8446 §5.1): more never comes out of one read.
_RECORD: Final = 16384
#: OpenSSL is given so many bytes of ciphertext at a time.
_PIECE: Final = 8192
#: Small records are handed over together, as TCP does with what came together, until they are so many bytes.
_TOGETHER: Final = 65536

_HANDSHAKE: Final = 0
_OPEN: Final = 1
_CLOSED: Final = 2

#: Stands in for what was carried once it has heard the last, so that neither keeps the other alive.
_NOBODY: Final = asyncio.Protocol()


def _told(_: Exception | None) -> None:
    """Stands in for `opened` once it was called."""


class TlsConnection:
    """See the module."""

    __slots__ = ("_at", "_closing", "_delivering", "_fault", "_goodbye_seen", "_goodbye_sent", "_held", "_incoming",
                 "_lost", "_opened", "_outgoing", "_paused", "_protocol", "_raw", "_ssl", "_state",
                 "_wire", "begun")  # fmt: skip

    def __init__(
        self,
        context: ssl.SSLContext,
        protocol: asyncio.Protocol,
        opened: Callable[[Exception | None], None],
        server_name: str | None = None,
    ) -> None:
        """`protocol` hears of the connection after its handshake; `opened` is told once: None then, or the error that
        ended the handshake.  With a `server_name` we are the client.

        Raises ValueError (UnicodeError) for a name that cannot be one.
        """
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_name is None, server_hostname=server_name
        )
        self._protocol = protocol
        self._opened = opened
        self._state = _HANDSHAKE
        #: True once the other end has said something.
        self.begun = False
        self._paused = False
        self._delivering = False
        self._closing = False
        self._goodbye_sent = False
        self._goodbye_seen = False
        #: True once the socket has ended while what it sent last is still to be delivered.
        self._lost = False
        self._fault: Exception | None = None
        #: What was read before it could be delivered; empty bytes are the other end's goodbye.
        self._held: list[bytes] = []
        #: What the socket brought, and how much of it OpenSSL has been given.
        self._wire = b""
        self._at = 0
        self._raw: asyncio.Transport | None = None

    # ── towards the socket: an asyncio.Protocol ──────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast(asyncio.Transport, transport)
        if self._closing:
            self._raw.abort()
        else:
            self._shake_hands()

    def data_received(self, data: bytes) -> None:
        if self._state == _CLOSED or self._closing or self._goodbye_seen:
            return  # what follows a goodbye is to be ignored (RFC 8446 §6.1)
        if self._at < len(self._wire):
            self._wire = self._wire[self._at :] + data
            self._at = 0
        elif len(data) <= _PIECE:
            self._incoming.write(data)
        else:
            self._wire = data
            self._at = 0
        if self._state == _HANDSHAKE:
            self.begun = True
            self._shake_hands()
        else:
            self._deliver()

    def eof_received(self) -> bool:
        if self._state == _OPEN and self._paused and (self._held or self._more()):
            self._lost = True
            return True
        return self._ended()

    def connection_lost(self, exc: Exception | None) -> None:
        state, self._state = self._state, _CLOSED
        protocol, self._protocol = self._protocol, _NOBODY
        if state == _OPEN:
            protocol.connection_lost(self._fault or exc)
        else:
            self._tell(self._fault or exc or ConnectionAbortedError("closed during the TLS handshake"))
        self._fault = None  # it holds the frames that it passed, and they hold us

    def pause_writing(self) -> None:
        if self._state == _OPEN:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._state == _OPEN:
            self._protocol.resume_writing()

    # ── within ───────────────────────────────────────────────────────────────────────────────

    def _shake_hands(self) -> None:
        try:
            while True:
                try:
                    self._ssl.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    if not self._feed():
                        self._flush()
                        return
        except (ssl.SSLError, ValueError) as error:  # ValueError: a name in the certificate that cannot be read
            self._break(error)
            return
        self._flush()
        self._state = _OPEN
        self._protocol.connection_made(cast(asyncio.BaseTransport, self))
        self._tell(None)
        self._deliver()

    def _tell(self, error: Exception | None) -> None:
        opened, self._opened = self._opened, _told
        opened(error)

    def _more(self) -> bool:
        """Is there ciphertext that has not been read?"""
        return self._at < len(self._wire) or self._incoming.pending > 0

    def _feed(self) -> bool:
        """Give OpenSSL the next piece of what the socket brought; False where there is none."""
        at, wire = self._at, self._wire
        if at >= len(wire):
            return False
        self._at = at + _PIECE
        self._incoming.write(wire[at : self._at])
        if self._at >= len(wire):
            self._wire = b""
            self._at = 0
        return True

    def _deliver(self) -> None:
        """Hand over what can be read until the protocol pauses it."""
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._state == _OPEN and not (self._paused or self._closing or self._goodbye_seen):
                data = self._held.pop(0) if self._held else self._read()
                if data is None:
                    break
                if not data:
                    self._goodbye_seen = True
                    self._wire = b""
                    self._at = 0
                    if not self._protocol.eof_received():
                        self.close()
                    break
                more = self._more()
                if more:
                    data = self._gather(data)
                self._protocol.data_received(data)
                if not (more or self._held):
                    break
        finally:
            self._delivering = False
        if self._outgoing.pending:
            self._flush()  # an answer to a key update

    def _gather(self, first: bytes) -> bytes:
        """The content of a record with that of those behind it, up to `_TOGETHER`.

        Else a head that comes in records of a byte each would be looked at from its beginning with each of them.
        """
        pieces = [first]
        size = len(first)
        while size < _TOGETHER and not self._held and self._more():
            data = self._read()
            if data is None:
                break
            if not data:
                self._held.append(data)
                break
            pieces.append(data)
            size += len(data)
        return b"".join(pieces) if len(pieces) > 1 else first

    def _read(self) -> bytes | None:
        """The next record's content, empty for the other end's goodbye; None while there is no whole one."""
        while True:
            try:
                return self._ssl.read(_RECORD)
            except ssl.SSLWantReadError:
                if not self._feed():
                    return None
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLError as error:
                self._break(error)
                return None

    def _resumed(self) -> None:
        """The protocol reads again: first what has been waiting, then what comes."""
        if not self._paused:
            self._deliver()
            self._read_on()

    def _read_on(self) -> None:
        """What waited has been delivered: hear the socket again, or of its end."""
        raw = self._raw
        if self._paused or self._state != _OPEN or raw is None:
            return
        if not self._lost:
            raw.resume_reading()
        elif not self._ended():
            raw.close()

    def _ended(self) -> bool:
        """The socket's end: right after a goodbye, else a cut.  True keeps our half open."""
        if self._goodbye_seen:
            return not self._closing
        if self._state == _HANDSHAKE:
            self._fault = ConnectionResetError("closed during the TLS handshake")
        elif not self._closing:
            self._fault = ConnectionAbortedError("it ended without TLS's close_notify")
        return False

    def _flush(self) -> None:
        """Send what OpenSSL has written."""
        raw = self._raw
        data = self._outgoing.read()
        if data and raw is not None and not raw.is_closing():
            raw.write(data)

    def _break(self, error: Exception) -> None:
        """End it; the alert that says why goes out if it can."""
        self._fault = error
        raw = self._raw
        self._flush()
        self._closing = True
        if raw is None:
            return
        if raw.get_write_buffer_size():
            raw.abort()
        else:
            raw.close()

    def _say_goodbye(self) -> None:
        """Send close_notify, once."""
        if self._goodbye_sent or self._state != _OPEN:
            return
        self._goodbye_sent = True
        try:
            self._ssl.unwrap()
        except ssl.SSLError as error:
            # That the other end's goodbye is not there yet is the usual case.
            if not isinstance(error, ssl.SSLWantReadError) and self._fault is None:
                self._fault = error
        self._flush()

    # ── towards what it carries: an asyncio.Transport ────────────────────────────────────────

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Carry something else from now on; it does not hear of the beginning."""
        if self._state != _CLOSED:
            self._protocol = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """What is carried."""
        return self._protocol

    def write(self, data: bytes) -> None:
        """Encrypt and send; dropped once our half is closed."""
        raw = self._raw
        if self._state != _OPEN or self._goodbye_sent or raw is None or self._fault is not None:
            return
        try:
            written = self._ssl.write(data) if len(data) <= _RECORD else 0
            sealed = self._outgoing.read() if written == len(data) else self._seal(memoryview(data)[written:])
        except ssl.SSLError as error:
            self._break(error)
            return
        raw.write(sealed)

    def _seal(self, rest: memoryview) -> bytes:
        """Encrypt record by record."""
        records: list[bytes] = []
        while rest:
            # Not within the slice: mypyc would call it twice.
            written = self._ssl.write(rest[:_RECORD])
            rest = rest[written:]
            records.append(self._outgoing.read())
        return b"".join(records)

    def can_write_eof(self) -> bool:
        """Our half can be closed alone: a goodbye, and the socket's half."""
        return True

    def write_eof(self) -> None:
        """Close our half; what the other end still sends is heard."""
        # OpenSSL reads when it says goodbye, and breaks on what waits there.
        while self._state == _OPEN and self._more() and (data := self._read()) is not None:
            self._held.append(data)
            if not data:
                break
        self._say_goodbye()
        if self._raw is not None and not self._raw.is_closing():
            self._raw.write_eof()

    def close(self) -> None:
        """Send what has been written, say goodbye, close; nothing is waited for."""
        if self._closing:
            return
        self._say_goodbye()
        self._closing = True
        if self._raw is not None:
            self._raw.close()

    def abort(self) -> None:
        """Close at once, without a goodbye."""
        self._closing = True
        if self._raw is not None:
            self._raw.abort()

    def is_closing(self) -> bool:
        """True once it is closed, or about to be."""
        return self._closing or self._raw is None or self._raw.is_closing()

    def pause_reading(self) -> None:
        """Deliver nothing, and let the other end wait."""
        if not self._paused and self._raw is not None:
            self._paused = True
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Deliver again, beginning with the next turn of the loop."""
        if self._paused:
            self._paused = False
            asyncio.get_running_loop().call_soon(self._resumed)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """As of the socket, in bytes of ciphertext."""
        if self._raw is not None:
            self._raw.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Bytes that wait to be sent."""
        return self._raw.get_write_buffer_size() if self._raw is not None else 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`ssl_object`, or what the socket's transport knows."""
        if name == "ssl_object":
            return self._ssl
        return self._raw.get_extra_info(name, default) if self._raw is not None else default
