"""A flood: an open loop in phases of constant rate, over thousands of kept connections or a fresh one a request.

Requests are due at fixed instants; a latency counts from then.  A request that finds every connection busy is not
queued here but *held back* and counted as that: its client went elsewhere, so what is measured is the gateway's
queue, not ours.  Plain non-blocking sockets on epoll, because an event loop would cost as much as the gateway.
How late the generator itself was stands beside the results: where that is not small, distrust the run.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import re
import select
import socket
import struct
import sys
import time
from array import array
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.open_loop import timer
from bench.processes import raise_descriptors

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *\d", re.IGNORECASE)
_RESET = struct.pack("ii", 1, 0)
_BIND_NO_PORT = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)
_LEAST_TICK_NS = 200_000
#: Connections from one source address, well below the number of its ports.
_AN_ADDRESS = 10_000
_SAMPLES = 3


@dataclass(frozen=True, slots=True)
class Phase:
    """So many requests a second for so many seconds."""

    rate: float
    seconds: float


@dataclass
class Tally:
    """What happened: one entry of each array an answered request, in the order of the answers.

    `latency` counts from when the request was due, `accepted` from when it had a connection to go on.
    """

    due: array[int] = field(default_factory=lambda: array("q"))
    latency: array[int] = field(default_factory=lambda: array("q"))
    accepted: array[int] = field(default_factory=lambda: array("q"))
    status: array[int] = field(default_factory=lambda: array("h"))
    held: array[int] = field(default_factory=lambda: array("q"))
    late: array[int] = field(default_factory=lambda: array("q"))
    begins: list[int] = field(default_factory=list)
    broken: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    reconnected: int = 0
    #: 503s without `Retry-After` or without the contract's text, and the first few of them.
    malformed: int = 0
    samples: list[str] = field(default_factory=list)


class _Client:
    """A connection with at most one request on its way."""

    __slots__ = ("buffer", "connected", "connecting", "due", "request", "socket")

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened
        self.buffer = b""
        self.due = 0
        #: What is still to be sent once it is connected.
        self.request = b""
        self.connecting = False
        #: When its request had a connection.
        self.connected = 0


class Flood:
    """`run` drives phases of requests against a port of 127.0.0.1; `tally` holds what came of them."""

    def __init__(
        self, port: int, requests: Sequence[bytes], connections: int, *, fresh: bool = False, patience: float = 5
    ) -> None:
        """`fresh`: a connection for each request, at most `connections` at once; `patience`: seconds for the last."""
        self._port = port
        self._requests = requests
        self._most = connections
        self._fresh = fresh
        self._patience = patience
        self._epoll = select.epoll()
        self._clients: dict[int, _Client] = {}
        self._idle: deque[_Client] = deque()
        self._number = 0
        self._opened = 0
        self._ending = False
        self.tally = Tally()

    # ── connections ──────────────────────────────────────────────────────────────────────────

    def _open(self, blocking: bool) -> _Client:
        opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setsockopt(socket.IPPROTO_IP, _BIND_NO_PORT, 1)
        self._opened += 1
        most = max(1, self._most // _AN_ADDRESS + 1) if not self._fresh else 50
        opened.bind((f"127.0.0.{2 + self._opened % most}", 0))
        opened.setblocking(blocking)
        if blocking:
            opened.connect(("127.0.0.1", self._port))
            opened.setblocking(False)
        else:
            opened.connect_ex(("127.0.0.1", self._port))
        client = _Client(opened)
        self._clients[opened.fileno()] = client
        return client

    def _drop(self, client: _Client) -> None:
        self._clients.pop(client.socket.fileno(), None)
        client.socket.close()

    def connect(self) -> None:
        """Open the kept connections.  Raises OSError."""
        for _ in range(0 if self._fresh else self._most):
            client = self._open(blocking=True)
            self._epoll.register(client.socket.fileno(), select.EPOLLIN)
            self._idle.append(client)

    # ── requests ─────────────────────────────────────────────────────────────────────────────

    def _start(self, due: int) -> None:
        self._number += 1
        request = self._requests[self._number % len(self._requests)]
        if self._fresh:
            if len(self._clients) >= self._most:
                self.tally.held.append(due)
                return
            client = self._open(blocking=False)
            client.due = client.connected = due
            try:
                # On loopback the handshake is mostly over by now.
                client.socket.send(request)
            except OSError:
                client.request = request
                client.connecting = True
                self._epoll.register(client.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)
            else:
                self._epoll.register(client.socket.fileno(), select.EPOLLIN)
        elif self._idle:
            client = self._idle.popleft()
            client.due = client.connected = due
            try:
                client.socket.send(request)
            except OSError as error:
                self._broke(client, type(error).__name__)
        else:
            self.tally.held.append(due)

    def _broke(self, client: _Client, why: str) -> None:
        if client.due:
            self.tally.broken[why] += 1
        self._drop(client)
        if not self._fresh and not self._ending:
            self.tally.reconnected += 1
            with contextlib.suppress(ValueError):
                self._idle.remove(client)
            other = self._open(blocking=False)
            other.connecting = True
            self._epoll.register(other.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _ready(self, client: _Client, events: int) -> None:
        if client.connecting and events & select.EPOLLOUT:
            client.connecting = False
            try:
                if client.request:
                    client.connected = time.monotonic_ns()
                    client.socket.send(client.request)
                self._epoll.modify(client.socket.fileno(), select.EPOLLIN)
            except OSError as error:
                self._broke(client, type(error).__name__)
                return
            if not client.request:
                self._idle.append(client)
            return
        try:
            data = client.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self._broke(client, type(error).__name__)
            return
        if not data:
            self._broke(client, "closed without an answer")
            return
        if client.buffer:
            data = client.buffer + data
        end = data.find(b"\r\n\r\n")
        found = _LENGTH.search(data, 0, end + 2) if end > 0 else None
        if found is None or len(data) < end + 4 + int(found[1]):
            client.buffer = data
            return
        client.buffer = b""
        self._answered(client, data, end)

    def _answered(self, client: _Client, data: bytes, end: int) -> None:
        tally = self.tally
        status = int(data[9:12])
        tally.due.append(client.due)
        now = time.monotonic_ns()
        tally.latency.append(now - client.due)
        tally.accepted.append(now - client.connected)
        tally.status.append(status)
        if status == 503 and (
            _RETRY_AFTER.search(data, 0, end + 2) is None
            or (b"Service overloaded" not in data and b"currently unavailable" not in data)
        ):
            tally.malformed += 1
            if len(tally.samples) < _SAMPLES:
                tally.samples.append(data.decode("latin-1"))
        client.due = 0
        if self._fresh:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._drop(client)
        elif b"\r\nConnection: close" in data[: end + 2]:
            self._broke(client, "")
        else:
            self._idle.append(client)

    # ── the run ──────────────────────────────────────────────────────────────────────────────

    def run(self, phases: Sequence[Phase]) -> Tally:
        """Drive the phases one after the other without a gap; ends once all is answered, or patience is over."""
        self.connect()
        tally = self.tally
        fastest = max(phase.rate for phase in phases)
        descriptor = timer(max(_LEAST_TICK_NS, int(1e9 / fastest)))
        self._epoll.register(descriptor, select.EPOLLIN)
        due = time.monotonic_ns() + 1_000_000
        for phase in phases:
            tally.begins.append(due)
            end = due + int(phase.seconds * 1e9)
            interval, exact = 1e9 / phase.rate, float(due)
            while due < end:
                for fd, events in self._epoll.poll():
                    client = self._clients.get(fd)
                    if client is not None:
                        self._ready(client, events)
                    elif fd == descriptor:
                        os.read(fd, 8)
                now = time.monotonic_ns()
                while due <= now and due < end:
                    tally.late.append(now - due)
                    self._start(due)
                    exact += interval
                    due = int(exact)
            due = end
        tally.begins.append(due)
        os.close(descriptor)
        self._wind_up()
        return tally

    def _wind_up(self) -> None:
        self._ending = True
        until = time.monotonic() + self._patience
        while any(client.due for client in self._clients.values()) and (left := until - time.monotonic()) > 0:
            for fd, events in self._epoll.poll(min(left, 0.1)):
                client = self._clients.get(fd)
                if client is not None:
                    self._ready(client, events)
        self.tally.unanswered = sum(1 for client in self._clients.values() if client.due)
        for client in list(self._clients.values()):
            self._drop(client)
        self._epoll.close()


def requests_of(port: int, path: str, tokens: Sequence[str], lines: Sequence[str]) -> list[bytes]:
    """A GET for each token, with further header lines."""
    extra = "".join(f"{line}\r\n" for line in lines)
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{extra}"
    return [f"{head}Authorization: Bearer {token}\r\n\r\n".encode() for token in tokens]


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m bench.flood --port P --phase RATE:SECONDS …`: prints the tally's digest as one JSON object."""
    parser = argparse.ArgumentParser(prog="bench.flood", description="An open loop in phases.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--phase", action="append", required=True, metavar="RATE:SECONDS")
    parser.add_argument("--keys", required=True, help="file of tokens, one a line")
    parser.add_argument("--path", required=True)
    parser.add_argument("--header", action="append", default=[], metavar="NAME: VALUE")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--fresh", action="store_true", help="a connection for each request")
    parser.add_argument("--patience", type=float, default=5)
    options = parser.parse_args(arguments)
    from bench.flood_report import digest

    raise_descriptors()
    phases = [Phase(*map(float, text.split(":"))) for text in options.phase]
    lines = [*options.header, *(["Connection: close"] if options.fresh else [])]
    requests = requests_of(options.port, options.path, Path(options.keys).read_text().split(), lines)
    flood = Flood(options.port, requests, options.connections, fresh=options.fresh, patience=options.patience)
    gc.collect()
    gc.disable()
    print(json.dumps(digest(flood.run(phases), phases)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
