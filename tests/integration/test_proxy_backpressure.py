"""Large bodies stream: whoever is slow, the gateway holds little, and slow readers get everything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.proxy import downstream
from tests.integration.gateways import MINUTE, eventually, get, request, routed, running_gateway
from tests.integration.programs import Program, running_program
from upstream_stub.misbehaviours import head

MEBIBYTE = 1 << 20
SIZE = 256 * MEBIBYTE
#: An upstream may take its time.
LONG = "read_timeout: 10m\nwrite_timeout: 10m"
PIECE = bytes(range(256)) * 256

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[str]:
    """The URL of an upstream that handles each connection so."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the gateway went away: the test sees what it sees
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, limit=MEBIBYTE)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def write(writer: asyncio.StreamWriter, size: int, *, chunked: bool = False) -> None:
    """`size` bytes, as fast as they are taken."""
    for _ in range(size // len(PIECE)):
        writer.write(b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if chunked else PIECE)
        await writer.drain()
    if chunked:
        writer.write(b"0\r\n\r\n")
        await writer.drain()


async def read(reader: asyncio.StreamReader, size: int) -> int:
    """Read so many bytes; returns how many were as written."""
    at = 0
    while at < size and (data := await reader.read(MEBIBYTE)):
        begin = at % 256
        assert data[:512] == (PIECE * 2)[begin : begin + len(data[:512])]
        at += len(data)
    return at


class Peak:
    """The most memory that a program held while it was watched, beyond what it held before, in bytes."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._before = program.memory()
        self.most = 0
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            self.most = max(self.most, self._program.memory() - self._before)
            await asyncio.sleep(0.01)

    def stop(self) -> int:
        """End; returns the peak."""
        self._task.cancel()
        return self.most


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("slow", ["client", "nobody"])
async def test_a_large_download_is_not_held(tmp_path: Path, slow: str, chunked: bool) -> None:
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {SIZE}"

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head(200, framing))
        await write(writer, SIZE, chunked=chunked)

    async with served(upstream) as url, running_program(tmp_path, routed(url)) as program:
        client = await program.connect(limit=MEBIBYTE)
        peak = Peak(program)
        client.send(get("/"))
        await client.head()
        if slow == "client":
            await asyncio.sleep(1)
        if chunked:
            total = 0
            while size := int((await client.reader.readuntil(b"\r\n"))[:-2], 16):
                assert len(await client.reader.readexactly(size + 2)) == size + 2
                total += size
            assert total == SIZE
        else:
            assert await read(client.reader, SIZE) == SIZE
        assert peak.stop() < 32 * MEBIBYTE


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("slow", ["upstream", "nobody"])
async def test_a_large_upload_is_not_held(tmp_path: Path, slow: str, chunked: bool) -> None:
    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if slow == "upstream":
            await asyncio.sleep(1)
        total = 0
        if chunked:
            while size := int((await reader.readuntil(b"\r\n"))[:-2], 16):
                total += len(await reader.readexactly(size + 2)) - 2
            await reader.readexactly(2)
        else:
            total = await read(reader, SIZE)
        body = str(total).encode()
        writer.write(head(200, f"Content-Length: {len(body)}") + body)

    async with served(upstream) as url, running_program(tmp_path, routed(url)) as program:
        client = await program.connect()
        peak = Peak(program)
        client.send(request("PUT", "/", "Transfer-Encoding: chunked" if chunked else f"Content-Length: {SIZE}"))
        await write(client.writer, SIZE, chunked=chunked)
        assert (await client.response()).body == str(SIZE).encode()
        assert peak.stop() < 32 * MEBIBYTE


async def test_both_directions_at_once() -> None:
    """An upstream that echoes while it reads: neither side waits for the other to end."""
    size = 16 * MEBIBYTE

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head(200, f"Content-Length: {size}"))
        for _ in range(size // 65536):
            writer.write(await reader.readexactly(65536))
            await writer.drain()

    async with served(echo) as url, running_gateway(routed(url)) as gateway, await gateway.connect() as client:
        client.send(request("POST", "/", f"Content-Length: {size}"))
        writing = asyncio.create_task(write(client.writer, size))
        await client.head()
        assert await read(client.reader, size) == size
        await writing


async def test_a_client_whose_body_nobody_reads_is_not_called_slow_once_it_reads_on() -> None:
    """An upstream that answers before it reads: that the client's body stands still is not the client's doing."""
    size = 8 * MEBIBYTE
    goes_on = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head(200, f"Content-Length: {size + len(PIECE)}"))
        await write(writer, size)
        await goes_on.wait()
        await write(writer, len(PIECE))
        await read(reader, size * 4)

    async with (
        served(answer) as url,
        running_gateway(routed(url, service=LONG, limits="{body_timeout: 1m}")) as gateway,
        await gateway.connect(limit=1024) as client,
    ):
        client.send(request("POST", "/", f"Content-Length: {size * 4}"))
        writing = asyncio.create_task(write(client.writer, size * 4))
        await eventually(lambda: any(connection.blocked() for connection in gateway.plane.downstreams))
        await client.head()
        assert await read(client.reader, size) == size
        await eventually(lambda: not any(connection.blocked() for connection in gateway.plane.downstreams))
        gateway.deadlines(time.monotonic_ns() + MINUTE)
        goes_on.set()
        assert await read(client.reader, len(PIECE)) == len(PIECE)
        writing.cancel()


async def test_a_client_that_resets_while_nobody_reads_its_body_frees_the_upstream() -> None:
    seen = asyncio.Event()

    async def unread(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await seen.wait()

    async with served(unread) as url, running_gateway(routed(url)) as gateway, await gateway.connect() as client:
        client.send(request("POST", "/", f"Content-Length: {SIZE}") + bytes(SIZE // 8))
        await eventually(lambda: any(connection.paused for connection in gateway.plane.downstreams))
        client.reset()
        assert [record.status for record in await gateway.recorded(1)] == [499]
        assert gateway.plane.counts()["upstream", "active"] == 0
        seen.set()


async def test_a_reader_slower_than_the_patience_of_a_close_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written before the close goes out as long as the client takes some of it."""
    monkeypatch.setattr(downstream, "CLOSE_PATIENCE", 500_000_000)
    monkeypatch.setattr(downstream, "LINGER", 500_000_000)
    size = 16 * MEBIBYTE

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head(200, f"Content-Length: {size}"))
        await write(writer, size)

    async with (
        served(upstream) as url,
        running_gateway(routed(url)) as gateway,
        await gateway.connect(limit=65536) as client,
    ):
        client.send(get("/", "Connection: close"))
        await client.head()
        got = 0
        while got < size:
            # The last of it, too, is taken slowly.
            if size - got < 4 * MEBIBYTE:
                await asyncio.sleep(0.05)
            piece = await client.reader.read(65536)
            assert piece
            got += len(piece)
        assert await client.ended() == "closed"


async def test_a_reader_that_stops_is_cut() -> None:
    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head(200, f"Content-Length: {SIZE}"))
        await write(writer, SIZE)

    async with (
        served(upstream) as url,
        running_gateway(routed(url, limits="{body_timeout: 500ms}")) as gateway,
        await gateway.connect() as client,
    ):
        client.send(get("/"))
        await client.head()
        (record,) = await gateway.recorded(1)
        assert (record.decision, record.reason) == ("failed", "cut")
        with pytest.raises(ConnectionResetError):
            await read(client.reader, SIZE)


async def test_a_blocked_download_does_not_time_its_upstream_out() -> None:
    size = 16 * MEBIBYTE

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head(200, f"Content-Length: {size}"))
        await write(writer, size)

    async with (
        served(upstream) as url,
        running_gateway(routed(url, service="read_timeout: 1m", limits="{body_timeout: 1h}")) as gateway,
        await gateway.connect() as client,
    ):
        client.send(get("/"))
        await client.head()
        await eventually(lambda: any(connection.blocked() for connection in gateway.plane.downstreams))
        gateway.deadlines(time.monotonic_ns() + MINUTE)
        assert await read(client.reader, size) == size
