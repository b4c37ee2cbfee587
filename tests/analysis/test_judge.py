"""A judgement is what the gateway answers: a table of requests, and the same requests sent to a real data plane."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.analysis import judge as judging
from gateway.analysis.judge import UNDECIDED, Carrier, Request, judge
from gateway.analysis.offline import NoStats, Roll
from gateway.build import Ports, build
from gateway.config.loader import load_bytes
from gateway.config.types import Settings
from gateway.core.answers import BAD_REQUEST
from gateway.core.context import Context
from gateway.core.decision import ALLOW, Decision, Pending
from gateway.core.policy import Environment, Policy
from gateway.counters.memory import MemoryCounters
from gateway.proxy.listener import Listener
from gateway.proxy.plane import Plane
from gateway.registry import policies
from gateway.snapshot import Snapshot

CONFIG = """\
services:
  - name: lms
    url: http://127.0.0.1:{port}
    policies:
      auth: {{any_of: [api-key]}}
    routes:
      - name: lessons
        methods: [GET]
        paths: [/lessons]
        policies:
          acl: {{allow: [teachers]}}
          cors: {{origins: ["https://learn.example.org"]}}
      - {{name: by-host, hosts: [other.example.org], paths: [/elsewhere]}}
      - {{name: ping, paths: [= /ping], policies: {{auth: none, request-termination: {{status: 204}}}}}}
      - {{name: internal, paths: [/internal], policies: {{auth: none, ip-restriction: {{allow: [10.0.0.0/8]}}}}}}
      - {{name: upload, methods: [POST], paths: [/upload]}}
consumers:
  - {{username: alice, groups: [teachers]}}
  - {{username: bob}}
"""
PREFLIGHT = ((b"Origin", b"https://learn.example.org"), (b"Access-Control-Request-Method", b"GET"))

#: Method, target, who, headers; then status, route, who decided, and the text.
ROWS: list[tuple[str, str, str, tuple[tuple[bytes, bytes], ...], int, str | None, str, str]] = [
    ("GET", "/lessons/1?a=b", "alice", (), 200, "lessons", "", ""),
    ("GET", "/lessons/1", "bob", (), 403, "lessons", "acl", "You cannot consume this service"),
    ("GET", "/lessons/1", "", (), 401, "lessons", "auth", "Missing authorization header"),
    ("GET", "/lessons/../lessons/./1", "alice", (), 200, "lessons", "", ""),
    ("GET", "/less%6Fns", "alice", (), 200, "lessons", "", ""),
    ("GET", "/lessons%2f1", "alice", (), 400, None, "gateway", "Bad request"),
    ("GET", "/..", "alice", (), 400, None, "gateway", "Bad request"),
    ("GET", "/lessonsx", "alice", (), 404, None, "gateway", "No route matched with those values"),
    ("POST", "/lessons", "alice", (), 404, None, "gateway", "No route matched with those values"),
    ("POST", "/upload", "bob", (), 200, "upload", "", ""),
    ("GET", "/elsewhere", "alice", (), 404, None, "gateway", "No route matched with those values"),
    ("GET", "http://other.example.org:8000/elsewhere", "alice", (), 200, "by-host", "", ""),
    ("GET", "http://other.example.org?x", "alice", (), 404, None, "gateway", "No route matched with those values"),
    ("GET", "http://user@other.example.org/elsewhere", "alice", (), 400, None, "gateway", "Bad request"),
    ("GET", "ftp://other.example.org/elsewhere", "alice", (), 400, None, "gateway", "Bad request"),
    ("GET", "/ping", "", (), 204, "ping", "request-termination", "No Content"),
    ("GET", "/internal", "", (), 403, "internal", "ip-restriction", "IP address not allowed"),
    ("OPTIONS", "/lessons", "", PREFLIGHT, 204, "lessons", "cors", "No Content"),
    ("OPTIONS", "/upload", "", PREFLIGHT, 404, None, "gateway", "No route matched with those values"),
    ("OPTIONS", "/lessons", "", (), 404, None, "gateway", "No route matched with those values"),
    ("OPTIONS", "*", "", (), 204, None, "gateway", "No Content"),
    ("GET", "*", "", (), 400, None, "gateway", "Bad request"),
    ("TRACE", "/lessons", "alice", (), 405, None, "gateway", "Method not allowed"),
    ("PURGE", "/ping", "", (), 204, "ping", "request-termination", "No Content"),
    ("GET", "/" + "a" * 9000, "alice", (), 414, None, "gateway", "Request URI too long"),
    ("GET", "/ping", "", ((b"X-Long", b"a" * 40_000),), 431, None, "gateway", "Request header fields too large"),
    ("GET", "/ping", "", ((b"Host", b"twice"),), 400, None, "gateway", "Bad request"),
]


class RealClock:
    """The clock of a data plane."""

    monotonic_ns = staticmethod(time.monotonic_ns)
    time = staticmethod(time.time)


def compiled(port: int = 9, *more: type[Policy]) -> tuple[Snapshot, Roll]:
    registry = {**policies(), **{policy.name: policy for policy in more}}
    text = CONFIG.format(port=port) + "".join(f"policies: {{{policy.name}: {{}}}}\n" for policy in more)
    loaded = load_bytes(text.encode(), Path("config.yaml"), environ={}, policies=registry)
    roll, stats = Roll(loaded.config), NoStats()
    ports = Ports(RealClock(), MemoryCounters(), roll, lambda service, route: stats)
    return build(loaded, ports, registry), roll


@pytest.mark.parametrize(("method", "target", "who", "headers", "status", "route", "decided_by", "text"), ROWS)
async def test_a_judgement(
    method: str,
    target: str,
    who: str,
    headers: tuple[tuple[bytes, bytes], ...],
    status: int,
    route: str | None,
    decided_by: str,
    text: str,
) -> None:
    snapshot, roll = compiled()
    judgement = await judge(snapshot, Request(method, target, headers), roll.token(who))
    found = (judgement.status, judgement.route, judgement.decided_by, judgement.text)
    assert found == (status, route, decided_by, text)


async def test_the_context_tells_who_was_known() -> None:
    snapshot, roll = compiled()
    judgement = await judge(snapshot, Request("GET", "https://Learn.example.org/lessons?q"), roll.token("alice"))
    context = judgement.context
    assert context is not None
    assert context.identity is not None
    assert (context.identity.consumer.username, context.scheme, context.host) == (
        "alice",
        "https",
        "learn.example.org",
    )
    assert (context.path, context.query) == ("/lessons", b"q")


# ── the same requests, sent ─────────────────────────────────────────────────────────────────────


@pytest.fixture
async def gateway() -> AsyncIterator[tuple[int, Roll]]:
    """A data plane in front of an upstream that answers 200 to everything: `(port, roll)`."""

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(upstream, "127.0.0.1", 0)
    snapshot, roll = compiled(server.sockets[0].getsockname()[1])
    plane = Plane(snapshot, asyncio.get_running_loop())
    listener = Listener(plane, "127.0.0.1", 0)
    await listener.start()
    plane.start()
    yield listener.port, roll
    listener.stop_accepting()
    await plane.drain(1.0)
    plane.stop()
    server.close()


@pytest.mark.parametrize(("method", "target", "who", "headers", "status"), [row[:5] for row in ROWS])
async def test_the_data_plane_answers_the_same(
    gateway: tuple[int, Roll], method: str, target: str, who: str, headers: tuple[tuple[bytes, bytes], ...], status: int
) -> None:
    port, roll = gateway
    token = roll.token(who)
    fields = [*headers, *([(b"Authorization", b"Bearer " + token)] if token else [])]
    lines = [f"{method} {target} HTTP/1.1".encode(), b"Host: localhost", *(n + b": " + v for n, v in fields)]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"\r\n".join(lines) + b"\r\n\r\n")
    line = await asyncio.wait_for(reader.readline(), 30)
    writer.close()
    assert line.split()[1] == str(status).encode()


# ── what cannot be decided in a plain call ──────────────────────────────────────────────────────


class NoSettings(Settings):
    """Nothing to say."""


class Later(Policy):
    """Let requests through, in a task of its own."""

    name = "later"
    phase = 1
    Config = NoSettings

    def __init__(self, config: NoSettings, environment: Environment) -> None:
        self._seen = 0

    async def check(self, context: Context) -> Decision:
        await asyncio.sleep(0)
        return ALLOW


class Never(Later):
    """Never decide."""

    name = "never"

    def check(self, context: Context) -> Pending[Decision]:  # type: ignore[override]  # a policy may answer either way
        return Pending()


class Broken(Later):
    """Break."""

    name = "broken"

    def check(self, context: Context) -> Decision:  # type: ignore[override]  # a policy may answer either way
        raise RuntimeError("out of order")


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Later, (200, "", "")),
        (Never, (UNDECIDED, "", "a policy did not decide within 0.05 s")),
        (Broken, (500, "fault", "An unexpected error occurred")),
    ],
)
async def test_policies_that_take_their_time(
    monkeypatch: pytest.MonkeyPatch, policy: type[Policy], expected: tuple[int, str, str]
) -> None:
    monkeypatch.setattr(judging, "PATIENCE", 0.05)
    snapshot, roll = compiled(9, policy)
    judgement = await judge(snapshot, Request("GET", "/lessons"), roll.token("alice"))
    assert (judgement.status, judgement.decided_by, judgement.text) == expected
    assert judgement.route == "lessons"


@pytest.mark.parametrize(
    ("carrier", "target", "headers"),
    [
        (Carrier(), "/a", ((b"Authorization", b"Bearer p.s"),)),
        (Carrier("basic"), "/a", ((b"Authorization", b"Basic cC5zOg=="),)),
        (Carrier("header", "x-api-key"), "/a", ((b"x-api-key", b"p.s"),)),
        (Carrier("query", "apikey"), "/a?apikey=p.s", ()),
    ],
)
def test_a_request_carries_a_key(carrier: Carrier, target: str, headers: tuple[tuple[bytes, bytes], ...]) -> None:
    carrying = Request("GET", "/a").carrying(b"p.s", carrier)
    assert (carrying.target, carrying.headers) == (target, headers)


def test_a_key_goes_behind_a_query_that_is_there() -> None:
    assert Request("GET", "/a?b").carrying(b"p.s", Carrier("query", "k")).target == "/a?b&k=p.s"


@pytest.mark.parametrize("target", ["/a b", "/a HTTP/1.1\r\nX-A: b", "/\u00e4", ""])
async def test_a_target_that_is_no_target(target: str) -> None:
    snapshot, _ = compiled()
    judgement = await judge(snapshot, Request("GET", target))
    assert (judgement.status, judgement.text, judgement.context) == (400, BAD_REQUEST.text, None)
