"""The stub LMS inside a test: `async with running_lms() as lms:` serves on a free port of 127.0.0.1."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import ClientSession, DummyCookieJar, web

from upstream_stub.app import build_runner


@dataclass(frozen=True, slots=True)
class Lms:
    """A running stub: its port, and an aiohttp session that carries no cookies of its own accord."""

    port: int
    session: ClientSession

    def url(self, path: str) -> str:
        """The URL of a path."""
        return f"http://127.0.0.1:{self.port}{path}"

    async def raw(self, target: str, *, method: str = "GET", until: bytes | None = None, patience: float = 5) -> bytes:
        """Every byte that the server says to one request: to the end of the connection, or as far as `until`.

        Raises TimeoutError after `patience` seconds.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"{method} {target} HTTP/1.1\r\nHost: lms\r\n\r\n".encode())
        try:
            async with asyncio.timeout(patience):
                return await (reader.read() if until is None else reader.readuntil(until))
        finally:
            writer.close()


@asynccontextmanager
async def running_lms() -> AsyncIterator[Lms]:
    """Start a fresh stub LMS and stop it afterwards."""
    runner = build_runner()
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with ClientSession(cookie_jar=DummyCookieJar()) as session:
            yield Lms(runner.addresses[0][1], session)
    finally:
        await runner.cleanup()
