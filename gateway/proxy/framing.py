"""HTTP/1.1 bodies, sans I/O (RFC 9112 §6, §7): length, chunked, until-close; reading and writing.

A reader is fed what arrived and gives back the payload and what is left over for the next message.
It is strict: a chunk size is 1 to 16 hex digits, an extension has no control characters, every line
ends in CRLF, and lines and trailers are bounded.  A reader never holds payload back.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from gateway.proxy.http1 import CHUNKED, UNTIL_CLOSE

#: The longest chunk-size line, extensions included, and the most bytes of trailers.
MAX_CHUNK_LINE = 4096
MAX_TRAILERS = 16 * 1024
#: The most bytes of extensions beyond one for each byte of payload: a body may not consist of what nobody reads.
MAX_EXTENSIONS = 16 * 1024

# chunk-ext (RFC 9112 §7.1.1): *( BWS ";" BWS name [ BWS "=" BWS value ] ), values tokens or quoted strings.
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
_CHUNK_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,16})((?:[ \t]*;[ \t]*" + _TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?)*)"
)
_TRAILER = re.compile(rb"(" + _TOKEN + rb"):[ \t]*((?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)[ \t]*")


class FramingError(ValueError):
    """Bytes that are no body of the announced framing."""


class BodyReader(Protocol):
    """Reads one body; `done` once its end has been seen."""

    done: bool

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Take what arrived; return `(payload, rest)`, `rest` being b"" until the body is done. Raises FramingError."""
        ...

    def eof(self) -> None:
        """The peer has closed: ends an until-close body, raises FramingError for any other that is not done."""
        ...


class LengthReader:
    """A body of a known number of bytes."""

    __slots__ = ("done", "left")

    def __init__(self, length: int) -> None:
        self.left = length
        self.done = length == 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        size = len(data)
        left = self.left
        if size < left:
            self.left = left - size
            return data, b""
        self.left = 0
        self.done = True
        if size == left:
            return data, b""
        return data[:left], data[left:]

    def eof(self) -> None:
        if not self.done:
            raise FramingError(f"the connection closed {self.left} bytes before the body's end")


class UntilCloseReader:
    """A body that ends with its connection."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        return data, b""

    def eof(self) -> None:
        self.done = True


class ChunkedReader:
    """A chunked body (RFC 9112 §7.1); `trailers` holds its trailer fields once it is done."""

    __slots__ = ("_buffer", "_extensions", "_left", "_state", "_trailer_bytes", "done", "trailers")

    _SIZE = 0
    _DATA = 1
    _DATA_END = 2
    _TRAILERS = 3

    def __init__(self) -> None:
        self.done = False
        self.trailers: list[tuple[bytes, bytes]] = []
        self._state = self._SIZE
        self._buffer = b""
        self._left = 0
        self._extensions = 0
        self._trailer_bytes = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        pieces: list[bytes] = []
        at, size = 0, len(data)
        while at < size:
            state = self._state
            if state == self._DATA:
                take = min(self._left, size - at)
                pieces.append(data[at : at + take])
                self._left -= take
                at += take
                if not self._left:
                    self._state = self._DATA_END
            elif state == self._DATA_END:
                if size - at < 2:
                    if data[at] != 0x0D:
                        raise FramingError("a chunk does not end in CRLF")
                    break
                if data[at : at + 2] != b"\r\n":
                    raise FramingError("a chunk does not end in CRLF")
                at += 2
                self._state = self._SIZE
            else:
                end = data.find(b"\n", at, at + MAX_CHUNK_LINE + 2)
                if end < 0:
                    if size - at > MAX_CHUNK_LINE:
                        raise FramingError("a line of the chunked framing is too long")
                    self._early(data[at:])
                    break
                if end == at or data[end - 1] != 0x0D:
                    raise FramingError("a line of the chunked framing ends in a bare LF")
                line = data[at : end - 1]
                at = end + 1
                if state == self._SIZE:
                    self._size(line)
                elif not line:
                    self.done = True
                    return b"".join(pieces), data[at:]
                else:
                    self._trailer(line)
        self._buffer = data[at:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), b""

    def eof(self) -> None:
        if not self.done:
            raise FramingError("the connection closed inside a chunked body")

    def _size(self, line: bytes) -> None:
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            raise FramingError("malformed chunk size")
        self._left = int(match[1], 16)
        if self._left > 1 << 62:
            raise FramingError("a chunk is too large")
        if match[2]:
            self._extensions = max(0, self._extensions + len(match[2]) - self._left)
            if self._extensions > MAX_EXTENSIONS:
                raise FramingError("more chunk extensions than payload")
        self._state = self._DATA if self._left else self._TRAILERS

    def _trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line) + 2
        if self._trailer_bytes > MAX_TRAILERS:
            raise FramingError("too many trailers")
        match = _TRAILER.fullmatch(line)
        if match is None:
            raise FramingError("malformed trailer")
        self.trailers.append((match[1], match[2]))

    def _early(self, begun: bytes) -> None:
        """Refuse a line that has begun in a way that no legal line does, without waiting for its end."""
        if begun[-1:] == b"\r":
            begun = begun[:-1]
        if b"\r" in begun or b"\x00" in begun:
            raise FramingError("a bare CR or a NUL in the chunked framing")
        if self._state == self._SIZE and begun:
            digits = begun.split(b";", 1)[0].rstrip(b" \t")
            if len(digits) > 16 or not re.fullmatch(rb"[0-9A-Fa-f]+", digits):
                raise FramingError("malformed chunk size")


def reader(framing: int) -> BodyReader:
    """The reader for a framing of `http1`: a length, `CHUNKED` or `UNTIL_CLOSE`."""
    if framing == CHUNKED:
        return ChunkedReader()
    if framing == UNTIL_CLOSE:
        return UntilCloseReader()
    return LengthReader(framing)


LAST_CHUNK: Final = b"0\r\n\r\n"


def chunk(payload: bytes) -> bytes:
    """`payload` as one chunk; b"" for none (an empty chunk would end the body)."""
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""
