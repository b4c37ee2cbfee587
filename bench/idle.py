"""`make bench-idle`: what ten thousand idle kept-alive clients cost in memory.

Each connects (a thousand from each of several loopback addresses), makes one request with a key and stays.  The
cost is the growth of the gateway's resident memory, measured after such a crowd has come and gone once on a smaller
scale, divided by their number.  What the kernel keeps for the sockets is told beside it and not counted: it is the
same for every proxy, and both ends of each connection are in it.
"""

from __future__ import annotations

import argparse
import select
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import machine
from bench.contestant import PATH, PER_HOUR, PER_MINUTE
from bench.flood import requests_of
from bench.measure import Cores
from bench.processes import BenchError, raise_descriptors
from bench.stage import Credentials, Gateway, gateway, known, nginx
from bench.verdict import EXIT_BROKE, Check, conclude, table
from gateway.config.model import Limits

CLIENTS = 10_000
#: KiB of resident memory for each idle connection.
GOAL = 10.0
_AN_ADDRESS = 1_000
_AT_ONCE = 16
_PATIENCE = 30.0
_SETTLING = 1.5


class Crowd:
    """Clients that connect, ask once, and stay."""

    def __init__(self, port: int, requests: Sequence[bytes]) -> None:
        self._port = port
        self._requests = requests
        self._sockets: list[socket.socket] = []

    def __len__(self) -> int:
        return len(self._sockets)

    def gather(self, number: int) -> None:
        """So many more, a few at a time; raises BenchError where one is not answered 200."""
        for begin in range(0, number, _AT_ONCE):
            self._ask([self._connect() for _ in range(min(_AT_ONCE, number - begin))])

    def _connect(self) -> socket.socket:
        number = len(self._sockets)
        try:
            opened = socket.create_connection(
                ("127.0.0.1", self._port), _PATIENCE, (f"127.0.0.{2 + number // _AN_ADDRESS}", 0)
            )
        except OSError as error:
            raise BenchError(f"client {number} cannot connect: {error}") from None
        self._sockets.append(opened)
        return opened

    def _ask(self, several: Sequence[socket.socket]) -> None:
        for number, opened in enumerate(several):
            opened.sendall(self._requests[(len(self._sockets) + number) % len(self._requests)])
        for opened in several:
            said = b""
            while b"\r\n\r\n" not in said:
                try:
                    more = opened.recv(65536)
                except OSError as error:
                    raise BenchError(f"a client is not answered: {error}") from None
                if not more:
                    raise BenchError(f"a client's connection was closed after {said!r}")
                said += more
            if not said.startswith(b"HTTP/1.1 200"):
                raise BenchError(f"a client is answered {said[:400]!r}")

    def dropped(self) -> int:
        """How many have been closed from the other side by now."""
        poll = select.poll()
        for opened in self._sockets:
            poll.register(opened, select.POLLRDHUP)
        return len(poll.poll(0))

    def leave(self) -> None:
        """Close them all."""
        for opened in self._sockets:
            opened.close()
        self._sockets.clear()


def kernel_bytes() -> int:
    """What the kernel holds for sockets and other objects that cannot be reclaimed (`/proc/meminfo`)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("SUnreclaim:"):
            return int(line.split()[1]) * 1024
    return 0


def config(upstream: int, clients: int, credentials: Credentials) -> tuple[dict[str, Any], list[str]]:
    """The gateway's configuration, and the names of the settings that this version has not."""
    left_out: list[str] = []
    wanted = {"connections": clients + 1000, "connections_per_client": clients + 1000, "idle_timeout": "1h"}
    policies = {
        "correlation-id": {},
        "auth": {"any_of": ["api-key"]},
        "acl": {"allow": ["contentUser"]},
        "rate-limiting": {"limits": [f"{PER_MINUTE}/minute", f"{PER_HOUR}/hour"], "by": "credential"},
    }
    route = {"name": "content-read", "paths": ["/content/v1/read"], "policies": policies}
    return {
        "limits": known(Limits, wanted, left_out),
        "services": [{"name": "lms", "url": f"http://127.0.0.1:{upstream}", "routes": [route]}],
        "consumers": credentials.consumers(),
    }, left_out


def measure(there: Gateway, credentials: Credentials, clients: int) -> dict[str, float]:
    """The memory before, with the crowd, and after it has left, in bytes.  Raises BenchError."""
    tokens = credentials.tokens.read_text().split()
    crowd = Crowd(there.port, requests_of(there.port, PATH, tokens, ["User-Agent: idle/1", "Accept: */*"]))
    # Code paths, keys, the pool and the allocator's first arenas are not what is measured.
    crowd.gather(max(64, clients // 20))
    crowd.leave()
    _settle(there, 0)
    inside = there.inside()
    kernel, before = kernel_bytes(), there.sample().rss
    began = time.monotonic()
    crowd.gather(clients)
    took = time.monotonic() - began
    _settle(there, clients)
    with_them, kernel_with_them = there.sample().rss, kernel_bytes()
    inside_with_them = there.inside()
    dropped = crowd.dropped()
    crowd.leave()
    _settle(there, 0)
    return {
        "before": before,
        "with_them": with_them,
        "after": there.sample().rss,
        "kernel": kernel_with_them - kernel,
        "objects": inside_with_them["objects"] - inside["objects"],
        "blocks": inside_with_them["blocks"] - inside["blocks"],
        "dropped": dropped,
        "seconds": took,
    }


def _settle(there: Gateway, wanted: int) -> None:
    until = time.monotonic() + _PATIENCE
    while there.connections("downstream") > wanted and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(_SETTLING)


def run(options: argparse.Namespace) -> int:
    """Measure it; returns the exit status.  Raises BenchError."""
    most = raise_descriptors()
    if options.clients + 200 > most:
        raise BenchError(f"{options.clients} clients need more file descriptors than the {most} that are allowed")
    cores = Cores.choose()
    with tempfile.TemporaryDirectory(prefix="postern-idle-") as name:
        folder = Path(name)
        credentials = Credentials.make(folder)
        with nginx(folder / "upstream", cores.others) as upstream:
            settings, left_out = config(upstream, options.clients, credentials)
            with gateway(folder / "gateway", settings, cores.proxy, left_out=left_out) as there:
                found = measure(there, credentials, options.clients)
    each = (found["with_them"] - found["before"]) / options.clients / 1024
    header = ["clients", "MiB before", "with them", "after", "KiB each", "kernel KiB each", "objects each", "blocks"]
    row = [options.clients, *(found[name] / 2**20 for name in ("before", "with_them", "after")), each]
    row += [found[name] / options.clients for name in ("kernel", "objects", "blocks")]
    row[-3] /= 1024
    print(table(header, [row]))
    if left_out:
        print(f"not known to this version: {', '.join(left_out)}")
    promised = [
        Check("resident memory of an idle connection", each, GOAL, " KiB"),
        Check("idle connections that were dropped", found["dropped"], 0),
    ]
    return conclude(promised, options.output, {"machine": machine.describe(), "clients": options.clients, **found})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bench.idle", description="What idle connections cost.")
    parser.add_argument("--clients", type=int, default=CLIENTS, help="how many [%(default)s]")
    parser.add_argument("--output", type=Path, help="write everything as JSON to this file")
    try:
        return run(parser.parse_args(arguments))
    except BenchError as error:
        print(f"the run broke: {error}", file=sys.stderr)
        return EXIT_BROKE


if __name__ == "__main__":
    sys.exit(main())
