"""Asking an endpoint whether it is well: one GET on a fresh connection, judged by its status.

It is a shell (law 1): what an answer means to the endpoint is `health`'s to decide, when it is asked is `targets`'.
The connection is made as the pool makes its own, TLS included, and never becomes one of the pool's.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from gateway.core.errors import PosternError
from gateway.proxy.http1 import END, BadResponse, parse_response
from gateway.proxy.upstream import MAX_HEAD

if TYPE_CHECKING:
    from gateway.proxy.pool import Pool
    from gateway.snapshot import ActiveHealth


class ProbeError(PosternError):
    """An endpoint did not answer a probe as HTTP/1 wants it."""


def request(path: bytes, host: bytes) -> bytes:
    """A probe's bytes."""
    return (
        b"GET " + path + b" HTTP/1.1\r\nHost: " + host + b"\r\n"
        b"User-Agent: postern-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )


def final_status(data: bytes) -> int | None:
    """The status of the first final response in `data`; None while it is not all there.  Raises `ProbeError`."""
    while True:
        end = data.find(END)
        if end > MAX_HEAD or (end < 0 and len(data) > MAX_HEAD):
            raise ProbeError("its response head is too large")
        if end < 0:
            return None
        try:
            response = parse_response(data[: end + 4], False)
        except BadResponse as error:
            raise ProbeError(f"its response is malformed: {error}") from None
        if response.status >= 200:
            return response.status
        if response.status == 101:
            raise ProbeError("its response is a 101 that nobody asked for")
        data = data[end + 4 :]


class _Answer:
    """The connection of one probe, an `asyncio.Protocol` in all but the base class; `status` is delivered once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, asked: bytes) -> None:
        self.status: asyncio.Future[int] = loop.create_future()
        self._asked = asked
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self._asked)

    def data_received(self, data: bytes) -> None:
        if self.status.done():
            return
        self._data += data
        try:
            status = final_status(self._data)
        except ProbeError as error:
            self.status.set_exception(error)
            return
        if status is not None:
            self.status.set_result(status)

    def eof_received(self) -> bool:
        self._ended("it closed the connection before it answered")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended("it closed the connection before it answered" if exc is None else f"its connection broke: {exc}")

    def pause_writing(self) -> None:
        """A probe is written in one piece: there is nothing to hold back."""

    def resume_writing(self) -> None:
        """See `pause_writing`."""

    def _ended(self, why: str) -> None:
        if not self.status.done():
            self.status.set_exception(ProbeError(why))


async def probe(pool: Pool, host: bytes, health: ActiveHealth) -> str:
    """Ask once.  Returns "" where the endpoint is well, otherwise what is wrong with it."""
    answer = _Answer(asyncio.get_running_loop(), request(health.path, host))
    transport: asyncio.Transport | None = None
    try:
        async with asyncio.timeout(health.timeout / 1e9):
            transport, _ = await pool.dial(lambda: cast(asyncio.Protocol, answer))
            status = await answer.status
    except TimeoutError:
        return f"no answer within {health.timeout / 1e9:g} s"
    except PosternError as error:
        return str(error)
    finally:
        # Given up, or told already: that the connection ends now is no news.
        if not answer.status.cancel() and not answer.status.cancelled():
            answer.status.exception()
        if transport is not None:
            transport.abort()
    if status in health.expect or (not health.expect and status < 400):
        return ""
    return f"it answered {status}"
