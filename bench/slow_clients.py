"""`python -m bench.slow_clients`: thousands of clients that take their time, and when each was dropped.

`headers` and `body` are sent a byte a second, `read` takes a byte a second of a large response, `silent` connects
and says nothing.  Prints `ready` once all are connected, and one JSON object once all are gone or `--seconds` are
over.  One epoll loop; the bytes of a second are spread over it, so that the crowd costs the machine little.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bench.processes import raise_descriptors

KINDS = ("headers", "body", "read", "silent")
#: The parts into which a second is cut; a client's turn comes in one of them.
_SLOTS = 50
_AN_ADDRESS = 500
_RECEIVE_BUFFER = 4096
_PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Targets:
    """What the clients ask for: a route that takes bodies and one with a large response, and a key's token."""

    upload: str
    download: str
    token: str

    def opening(self, kind: str) -> bytes:
        """What a client says at once."""
        lines = "Host: 127.0.0.1\r\n"
        key = f"Authorization: Bearer {self.token}\r\n"
        if kind == "headers":
            return f"GET {self.download} HTTP/1.1\r\n{lines}X-Slow: ".encode()
        if kind == "body":
            return f"POST {self.upload} HTTP/1.1\r\n{lines}{key}Content-Length: 1000000\r\n\r\n".encode()
        if kind == "read":
            return f"GET {self.download} HTTP/1.1\r\n{lines}{key}\r\n".encode()
        return b""


class Slow:
    """One client."""

    __slots__ = ("began", "ended", "first", "socket")

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened
        self.began = time.monotonic()
        #: When it was dropped, 0 while it lives.
        self.ended = 0.0
        #: The first line that it was told, as far as it has read.
        self.first = b""


class Crowd:
    """`number` clients of one kind against a port of 127.0.0.1."""

    def __init__(self, port: int, kind: str, number: int, targets: Targets) -> None:
        self._port = port
        self._kind = kind
        self._number = number
        self._opening = targets.opening(kind)
        self._epoll = select.epoll()
        self._by_fd: dict[int, Slow] = {}
        self.clients: list[Slow] = []
        self.failed = 0

    def gather(self, seconds: float) -> None:
        """Connect them all, spread over so many seconds."""
        began = time.monotonic()
        for number in range(self._number):
            opened = socket.socket()
            if self._kind == "read":
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            opened.settimeout(_PATIENCE)
            try:
                opened.bind((f"127.0.1.{1 + number // _AN_ADDRESS}", 0))
                opened.connect(("127.0.0.1", self._port))
                opened.sendall(self._opening)
            except OSError:
                self.failed += 1
                opened.close()
                continue
            opened.setblocking(False)
            client = Slow(opened)
            self.clients.append(client)
            self._by_fd[opened.fileno()] = client
            # Who reads slowly hears only that its connection has been reset.
            self._epoll.register(opened.fileno(), 0 if self._kind == "read" else select.EPOLLIN)
            while time.monotonic() - began < seconds * number / self._number:
                self._listen(0.001)

    def run(self, seconds: float) -> None:
        """Take their time until all are dropped, for so many seconds at the most."""
        began, turn = time.monotonic(), 0
        while self._by_fd and time.monotonic() - began < seconds:
            for client in self.clients[turn % _SLOTS :: _SLOTS]:
                if not client.ended:
                    self._dawdle(client)
            turn += 1
            while (left := began + turn / _SLOTS - time.monotonic()) > 0:
                self._listen(left)

    def _dawdle(self, client: Slow) -> None:
        if self._kind == "silent":
            return
        try:
            if self._kind == "read":
                read = client.socket.recv(1)
                if not read:
                    self._dropped(client)
                elif len(client.first) < 16:
                    client.first += read
            else:
                client.socket.send(b"x")
        except BlockingIOError:
            return
        except OSError:
            self._dropped(client)

    def _listen(self, seconds: float) -> None:
        for fd, _ in self._epoll.poll(seconds):
            client = self._by_fd.get(fd)
            if client is None:
                continue
            if self._kind == "read":
                self._dropped(client)
                continue
            try:
                data = client.socket.recv(65536)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if data:
                client.first = client.first or data[:64]
            else:
                self._dropped(client)

    def _dropped(self, client: Slow) -> None:
        client.ended = time.monotonic()
        self._by_fd.pop(client.socket.fileno(), None)
        with contextlib.suppress(OSError):
            client.socket.close()

    def told(self) -> dict[str, object]:
        """How many there were, were dropped, and after how long; what they were told."""
        lives = sorted(client.ended - client.began for client in self.clients if client.ended)
        return {
            "kind": self._kind,
            "connected": len(self.clients),
            "failed": self.failed,
            "dropped": len(lives),
            "first_s": lives[0] if lives else None,
            "last_s": lives[-1] if lives else None,
            "told": dict(Counter(client.first[:12].decode("latin-1") for client in self.clients)),
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a crowd; prints `ready`, then the result."""
    parser = argparse.ArgumentParser(prog="bench.slow_clients", description="Clients that take their time.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--number", type=int, default=2000)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--ramp", type=float, default=2, help="seconds over which they connect [%(default)s]")
    parser.add_argument("--upload", required=True)
    parser.add_argument("--download", required=True)
    parser.add_argument("--token", required=True)
    options = parser.parse_args(arguments)
    raise_descriptors()
    targets = Targets(options.upload, options.download, options.token)
    crowd = Crowd(options.port, options.kind, options.number, targets)
    crowd.gather(options.ramp)
    print("ready", flush=True)
    crowd.run(options.seconds)
    print(json.dumps(crowd.told()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
