"""A small HTTP/1.1 client that does what well- and ill-behaved clients do, and judges what it is told.

It says the bytes it is given, reads answers by their framing, and raises `Unexpected` for whatever is not as it
should be.  Kept connections are shared; one that the gateway closed while it was idle is replaced.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections import deque
from dataclasses import dataclass
from typing import Self

_RESET = struct.pack("ii", 1, 0)


class Unexpected(Exception):
    """What came is not what should have come."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: header names in lower case, the body unframed."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """A connection that says bytes and reads answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.served = 0

    @classmethod
    async def open(cls, port: int, limit: int = 1 << 16) -> Self:
        """Connect; `limit` is what the reader holds before it reads no more, twice over."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=limit))

    @property
    def usable(self) -> bool:
        """False once the other side has closed it."""
        return not self.reader.at_eof() and not self.writer.is_closing()

    async def head(self) -> Answer:
        """The next head alone."""
        raw = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = raw[:-4].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return Answer(int(first.split(" ", 2)[1]), headers, b"")

    async def answer(self, method: str = "GET") -> Answer:
        """The next answer with its body (RFC 9112 §6.3)."""
        head = await self.head()
        if method == "HEAD" or head.status < 200 or head.status in (204, 304):
            body = b""
        elif head.headers.get("transfer-encoding") == "chunked":
            body = await self._chunks()
        elif "content-length" in head.headers:
            body = await self.reader.readexactly(int(head.headers["content-length"]))
        else:
            body = await self.reader.read()
        self.served += 1
        return Answer(head.status, head.headers, body)

    async def _chunks(self) -> bytes:
        body = bytearray()
        while size := int((await self.reader.readuntil(b"\r\n"))[:-2], 16):
            body += await self.reader.readexactly(size)
            await self.reader.readexactly(2)
        await self.reader.readuntil(b"\r\n")
        return bytes(body)

    async def ask(self, data: bytes, method: str = "GET") -> Answer:
        """Say something and read one answer."""
        self.writer.write(data)
        return await self.answer(method)

    def close(self) -> None:
        """Leave in an orderly way."""
        self.writer.close()

    def vanish(self) -> None:
        """Leave with a reset."""
        opened = self.writer.get_extra_info("socket")
        if opened is not None and not self.writer.is_closing():
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.writer.transport.abort()


class Kept:
    """Connections that are kept between requests."""

    def __init__(self, port: int, most: int = 64) -> None:
        self._port = port
        self._most = most
        self._idle: deque[Connection] = deque()

    async def ask(self, data: bytes, method: str = "GET") -> Answer:
        """One request on a kept connection; sent again on a fresh one where the kept one closes before it answers."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.usable:
                connection.close()
                continue
            try:
                answer = await connection.ask(data, method)
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                connection.close()
                if isinstance(error, asyncio.IncompleteReadError) and error.partial:
                    raise
                break
            self._keep(connection, answer)
            return answer
        connection = await Connection.open(self._port)
        answer = await connection.ask(data, method)
        self._keep(connection, answer)
        return answer

    def _keep(self, connection: Connection, answer: Answer) -> None:
        if answer.headers.get("connection", "").lower() != "close" and len(self._idle) < self._most:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close them all."""
        while self._idle:
            self._idle.pop().close()


def request(method: str, target: str, *lines: str, body: bytes = b"") -> bytes:
    """A request's bytes; with a body its Content-Length is added."""
    fields = ["Host: lms.example.org", *lines]
    if body:
        fields.append(f"Content-Length: {len(body)}")
    return "\r\n".join([f"{method} {target} HTTP/1.1", *fields, "", ""]).encode("latin-1") + body


def chunked(body: bytes, size: int) -> bytes:
    """A chunked body in pieces of `size`."""
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def frame(opcode: int, payload: bytes) -> bytes:
    """One masked WebSocket frame (RFC 6455 §5.2)."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    mask = os.urandom(4)
    long = (mask * (size // 4 + 1))[:size]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(long, "big")).to_bytes(size, "big")
    return head + mask + masked


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """`(opcode, payload)` of one unmasked frame."""
    first, size = await reader.readexactly(2)
    if size == 126:
        (size,) = struct.unpack("!H", await reader.readexactly(2))
    elif size == 127:
        (size,) = struct.unpack("!Q", await reader.readexactly(8))
    return first & 15, await reader.readexactly(size)
