"""What an identity costs in memory, wherever it is counted: `make bench-identities`, or `python -m bench.identities`.

A million requests of each kind: by as many identities, or by fewer that come several times.  What the process that
counts has grown by, a fresh one each time, is divided by the identities: in `memory`, the gateway's own; as `hub`, the
control process that its workers ask; in `redis`, by its own account (`used_memory`), keys and all.  The limits are a
minute's and an hour's, by credential.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic_ns

from bench.memory import memory
from bench.peer_postern import redis_server
from bench.processes import BenchError, Program, free_port
from bench.verdict import EXIT_BROKE, table
from gateway.core.decision import Pending
from gateway.core.ports import Counters, Demand
from gateway.core.units import parse_rate
from gateway.counters.hub import HubCounters
from gateway.counters.hub_server import HubServer
from gateway.counters.memory import MemoryCounters
from gateway.counters.opening import open_counters

IDENTITIES = 1_000_000
#: How often each is admitted, and by which algorithm: the last are what a busy one costs.
CASES = (
    ("sliding-window", 1),
    ("sliding-window", 2),
    ("sliding-window", 10),
    ("sliding-window", 100),
    ("fixed-window", 10),
    ("token-bucket", 10),
)
RATES = (parse_rate("600/minute"), parse_rate("5000/hour"))
#: Questions that are open at a time.
_OPEN = 1000


def demands(identities: int, algorithm: str) -> Iterator[tuple[Demand]]:
    """What each of them demands; the keys are as long as those of a policy."""
    for number in range(identities):
        yield (Demand(f"* - credential credential {uuid.UUID(int=number << 64)}", RATES, algorithm),)


async def fill(counters: Counters, identities: int, algorithm: str, times: int) -> None:
    """Have each of them counted so often; raises what the counters fail with."""
    failed: list[BaseException] = []
    unanswered, few, room = 0, _OPEN, asyncio.Event()

    def answered(_: object) -> None:
        nonlocal unanswered
        unanswered -= 1
        if unanswered <= few:
            room.set()

    def broke(error: BaseException) -> None:
        failed.append(error)
        room.set()

    for _ in range(times):
        for asked in demands(identities, algorithm):
            verdict = counters.take(asked, monotonic_ns())
            if isinstance(verdict, Pending):
                unanswered += 1
                verdict.then(answered, broke)
            if unanswered > few:
                room.clear()
                await room.wait()
            if failed:
                raise failed[0]
    few = 0
    if unanswered:
        room.clear()
        await room.wait()


# ── who is weighed ───────────────────────────────────────────────────────────────────────────────


async def be_memory(identities: int, algorithm: str, times: int) -> None:
    """Count in this process, between two lines of standard input."""
    counters = MemoryCounters()
    say_ready()
    await fill(counters, identities, algorithm, times)
    say_ready()


async def be_hub(descriptor: int) -> None:
    """Be the hub of who is at the other end of the socket."""
    server = HubServer(MemoryCounters())
    await server.serve(socket.socket(fileno=descriptor))
    say_ready()
    await asyncio.get_running_loop().create_future()


def say_ready() -> None:
    """Tell the parent that it can look now, and wait until it has."""
    gc.collect()
    gc.freeze()
    print("ready", flush=True)
    sys.stdin.readline()


class Weighed:
    """A process of ours: `grown` is what it takes more than when it began, in bytes."""

    def __init__(self, *arguments: str, keep: Sequence[int] = ()) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.identities", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=keep,
        )  # fmt: skip
        self.wait()
        self._before = memory(self._process.pid).unique

    def wait(self) -> None:
        """Wait until it says that it is ready."""
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise BenchError("a process that was to be weighed has ended")

    def go_on(self) -> None:
        """Let it go on."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def grown(self) -> int:
        """What it takes more by now."""
        return memory(self._process.pid).unique - self._before

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


def in_memory(identities: int, algorithm: str, times: int) -> int:
    """Bytes that they take in a process of their own."""
    weighed = Weighed("--be", "memory", f"--identities={identities}", f"--algorithm={algorithm}", f"--times={times}")
    try:
        weighed.go_on()
        weighed.wait()
        return weighed.grown()
    finally:
        weighed.end()


def in_hub(identities: int, algorithm: str, times: int) -> int:
    """Bytes that they take in the process of a hub that we ask."""
    ours, its = socket.socketpair()
    with its:
        weighed = Weighed("--be", "hub", f"--descriptor={its.fileno()}", keep=[its.fileno()])
    weighed.go_on()

    async def ask() -> None:
        counters = HubCounters()
        await counters.connect(ours)
        await fill(counters, identities, algorithm, times)
        counters.close()

    try:
        asyncio.run(ask())
        return weighed.grown()
    finally:
        weighed.end()


def in_redis(identities: int, algorithm: str, times: int) -> int | None:
    """Bytes that they take in a Redis, as it says itself; None: there is none."""
    binary = redis_server()
    if binary is None:
        return None
    port = free_port()
    arguments = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]

    async def ask() -> None:
        counters = await open_counters(f"redis://127.0.0.1:{port}/0?socket_timeout=30&socket_connect_timeout=30")
        await fill(counters, identities, algorithm, times)
        await counters.close()

    with tempfile.TemporaryDirectory(prefix="postern-identities-") as name:
        folder = Path(name)
        server = Program.start(arguments, core=None, folder=folder, output=folder / "output.log", environment={})
        try:
            server.wait_for(port)
            before = used_memory(port)
            asyncio.run(ask())
            return used_memory(port) - before
        finally:
            server.stop()


def used_memory(port: int) -> int:
    """What a Redis says that its data takes, in bytes."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection, connection.makefile("rwb") as stream:
        stream.write(b"INFO memory\r\n")
        stream.flush()
        size = int(stream.readline()[1:])
        for line in stream.read(size).decode().splitlines():
            name, _, value = line.partition(":")
            if name == "used_memory":
                return int(value)
    raise BenchError("a Redis that does not say what it takes")


PLACES: dict[str, Callable[[int, str, int], int | None]] = {"memory": in_memory, "hub": in_hub, "redis": in_redis}


def main(arguments: Sequence[str] | None = None) -> int:
    """Weigh, print the table, return the exit status."""
    parser = argparse.ArgumentParser(prog="bench.identities", description="Bytes an identity, wherever it is counted.")
    parser.add_argument(
        "--identities", type=int, default=IDENTITIES, help="how many, where each asks once [%(default)s]"
    )
    parser.add_argument("--be", choices=("memory", "hub"), help=argparse.SUPPRESS)
    parser.add_argument("--algorithm", default="sliding-window", help=argparse.SUPPRESS)
    parser.add_argument("--times", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--descriptor", type=int, default=-1, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.be == "memory":
        asyncio.run(be_memory(options.identities, options.algorithm, options.times))
        return 0
    if options.be == "hub":
        asyncio.run(be_hub(options.descriptor))
        return 0
    rows: list[list[object]] = []
    try:
        for algorithm, times in CASES:
            identities = options.identities // times
            weighed = [place(identities, algorithm, times) for place in PLACES.values()]
            each = ["-" if one is None else round(one / identities) for one in weighed]
            rows.append([algorithm, identities, times, *each])
            print(f"{algorithm}, {identities:,} identities, each {times} x: {each}", flush=True)
    except BenchError as error:
        print(f"the benchmark broke: {error}", file=sys.stderr)
        return EXIT_BROKE
    print()
    print(table(["algorithm", "identities", "times each", *(f"bytes in {place}" for place in PLACES)], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
