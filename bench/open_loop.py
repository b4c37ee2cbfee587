"""A load generator of constant rate that does not wait for answers (an open loop).

Requests are due at fixed instants, whether or not earlier ones have been answered; a latency counts from
the instant when its request was due, so a stall is felt by every request that it delayed (no coordinated
omission).  How late the generator itself was is reported beside: where that is not small, distrust the run.
Ticks come from a timerfd, because event loops wait in whole milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import json
import os
import re
import sys
import time
from array import array
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOCK_MONOTONIC = 1
_NON_BLOCKING = 0o4000
_LEAST_TICK_NS = 100_000


class _Spec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


def timer(period_ns: int) -> int:
    """A timerfd that becomes readable every so many nanoseconds; close it after use.  Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor: int = libc.timerfd_create(_CLOCK_MONOTONIC, _NON_BLOCKING)
    spec = _Spec(*divmod(period_ns, 10**9), *divmod(period_ns, 10**9))
    if descriptor < 0 or libc.timerfd_settime(descriptor, 0, ctypes.byref(spec), None) < 0:
        raise OSError(ctypes.get_errno(), "timerfd")
    return descriptor


class _Connection(asyncio.Protocol):
    """One request at a time; answers must say their length."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._buffer = b""
        self._due = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, data: bytes, due: int) -> None:
        """Send a request that was due at an instant (monotonic nanoseconds)."""
        self._due = due
        if self._transport is None:
            self._generator.broken += 1
        else:
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        end = data.find(b"\r\n\r\n")
        found = _LENGTH.search(data, 0, end + 2) if end > 0 else None
        if found is None or len(data) < end + 4 + int(found[1]):
            self._buffer = data
            return
        self._buffer = b""
        self._generator.answered(self, data.startswith(b"HTTP/1.1 200"), self._due)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._generator.lost()


class Generator:
    """Sends `rate` requests a second over `connections` for `seconds`, the first `warm_up` of which do not count."""

    def __init__(
        self, requests: Sequence[bytes], rate: float, seconds: float, warm_up: float, connections: int
    ) -> None:
        self._requests = requests
        self._interval = 10**9 / rate
        self._seconds = seconds
        self._warm_up = warm_up
        self._connections = connections
        self._idle: deque[_Connection] = deque()
        self._waiting: deque[int] = deque()
        self._latencies = array("q")
        self._lateness = array("q")
        self._number = 0
        self._due = 0.0
        self._counted_from = 0
        self._end = 0
        self._ending = False
        self._finished = asyncio.Event()
        self.broken = 0
        self.refused = 0

    def answered(self, connection: _Connection, good: bool, due: int) -> None:
        """A complete answer has come for the request that was due then."""
        if due >= self._counted_from:
            self._latencies.append(time.monotonic_ns() - due)
            self.refused += not good
        if self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def lost(self) -> None:
        """A connection has ended: before the end of the run that is a fault."""
        if not self._ending:
            self.broken += 1

    def _send(self, connection: _Connection, due: int) -> None:
        self._number += 1
        connection.send(self._requests[self._number % len(self._requests)], due)

    def _tick(self, descriptor: int) -> None:
        os.read(descriptor, 8)
        now = time.monotonic_ns()
        if now >= self._end:
            self._finished.set()
            return
        while self._due <= now:
            due = int(self._due)
            self._due += self._interval
            if due >= self._counted_from:
                self._lateness.append(now - due)
            if self._idle:
                self._send(self._idle.popleft(), due)
            else:
                self._waiting.append(due)

    async def run(self, port: int) -> dict[str, float]:
        """Run against a port of 127.0.0.1; returns percentiles in microseconds and counts."""
        loop = asyncio.get_running_loop()
        opened = [
            await loop.create_connection(lambda: _Connection(self), "127.0.0.1", port) for _ in range(self._connections)
        ]
        self._idle.extend(connection for _, connection in opened)
        start = time.monotonic_ns()
        self._due = float(start)
        self._counted_from = start + int(self._warm_up * 1e9)
        self._end = self._counted_from + int(self._seconds * 1e9)
        descriptor = timer(max(_LEAST_TICK_NS, int(self._interval)))
        loop.add_reader(descriptor, self._tick, descriptor)
        await self._finished.wait()
        loop.remove_reader(descriptor)
        os.close(descriptor)
        answered, unsent = len(self._latencies), len(self._waiting)
        self._ending = True
        for transport, _ in opened:
            transport.close()
        return {
            "rate": 1e9 / self._interval,
            "answered_a_second": answered / self._seconds,
            "p50_us": percentile(self._latencies, 50),
            "p99_us": percentile(self._latencies, 99),
            "p999_us": percentile(self._latencies, 99.9),
            "max_us": percentile(self._latencies, 100),
            "generator_late_p50_us": percentile(self._lateness, 50),
            "generator_late_p99_us": percentile(self._lateness, 99),
            "unsent": unsent,
            "refused": self.refused,
            "broken": self.broken,
        }


def percentile(nanoseconds: Sequence[int], percent: float) -> float:
    """The smallest value that so many per cent do not exceed, in microseconds; 0 of nothing."""
    if not nanoseconds:
        return 0.0
    ordered = sorted(nanoseconds)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1] / 1000


async def _main(options: argparse.Namespace, tokens: Sequence[str]) -> dict[str, float]:
    head = f"GET {options.path} HTTP/1.1\r\nHost: 127.0.0.1:{options.port}\r\nAuthorization: Bearer "
    requests = [f"{head}{token}\r\n\r\n".encode() for token in tokens]
    generator = Generator(requests, options.rate, options.seconds, options.warm_up, options.connections)
    gc.collect()
    gc.disable()
    return await generator.run(options.port)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m bench.open_loop --port P --rate R …`: prints one JSON object."""
    parser = argparse.ArgumentParser(prog="bench.open_loop", description="Load of constant rate.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    parser.add_argument("--keys", required=True, help="file of tokens, one a line")
    parser.add_argument("--path", required=True)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--warm-up", type=float, default=1)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args(arguments)
    print(json.dumps(uvloop.run(_main(options, Path(options.keys).read_text().split()))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
