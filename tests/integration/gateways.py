"""A data plane inside a test: real sockets, a compiled configuration, ports that answer at once.

`async with running_gateway(routed(url)) as gateway:` listens on a free port of 127.0.0.1; `gateway.connect()` is a
client that says bytes and reads answers by their framing.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

from gateway.build import Ports, build
from gateway.cache.opening import ResponseCaches
from gateway.config.loader import load_bytes
from gateway.core.answers import INVALID_KEY
from gateway.core.decision import Deny, Pending
from gateway.core.identity import Consumer, Identity
from gateway.core.policy import Policy
from gateway.core.ports import NO_ACCESS_TOKENS, AccessTokens, Authenticator, Counters, ResponseCache
from gateway.counters.memory import MemoryCounters
from gateway.proxy.exchange import Exchange
from gateway.proxy.listener import Listener
from gateway.proxy.plane import Plane
from gateway.proxy.resolver import Resolver
from gateway.proxy.targets import Targets
from gateway.registry import policies as installed_policies
from gateway.snapshot import Snapshot
from upstream_stub.raw import RawServer, Scripted

#: How long a test waits for what must come, in seconds.
PATIENCE = 30.0

#: A limit for `Gateway.deadlines`, in nanoseconds: `1m` in a configuration, which never passes by itself.
MINUTE = 60_000_000_000


class SystemClock:
    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def time(self) -> float:
        return time.time()


class NobodyIsKnown:
    """An authenticator for configurations whose routes are public."""

    def verify_key(self, token: bytes, client: str, now: float) -> Identity | Deny | Pending[Identity | Deny]:
        raise AssertionError("no route of this test takes keys")

    def consumer(self, username: str) -> Consumer | None:
        return None

    def still_valid(self, identity: Identity, now: float) -> bool:
        return True


class Keys(dict[bytes, Identity]):
    """An authenticator that knows these keys."""

    def verify_key(self, token: bytes, client: str, now: float) -> Identity | Deny | Pending[Identity | Deny]:
        return self.get(token) or Deny(INVALID_KEY)

    def consumer(self, username: str) -> Consumer | None:
        return next((known.consumer for known in self.values() if known.consumer.username == username), None)

    def still_valid(self, identity: Identity, now: float) -> bool:
        return True


@dataclass
class RouteStats:
    observed: list[tuple[str, int]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)

    def observe(self, method: str, status: int, seconds: float, upstream_seconds: float | None) -> None:
        self.observed.append((method, status))

    def denied(self, policy: str, reason: str) -> None:
        self.refused.append((policy, reason))


@dataclass(frozen=True)
class Record:
    """One access record, the fields that tests ask for."""

    method: str
    path: str
    status: int
    sent: int
    decision: str
    reason: str
    client: str = field(default="", compare=False)


class Records(list[Record]):
    """An access sink that keeps what it is told."""

    def record(
        self,
        now: float,
        request_id: str,
        client: str,
        method: str,
        path: str,
        query: bytes,
        status: int,
        sent: int,
        seconds: float,
        upstream_seconds: float | None,
        route: str,
        service: str,
        consumer: str,
        credential: str,
        decision: str,
        reason: str,
        user_agent: bytes,
        host: str,
    ) -> None:
        self.append(Record(method, path, status, sent, decision, reason, client))


def routed(
    url: str,
    *,
    limits: str = "{}",
    service: str = "",
    policies: str = "{}",
    top: str = "",
    route: str = "paths: [/]",
) -> str:
    """A configuration that routes everything to `url`.

    `limits` and `policies` are YAML mappings, `service` and `route` lines of theirs, `top` lines of the whole file.
    """
    extra = "".join(f"    {line}\n" for line in service.splitlines())
    return (
        f"version: 1\nlimits: {limits}\n{top}\n"
        "services:\n"
        f"  - name: lms\n    url: {url}\n{extra}"
        "    policies: {auth: none}\n"
        "    routes:\n"
        f"      - name: all\n        {route}\n        policies: {policies}\n"
    )


@dataclass(frozen=True)
class Response:
    """One response as the client reads it; `lines` are its header lines as they came, without their ends."""

    version: str
    status: int
    lines: list[bytes]
    body: bytes

    @property
    def headers(self) -> dict[str, str]:
        """Lower-case names; several fields of one name joined with a comma."""
        found: dict[str, str] = {}
        for line in self.lines:
            name, _, value = line.decode("latin-1").partition(":")
            key = name.lower()
            found[key] = f"{found[key]}, {value.strip()}" if key in found else value.strip()
        return found


class Client:
    """A client that says exactly the bytes it is given, and reads answers by their framing."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.writer.close()

    def send(self, data: bytes) -> None:
        """Write."""
        self.writer.write(data)

    async def head(self) -> Response:
        """The next head alone."""
        async with asyncio.timeout(PATIENCE):
            raw = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = raw[:-4].split(b"\r\n")
        version, status, _ = first.decode("latin-1").split(" ", 2)
        return Response(version, int(status), lines, b"")

    async def response(self, method: str = "GET") -> Response:
        """The next response, interim ones included (RFC 9112 §6.3 says where it ends)."""
        return await self.body_of(await self.head(), method)

    async def body_of(self, head: Response, method: str = "GET") -> Response:
        """The response whose head has been read, with its body."""
        headers = head.headers
        async with asyncio.timeout(PATIENCE):
            if method == "HEAD" or head.status < 200 or head.status in (204, 304):
                body = b""
            elif headers.get("transfer-encoding") == "chunked":
                body = await self.chunks()
            elif "content-length" in headers:
                body = await self.reader.readexactly(int(headers["content-length"]))
            else:
                body = await self.reader.read()
        return Response(head.version, head.status, head.lines, body)

    async def chunks(self) -> bytes:
        """A chunked body."""
        body = bytearray()
        while size := int((await self.reader.readuntil(b"\r\n"))[:-2], 16):
            body += await self.reader.readexactly(size)
            assert await self.reader.readexactly(2) == b"\r\n"
        assert await self.reader.readexactly(2) == b"\r\n"
        return bytes(body)

    async def request(self, data: bytes, method: str = "GET") -> Response:
        """Say something and read one response."""
        self.send(data)
        return await self.response(method)

    async def rest(self) -> bytes:
        """Everything until the connection's end, which must be an orderly one."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read()

    async def ended(self) -> str:
        """How the connection ends: "closed" (nothing more, FIN), "reset", or what still came."""
        try:
            rest = await self.rest()
        except ConnectionResetError:
            return "reset"
        return "closed" if not rest else repr(rest)

    def reset(self) -> None:
        """Vanish with an RST."""
        sock = self.writer.get_extra_info("socket")
        if sock is None:
            return  # the gateway was quicker: there is nothing left to vanish from
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Gateway:
    """A running data plane."""

    def __init__(self, plane: Plane, port: int, records: Records, stats: dict[tuple[str, str], RouteStats]) -> None:
        self.plane = plane
        self.port = port
        self.listener: Listener
        self.records = records
        self.stats = stats
        self.compile: Any = None

    async def connect(self, *, limit: int = 1 << 16) -> Client:
        """A new connection."""
        return Client(*await asyncio.open_connection("127.0.0.1", self.port, limit=limit))

    async def get(self, target: str = "/") -> Response:
        """One GET on a connection of its own."""
        async with await self.connect() as client:
            return await client.request(get(target))

    def exchanges(self, state: int) -> list[Exchange]:
        """The requests that are in this state (`proxy.states`)."""
        found = [connection.exchange for connection in self.plane.downstreams]
        return [exchange for exchange in found if exchange is not None and exchange.state == state]

    def deadlines(self, moment: int) -> None:
        """Have all deadlines judged as they are at this moment of the monotonic clock, in nanoseconds.

        So a limit of minutes is tried to the nanosecond, in no time, and on a machine that stands still now and then.
        """
        self.plane.sweep(moment)

    def swap(self, text: str) -> None:
        """Put another configuration in force, as a reload does."""
        self.plane.swap(cast(Snapshot, self.compile(text)))

    async def recorded(self, number: int) -> Records:
        """The access records, once there are so many."""
        await eventually(lambda: len(self.records) >= number)
        return self.records


async def eventually(condition: Any) -> None:
    """Wait until something holds; fails with TimeoutError."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


def get(target: str = "/", *lines: str, version: str = "1.1") -> bytes:
    """A GET's bytes."""
    return request("GET", target, *lines, version=version)


def request(method: str, target: str, *lines: str, body: bytes = b"", version: str = "1.1") -> bytes:
    """A request's bytes; with a body its Content-Length is added."""
    fields = ["Host: gateway.example.org", *lines]
    if body:
        fields.append(f"Content-Length: {len(body)}")
    return "\r\n".join([f"{method} {target} HTTP/{version}", *fields, "", ""]).encode("latin-1") + body


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """A chunked body."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + end


@asynccontextmanager
async def running_gateway(
    text: str,
    policies: Mapping[str, type[Policy]] | None = None,
    authenticator: Authenticator | None = None,
    access_tokens: AccessTokens = NO_ACCESS_TOKENS,
    response_cache: Callable[[], ResponseCache] | None = None,
    name_servers: Sequence[str] | None = None,
    counters: Counters | None = None,
) -> AsyncIterator[Gateway]:
    """Serve a configuration; `policies` are known beside the installed ones, `authenticator` knows the keys,
    `response_cache` stores responses and `counters` count (by default in memory), `name_servers` are asked in place of
    the system's."""
    loop = asyncio.get_running_loop()
    known = {**installed_policies(), **(policies or {})}
    stats: dict[tuple[str, str], RouteStats] = {}
    counters = counters or MemoryCounters()
    known_keys = NobodyIsKnown() if authenticator is None else authenticator

    def counted(service: str, route: str) -> RouteStats:
        return stats.setdefault((service, route), RouteStats())

    if response_cache is None:
        response_cache = ResponseCaches("memory://", 64 << 20, 1 << 20).open
    ports = Ports(SystemClock(), counters, known_keys, counted, access_tokens, response_cache)

    def compiled(source: str) -> Snapshot:
        return build(load_bytes(source.encode(), Path("config.yaml"), environ={}, policies=known), ports, known)

    records = Records()
    targets = Targets(loop, Resolver(loop, name_servers))
    plane = Plane(compiled(text), loop, records, targets=targets)
    listen = load_bytes(text.encode(), Path("config.yaml"), environ={}, policies=known).config.listen
    listener = Listener(plane, "127.0.0.1", 0, listen.proxy_protocol == "on", listen.proxy_protocol_from)
    await listener.start()
    plane.overload.gates.append(listener)
    plane.start()
    gateway = Gateway(plane, listener.port, records, stats)
    gateway.listener = listener
    gateway.compile = compiled
    try:
        yield gateway
    finally:
        listener.stop_accepting()
        await plane.drain(0)
        plane.stop()


@asynccontextmanager
async def proxied(
    scripted: Scripted, authenticator: Authenticator | None = None, **parts: str
) -> AsyncIterator[tuple[RawServer, Gateway]]:
    """A scripted upstream, and a gateway that routes everything to it; `parts` as in `routed`."""
    async with (
        RawServer(scripted) as upstream,
        running_gateway(routed(upstream.url, **parts), authenticator=authenticator) as gateway,
    ):
        yield upstream, gateway
