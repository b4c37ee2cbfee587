"""A server of raw bytes: each request's head is recorded, and a script of the test's own is played as the answer.

For what aiohttp would refuse to say or could not show: `RawServer(lambda request: Script(...))`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import parse_qsl

from upstream_stub.misbehaviours import head, script
from upstream_stub.steps import End, Script, Send, play

_MAX_HEAD = 1 << 20
_ENDLESS = 1 << 62


@dataclass(slots=True)
class RawRequest:
    """One request as it came: `head` ends in the empty line; `body` holds what has arrived of it so far."""

    head: bytes
    body: bytearray = field(default_factory=bytearray)
    connection: int = 0

    @property
    def method(self) -> str:
        """The method as sent."""
        return self.head.split(b" ", 1)[0].decode("latin-1")

    @property
    def target(self) -> str:
        """The request target as sent."""
        return self.head.split(b"\r\n", 1)[0].split(b" ")[1].decode("latin-1")

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The header lines in order, names as sent, values stripped."""
        lines = self.head.split(b"\r\n")[1:-2]
        pairs = (line.decode("latin-1").partition(":") for line in lines)
        return [(name, value.strip()) for name, _, value in pairs]

    def header(self, name: str) -> str | None:
        """The first header of this name, or None."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


Scripted = Callable[[RawRequest], Script]


def by_query(request: RawRequest) -> Script:
    """The default: `/misbehave/{name}?…` as on the LMS's own port; anything else is answered 200 `ok`."""
    path, _, query = request.target.partition("?")
    _, _, name = path.partition("/misbehave/")
    if not name:
        return Script([Send(head(200, "Content-Length: 2") + b"ok")], End.KEEP)
    try:
        return script(name, dict(parse_qsl(query)))
    except ValueError as error:
        text = str(error).encode()
        return Script([Send(head(400, f"Content-Length: {len(text)}") + text)])


def chunked_size(data: bytes | bytearray) -> int:
    """How many bytes a complete chunked body at the start of `data` takes, trailers included; 0 while it is incomplete.

    Raises ValueError where a chunk's size is no hexadecimal number.
    """
    at = 0
    while (line := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:line].split(b";")[0], 16)
        if not size:
            # The last chunk's own line may be followed by trailers; an empty line ends them.
            end = data.find(b"\r\n\r\n", line)
            return end + 4 if end >= 0 else 0
        at = line + 2 + size + 2
    return 0


class _Connection(asyncio.Protocol):
    """Cuts heads and sized or chunked bodies well enough for tests, one request at a time."""

    def __init__(self, server: RawServer, number: int) -> None:
        self._server = server
        self._number = number
        self._buffer = bytearray()
        self._request: RawRequest | None = None
        self._left: int | None = 0
        self._playing = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.open.add(self._transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._server.open.discard(self._transport)
        self._transport = None

    def _advance(self) -> None:
        self._take_body()
        while not self._playing and self._body_complete():
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > _MAX_HEAD and self._transport is not None:
                    self._transport.abort()
                return
            request = RawRequest(bytes(self._buffer[: end + 4]), connection=self._number)
            del self._buffer[: end + 4]
            self._request = request
            coding = (request.header("transfer-encoding") or "").lower()
            # None: the body lasts until the chunk of length 0.
            self._left = None if coding == "chunked" else int(request.header("content-length") or 0)
            if request.header("upgrade") is not None:
                self._left = _ENDLESS  # what follows a handshake is no request
            self._take_body()
            self._server.requests.append(request)
            self._playing = True
            self._server.spawn(self._play(request))

    def _take_body(self) -> None:
        if self._request is None or self._left == 0:
            return
        if self._left is not None:
            size = min(self._left, len(self._buffer))
            self._left -= size
        elif size := chunked_size(self._buffer):
            self._left = 0
        self._request.body += self._buffer[:size]
        del self._buffer[:size]

    def _body_complete(self) -> bool:
        return self._left == 0

    async def _play(self, request: RawRequest) -> None:
        if self._transport is not None:
            await play(self._server.scripted(request), self._transport)
        self._playing = False
        if self._transport is not None and not self._transport.is_closing():
            self._advance()


class RawServer:
    """`async with RawServer(scripted) as server:` listens on a free port of `host`, or on a Unix socket.

    `requests` are those that came, in order; `port` is where it listens; `connections` counts accepted ones.
    The script is played as soon as the head is there; bodies go on arriving into `RawRequest.body`
    (chunked ones with their framing, once they are complete).
    """

    def __init__(
        self, scripted: Scripted = by_query, *, port: int = 0, path: str | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.scripted = scripted
        self.requests: list[RawRequest] = []
        self.connections = 0
        self.open: set[asyncio.Transport] = set()
        self.port = port
        self.path = path
        self.host = host
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The server's URL: `http://HOST:PORT` or `unix://PATH`."""
        return f"unix://{self.path}" if self.path else f"http://{self.host}:{self.port}"

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something that ends with the server at the latest."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _connect(self) -> _Connection:
        self.connections += 1
        return _Connection(self, self.connections)

    async def start(self) -> Self:
        """Listen; returns itself."""
        loop = asyncio.get_running_loop()
        if self.path:
            self._server = await loop.create_unix_server(self._connect, self.path)
        else:
            self._server = await loop.create_server(self._connect, self.host, self.port)
            self.port = self._server.sockets[0].getsockname()[1]
        return self

    def close_listener(self) -> None:
        """Stop listening; connections that stand go on."""
        if self._server is not None:
            self._server.close()

    async def stop(self) -> None:
        """Stop listening and drop every connection."""
        self.close_listener()
        for transport in list(self.open):
            transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
