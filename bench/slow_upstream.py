"""`python -m bench.slow_upstream`: a service of bounded concurrency, as a pool of application workers is.

At most `--concurrency` requests are worked on at once, each for `--seconds`; the others wait in order.  So its
capacity is exactly concurrency ÷ seconds, whatever is asked of it.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import deque
from collections.abc import Sequence
from typing import cast

import uvloop

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nok\n"


class Workers:
    """The queue, and how many are at work."""

    def __init__(self, concurrency: int, seconds: float) -> None:
        self._free = concurrency
        self._seconds = seconds
        self._waiting: deque[_Connection] = deque()

    def asked(self, connection: _Connection) -> None:
        """A request has come."""
        if self._free:
            self._free -= 1
            self._work(connection)
        else:
            self._waiting.append(connection)

    def _work(self, connection: _Connection) -> None:
        asyncio.get_running_loop().call_later(self._seconds, self._done, connection)

    def _done(self, connection: _Connection) -> None:
        connection.answer()
        while self._waiting:
            following = self._waiting.popleft()
            if following.alive:
                self._work(following)
                return
        self._free += 1


class _Connection(asyncio.Protocol):
    """Requests without bodies, one at a time."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self.alive = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if b"\r\n\r\n" in self._buffer:
            self._buffer = b""
            self._workers.asked(self)

    def answer(self) -> None:
        """The work is done."""
        if self._transport is not None and self.alive:
            self._transport.write(_ANSWER)


async def _serve(port: int, workers: Workers) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(workers), "127.0.0.1", port)
    await server.serve_forever()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser(prog="bench.slow_upstream", description="A service of bounded concurrency.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=0.05)
    options = parser.parse_args(arguments)
    uvloop.run(_serve(options.port, Workers(options.concurrency, options.seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
