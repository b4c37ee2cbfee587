"""A small TCP proxy that breaks what passes through it: it stands between the gateway and an upstream in tests.

`async with Chaos(port) as chaos:` listens on a free port of 127.0.0.1 and forwards to `port`; its methods say what
becomes of the connections that stand and of those to come, until `heal`.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self, cast

from upstream_stub import steps


def _reset(writer: asyncio.StreamWriter) -> None:
    steps.reset(cast(asyncio.Transport, writer.transport))


class Chaos:
    """See the module."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._resets = False
        self._cut_after = -1
        self._rate = 0
        self._delay = 0.0
        self.port = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def heal(self) -> None:
        """Forward again, and what was held up first."""
        self._resets, self._cut_after, self._rate, self._delay = False, -1, 0, 0.0
        self._flows.set()
        await self._listen()

    async def reset(self) -> None:
        """Reset what stands and what comes."""
        self._resets = True
        self._reset_all()

    async def refuse(self) -> None:
        """Reset what stands; nobody listens any more."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._reset_all()

    async def swallow(self) -> None:
        """Take connections and bytes, and pass nothing on: a black hole."""
        self._flows.clear()

    async def cut(self, after: int = 60) -> None:
        """Reset each connection once so many more bytes have come from the upstream."""
        self._cut_after = after

    async def slow(self, rate: int = 20) -> None:
        """Pass on so many bytes a tenth of a second from the upstream."""
        self._rate = rate

    async def delay(self, seconds: float = 0.2) -> None:
        """Hold up everything for so long, each way."""
        self._delay = seconds

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.refuse()
        self._flows.set()

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    def _reset_all(self) -> None:
        for writer in self._writers:
            _reset(writer)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self._resets:
                return
            await self._flows.wait()
            upstream, behind = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(behind)
            try:
                await asyncio.gather(self._pump(reader, behind, False), self._pump(upstream, writer, True))
            finally:
                self._writers.discard(behind)
                _reset(behind)
        except OSError:
            return  # one end has gone: so does the other
        finally:
            self._writers.discard(writer)
            _reset(writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: bool) -> None:
        passed = 0
        while data := await reader.read(self._rate if back and self._rate else 65_536):
            await self._flows.wait()
            if self._delay:
                await asyncio.sleep(self._delay)
            if back and 0 <= self._cut_after <= passed + len(data):
                writer.write(data[: self._cut_after - passed])
                await asyncio.sleep(0.02)
                raise ConnectionResetError
            passed += len(data)
            writer.write(data)
            await writer.drain()
            if back and self._rate:
                await asyncio.sleep(0.1)
        writer.close()
        raise ConnectionResetError
