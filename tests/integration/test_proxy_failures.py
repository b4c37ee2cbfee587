"""Upstreams that fail: which answer the client gets, and that a body cut short never looks complete."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from gateway.proxy.states import CONNECTING
from tests.integration.gateways import MINUTE, eventually, get, proxied, request, routed, running_gateway
from upstream_stub.misbehaviours import BAD_FRAMING, chunk, head
from upstream_stub.raw import RawRequest, Scripted, by_query
from upstream_stub.steps import End, Script, Send, Step, Wait

BAD_GATEWAY = b"An invalid response was received from the upstream server"
UNAVAILABLE = b"The upstream server is currently unavailable"
TIMEOUT = b"The upstream server is timing out"


def plays(*steps: Step, end: End = End.KEEP) -> Scripted:
    return lambda request: Script(steps, end)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


# ── before the response's head ───────────────────────────────────────────────────────────────────


async def test_an_upstream_that_refuses_is_unavailable() -> None:
    async with running_gateway(routed(f"http://127.0.0.1:{free_port()}")) as gateway:
        async with await gateway.connect() as client:
            for method in ("GET", "POST"):
                response = await client.request(request(method, "/", "Content-Length: 0"))
                assert (response.status, response.headers["retry-after"]) == (503, "1")
                assert UNAVAILABLE in response.body
        assert [(record.decision, record.reason) for record in gateway.records] == [
            ("failed", "upstream_unavailable")
        ] * 2


async def test_an_unknown_host_is_unavailable() -> None:
    async with running_gateway(routed("http://lms.invalid")) as gateway:
        assert (await gateway.get()).status == 503


async def test_a_missing_unix_socket_is_unavailable() -> None:
    async with running_gateway(routed("unix:///nonexistent/lms.sock")) as gateway:
        assert (await gateway.get()).status == 503


@pytest.mark.parametrize("name", ["reset", "close", "cut-head"])
async def test_an_upstream_that_goes_before_it_answered(name: str) -> None:
    async with proxied(by_query) as (_, gateway), await gateway.connect() as client:
        response = await client.request(get(f"/misbehave/{name}"))
        assert response.status == 502
        assert BAD_GATEWAY in response.body
        assert (await client.request(get("/fine"))).body == b"ok"


#: Not errors, or read in one way only: see `test_odd_answers_are_read_in_one_way`.
TOLERATED = {"204-with-body", "304-with-length", "bad-chunk-size", "huge-chunk-size", "chunk-without-crlf",
             "chunk-lf-only", "long-chunk-extension"}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(BAD_FRAMING.keys() - TOLERATED))
async def test_a_malformed_head_is_a_bad_gateway(kind: str) -> None:
    async with proxied(by_query) as (_, gateway), await gateway.connect() as client:
        response = await client.request(get(f"/misbehave/bad-framing?kind={kind}&end=close"))
        assert response.status == 502
        assert BAD_GATEWAY in response.body
        assert (await client.request(get("/fine"))).body == b"ok"


@pytest.mark.parametrize(
    "kind", ["bad-chunk-size", "huge-chunk-size", "chunk-without-crlf", "chunk-lf-only", "long-chunk-extension"]
)
async def test_malformed_chunks_behind_the_head_are_a_bad_gateway(kind: str) -> None:
    """They come in one piece with the head, which was not relayed yet."""
    async with proxied(by_query) as (_, gateway), await gateway.connect() as client:
        client.send(get(f"/misbehave/bad-framing?kind={kind}"))
        response = await client.head()
        assert response.status in (200, 502)
        if response.status == 200:
            assert await cut(client.reader)


@pytest.mark.parametrize("kind", ["204-with-body", "304-with-length"])
async def test_odd_answers_are_read_in_one_way(kind: str) -> None:
    async with proxied(by_query) as (_, gateway), await gateway.connect() as client:
        response = await client.request(get(f"/misbehave/bad-framing?kind={kind}"))
        assert (response.status, response.body) == (int(kind[:3]), b"")
        assert (await client.request(get("/fine"))).body == b"ok"


async def test_a_head_without_end_is_a_bad_gateway() -> None:
    async with proxied(by_query) as (_, gateway):
        assert (await gateway.get("/misbehave/endless-head")).status == 502


# ── timeouts ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("/misbehave/hang", b""),
        ("/misbehave/hang", b"body"),
        ("/misbehave/slow-head?gap=0.3", b""),
        ("/misbehave/interim?gap=0.2", b""),
        ("/misbehave/slow?first=60", b""),
    ],
)
async def test_an_upstream_that_does_not_answer_times_out(target: str, sent: bytes) -> None:
    """The time runs from the end of the request, whatever else but an answer comes."""
    service = "read_timeout: 1m"
    async with proxied(by_query, service=service) as (upstream, gateway), await gateway.connect() as client:
        began = time.monotonic_ns()
        client.send(request("POST", target, body=sent))
        await eventually(lambda: upstream.requests and upstream.requests[0].body == sent)
        asked = time.monotonic_ns()
        await asyncio.sleep(0.4)  # for what is said before an answer
        gateway.deadlines(began + MINUTE - 1)
        assert not gateway.records
        gateway.deadlines(asked + MINUTE)
        response = await client.response()
        while response.status < 200:
            response = await client.response()
        assert response.status == 504
        assert TIMEOUT in response.body
        assert (await client.request(get("/fine"))).body == b"ok"


async def test_a_connection_that_is_not_accepted_times_out() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        # The kernel completes as many connections as its queue holds; past them nobody answers.
        filling = [socket.socket() for _ in range(4)]
        try:
            for sock in filling:
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", port))
            text = routed(f"http://127.0.0.1:{port}", service="connect_timeout: 1m")
            async with running_gateway(text) as gateway:
                began = time.monotonic_ns()
                asking = asyncio.create_task(gateway.get())
                await eventually(lambda: gateway.exchanges(CONNECTING))
                gateway.deadlines(began + MINUTE - 1)
                assert not gateway.records
                gateway.deadlines(time.monotonic_ns() + MINUTE)
                assert (await asking).status == 504
        finally:
            for sock in filling:
                sock.close()


async def test_an_upstream_that_stops_reading_times_out() -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is one that reads
        await asyncio.sleep(10)

    server = await asyncio.start_server(deaf, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with (
        running_gateway(routed(url, service="write_timeout: 500ms\nread_timeout: 500ms")) as gateway,
        await gateway.connect() as client,
    ):
        client.send(request("POST", "/", "Content-Length: 100000000"))
        feeding = asyncio.create_task(_feed(client.writer))
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (504, "close")
        feeding.cancel()
    server.close()


async def _feed(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


# ── in the middle of the response's body ─────────────────────────────────────────────────────────


async def cut(reader: asyncio.StreamReader) -> bool:
    """True if the connection ends in a reset: no client can take what it got for the whole."""
    async with asyncio.timeout(30):
        try:
            await reader.read()
        except ConnectionResetError:
            return True
    return False


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("end", ["close", "reset", "hang"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_truncated_body_ends_the_connection_visibly(framing: str, end: str, version: str) -> None:
    chunks = "&chunked=1" if framing == "chunked" else ""
    async with proxied(by_query, service="read_timeout: 500ms") as (_, gateway), await gateway.connect() as client:
        client.send(get(f"/misbehave/cut?after=100&wait=0.1&end={end}{chunks}", version=version))
        assert (await client.head()).status == 200
        assert await cut(client.reader)
        (record,) = await gateway.recorded(1)
        assert (record.status, record.decision, record.reason) == (200, "failed", "cut")


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_body_until_close_that_ends_in_a_reset_is_truncated(version: str) -> None:
    async with (
        proxied(plays(Send(head(200) + b"some"), Wait(0.2), end=End.RESET)) as (_, gateway),
        await gateway.connect() as client,
    ):
        client.send(get("/", version=version))
        assert (await client.head()).status == 200
        assert await cut(client.reader)


@pytest.mark.parametrize(
    "broken",
    [b"zz\r\n", b"4\nbody", b"4\r\nbodyXX", b"0\r\nno colon\r\n\r\n", b"\r\n", b"4;\x00\r\nbody\r\n", b"-1\r\n"],
)
async def test_malformed_chunks_in_the_middle_end_the_connection(broken: bytes) -> None:
    answer = plays(Send(head(200, "Transfer-Encoding: chunked") + chunk(b"good")), Wait(0.1), Send(broken))
    async with proxied(answer) as (_, gateway), await gateway.connect() as client:
        client.send(get("/"))
        assert (await client.head()).status == 200
        assert await cut(client.reader)


# ── more than was declared ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("query", ["", "?extra=10", "?wait=0.1", "?extra=100000&wait=0.1"])
async def test_more_than_was_declared_is_dropped_with_the_connection(query: str) -> None:
    async with proxied(by_query) as (upstream, gateway), await gateway.connect() as client:
        first = await client.request(get(f"/misbehave/excess{query}"))
        assert (first.status, first.body) == (200, b"ok")
        await asyncio.sleep(0.3)
        second = await client.request(get("/fine"))
        assert (second.status, second.body) == (200, b"ok")
        assert "x-poisoned" not in second.headers
        assert upstream.connections == 2


async def test_a_body_behind_a_head_response_is_dropped_with_the_connection() -> None:
    def scripted(request: RawRequest) -> Script:
        answer = head(200, "Content-Length: 6") + b"poison"
        return Script([Send(answer)], End.KEEP)

    async with proxied(scripted) as (upstream, gateway), await gateway.connect() as client:
        assert (await client.request(request("HEAD", "/"), "HEAD")).status == 200
        assert (await client.request(request("HEAD", "/"), "HEAD")).status == 200
        assert upstream.connections == 2


async def test_an_answer_before_any_request_is_dropped_with_its_connection() -> None:
    """A response that an upstream sends unasked is nobody's (response-queue poisoning)."""
    poison = head(200, "Content-Length: 6") + b"poison"
    steps: list[Step] = [Send(head(200, "Content-Length: 2") + b"ok"), Wait(0.05), Send(poison)]

    def scripted(request: RawRequest) -> Script:
        return Script(steps if request.connection == 1 else steps[:1], End.KEEP)

    async with proxied(scripted) as (_, gateway), await gateway.connect() as client:
        assert (await client.request(get("/"))).body == b"ok"
        await asyncio.sleep(0.2)
        assert (await client.request(get("/"))).body == b"ok"
