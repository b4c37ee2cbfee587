"""Connections on either side: kept, pipelined, half-closed, abandoned; what HTTP/1.0 asks for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.proxy import downstream
from tests.integration.gateways import chunked, eventually, get, proxied, request, routed, running_gateway
from upstream_stub.misbehaviours import head
from upstream_stub.raw import RawRequest, RawServer
from upstream_stub.steps import End, Script, Send, Wait


def echo(request: RawRequest) -> Script:
    """The target comes back as the body."""
    body = b"" if request.method == "HEAD" else request.target.encode()
    return Script([Send(head(200, f"Content-Length: {len(request.target)}") + body)], End.KEEP)


def silent(request: RawRequest) -> Script:
    return Script([], End.HANG)


async def test_both_connections_are_kept() -> None:
    async with proxied(echo) as (upstream, gateway):
        async with await gateway.connect() as client:
            for number in range(5):
                response = await client.request(get(f"/{number}"))
                assert (response.status, response.body) == (200, b"/%d" % number)
                assert "connection" not in response.headers
        assert upstream.connections == 1
        assert [record.status for record in gateway.records] == [200] * 5


async def test_clients_share_idle_upstream_connections_one_exchange_at_a_time() -> None:
    async with proxied(echo) as (upstream, gateway):
        for _ in range(3):
            assert (await gateway.get()).status == 200
        assert upstream.connections == 1
        answers = await asyncio.gather(*(gateway.get(f"/{number}") for number in range(20)))
        assert [answer.body for answer in answers] == [b"/%d" % number for number in range(20)]


@pytest.mark.parametrize("bodies", [False, True])
async def test_a_hundred_pipelined_requests_in_one_write(bodies: bool) -> None:
    async with proxied(echo) as (upstream, gateway):
        requests = [
            request("POST", f"/{number}", body=b"x" * number)
            if bodies and number % 3
            else request("POST", f"/{number}", "Transfer-Encoding: chunked") + chunked(b"a" * 7, b"b" * (number + 1))
            if bodies
            else get(f"/{number}")
            for number in range(100)
        ]
        async with await gateway.connect() as client:
            client.send(b"".join(requests))
            for number in range(100):
                assert (await client.response()).body == b"/%d" % number
        assert upstream.connections == 1
        assert [seen.target for seen in upstream.requests] == [f"/{number}" for number in range(100)]


async def test_pipelined_requests_stay_in_order_when_the_first_is_slow() -> None:
    def scripted(request: RawRequest) -> Script:
        return Script([Wait(0.2 if request.target == "/slow" else 0), *echo(request).steps], End.KEEP)

    async with proxied(scripted) as (upstream, gateway):
        async with await gateway.connect() as client:
            client.send(get("/slow") + get("/quick") + get("/nowhere/%00") + get("/never"))
            assert [(await client.response()).body for _ in range(2)] == [b"/slow", b"/quick"]
            refused = await client.response()
            assert (refused.status, refused.headers["connection"]) == (400, "close")
            assert await client.ended() == "closed"
        assert "/never" not in [seen.target for seen in upstream.requests]


async def test_a_close_ends_a_pipeline() -> None:
    async with proxied(echo) as (upstream, gateway):
        async with await gateway.connect() as client:
            client.send(get("/last", "Connection: close") + get("/more"))
            response = await client.response()
            assert (response.body, response.headers["connection"]) == (b"/last", "close")
            assert await client.ended() == "closed"
        assert len(upstream.requests) == 1


async def test_a_pipeline_whose_answers_nobody_reads_stops() -> None:
    """The gateway neither gathers answers without end, nor reads on; reading them makes it go on."""
    body = '{request-termination: {status: 200, body: "' + "x" * 4096 + '"}}'
    text = routed("http://127.0.0.1:9", policies=body, limits="{requests_per_connection: 100000}")
    async with running_gateway(text) as gateway, await gateway.connect() as client:
        total = 20_000
        writing = asyncio.create_task(_write(client.writer, get("/"), total))
        await asyncio.sleep(0.5)
        assert len(gateway.records) < total
        (connection,) = gateway.plane.downstreams
        assert connection.transport is not None
        assert connection.transport.get_write_buffer_size() < 1 << 20
        for _ in range(total):
            await client.response()
        await writing


async def _write(writer: asyncio.StreamWriter, piece: bytes, times: int) -> None:
    for _ in range(times):
        writer.write(piece)
        await writer.drain()


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        ((), False),
        (("Connection: keep-alive",), True),
        (("Connection: Keep-Alive",), True),
        (("Connection: close",), False),
    ],
)
async def test_http_1_0(lines: tuple[str, ...], kept: bool) -> None:
    async with proxied(echo) as (upstream, gateway):
        async with await gateway.connect() as client:
            response = await client.request(get("/old", *lines, version="1.0"))
            assert (response.version, response.status, response.body) == ("HTTP/1.1", 200, b"/old")
            assert response.headers["connection"] == ("keep-alive" if kept else "close")
            if kept:
                assert (await client.request(get("/again", *lines, version="1.0"))).body == b"/again"
            else:
                assert await client.ended() == "closed"
        assert upstream.requests[0].header("Via") == "1.0 postern"


async def test_http_1_0_without_a_host() -> None:
    async with proxied(echo) as (upstream, gateway):
        async with await gateway.connect() as client:
            assert (await client.request(b"GET /bare HTTP/1.0\r\n\r\n")).body == b"/bare"
        assert upstream.requests[0].header("Host") == f"127.0.0.1:{upstream.port}"


async def test_an_upstream_on_a_unix_socket(tmp_path: Path) -> None:
    async with RawServer(echo, path=str(tmp_path / "lms.sock")) as upstream:
        async with running_gateway(routed(upstream.url)) as gateway:
            assert (await gateway.get("/a")).body == b"/a"
            assert (await gateway.get("/b")).body == b"/b"
        assert upstream.connections == 1


async def test_empty_lines_before_a_request_are_ignored() -> None:
    async with proxied(echo) as (_upstream, gateway), await gateway.connect() as client:
        assert (await client.request(b"\r\n\r\n" + get("/a"))).body == b"/a"
        assert (await client.request(b"\r\n" + get("/b"))).body == b"/b"


async def test_a_head_may_come_byte_by_byte() -> None:
    async with proxied(echo) as (upstream, gateway):
        async with await gateway.connect() as client:
            for byte in request("POST", "/drops", body=b"body"):
                client.send(bytes([byte]))
                await asyncio.sleep(0)
            assert (await client.response()).body == b"/drops"
        await eventually(lambda: upstream.requests[0].body == bytearray(b"body"))


# ── clients that close ───────────────────────────────────────────────────────────────────────────


async def test_a_half_closed_client_gets_its_answer() -> None:
    def scripted(request: RawRequest) -> Script:
        return Script([Wait(0.3), *echo(request).steps], End.KEEP)

    async with proxied(scripted) as (_upstream, gateway), await gateway.connect() as client:
        client.send(get("/said-all"))
        client.writer.write_eof()
        assert (await client.response()).body == b"/said-all"
        assert await client.ended() == "closed"


async def test_a_half_closed_client_gets_the_answers_to_all_that_it_asked() -> None:
    async with proxied(echo) as (_upstream, gateway), await gateway.connect() as client:
        client.send(get("/one") + request("POST", "/two", body=b"body") + get("/three") + b"GET /half HTTP/1.1\r\n")
        client.writer.write_eof()
        assert [(await client.response()).body for _ in range(3)] == [b"/one", b"/two", b"/three"]
        assert await client.ended() == "closed"


async def test_a_half_closed_client_that_reads_late_gets_the_answers_to_all_that_it_asked() -> None:
    def large(request: RawRequest) -> Script:
        return Script([Send(head(200, "Content-Length: 60000") + bytes(60_000))], End.KEEP)

    async with proxied(large) as (_upstream, gateway), await gateway.connect(limit=1024) as client:
        client.send(get("/") * 200)
        await eventually(lambda: any(connection.blocked() for connection in gateway.plane.downstreams))
        client.writer.write_eof()
        await asyncio.sleep(0.05)
        assert [len((await client.response()).body) for _ in range(200)] == [60_000] * 200
        assert await client.ended() == "closed"


async def test_a_half_closed_client_is_not_waited_for_long() -> None:
    async with proxied(silent) as (upstream, gateway):
        async with await gateway.connect() as client:
            client.send(get("/never"))
            await eventually(lambda: upstream.requests)
            client.writer.write_eof()
            assert await client.ended() == "closed"
        (record,) = await gateway.recorded(1)
        assert (record.status, record.decision) == (499, "aborted")
        await eventually(lambda: not upstream.open)


async def test_a_slow_answer_that_has_begun_reaches_a_half_closed_client() -> None:
    def scripted(request: RawRequest) -> Script:
        pause = Wait(downstream.HALF_CLOSE_GRACE / 1e9 + 0.5)
        return Script([Send(head(200, "Content-Length: 4") + b"ab"), pause, Send(b"cd")], End.KEEP)

    async with proxied(scripted) as (_upstream, gateway), await gateway.connect() as client:
        client.send(get("/"))
        client.writer.write_eof()
        assert (await client.response()).body == b"abcd"


@pytest.mark.parametrize("begun", [False, True])
async def test_a_client_that_resets_frees_the_upstream_at_once(begun: bool) -> None:
    def scripted(request: RawRequest) -> Script:
        return Script([Send(head(200, "Content-Length: 10") + b"begun")] if begun else [], End.HANG)

    async with proxied(scripted) as (upstream, gateway):
        client = await gateway.connect()
        client.send(get("/"))
        await eventually(lambda: upstream.requests)
        if begun:
            await client.head()
        client.reset()
        await eventually(lambda: not upstream.open)
        (record,) = await gateway.recorded(1)
        assert (record.status, record.decision) == (200 if begun else 499, "aborted")
        assert not gateway.plane.downstreams


async def test_a_client_that_vanishes_in_its_body_frees_the_upstream() -> None:
    async with proxied(silent) as (upstream, gateway):
        client = await gateway.connect()
        client.send(request("POST", "/up", "Content-Length: 100") + b"some of it")
        await eventually(lambda: upstream.requests)
        client.writer.close()
        await eventually(lambda: not upstream.open)
        (record,) = await gateway.recorded(1)
        assert (record.status, record.decision) == (499, "aborted")


async def test_a_client_that_vanishes_while_its_request_is_decided(tmp_path: Path) -> None:
    from tests.integration.slow_policy import SlowPolicy

    SlowPolicy.waiting.clear()
    text = routed("http://127.0.0.1:9", policies="{slow: {}}")
    async with running_gateway(text, {"slow": SlowPolicy}) as gateway:
        client = await gateway.connect()
        client.send(get("/"))
        await eventually(lambda: SlowPolicy.waiting)
        client.reset()
        (record,) = await gateway.recorded(1)
        assert (record.status, record.decision) == (499, "aborted")
        assert SlowPolicy.waiting[0].done
        SlowPolicy.waiting[0].resolve(SlowPolicy.VERDICT)


# ── stale connections ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (get("/again"), 200),
        (request("PUT", "/again", body=b"whole"), 200),
        (request("DELETE", "/again"), 200),
        (request("POST", "/again", body=b"whole"), 502),
        (request("PATCH", "/again", body=b"whole"), 502),
    ],
)
async def test_a_stale_connection_is_replaced_for_idempotent_methods_only(sent: bytes, status: int) -> None:
    def scripted(request: RawRequest) -> Script:
        # The first connection answers once, and dies without a word when it is used again.
        if request.target == "/again" and request.connection == 1:
            return Script([], End.RESET)
        return echo(request)

    async with proxied(scripted) as (upstream, gateway):
        async with await gateway.connect() as client:
            assert (await client.request(get("/first"))).status == 200
            assert (await client.request(sent)).status == status
        await eventually(lambda: upstream.requests[-1].body == bytearray(b"whole" if b"whole" in sent else b""))
        assert upstream.connections == (2 if status == 200 else 1)


@pytest.mark.parametrize(
    ("framing", "body"), [("Content-Length: 4", b"body"), ("Transfer-Encoding: chunked", chunked(b"body"))]
)
@pytest.mark.parametrize(("method", "status"), [("PUT", 100), ("POST", 502)])
async def test_a_stale_connection_is_replaced_before_the_body_was_asked_for(
    method: str, status: int, framing: str, body: bytes
) -> None:
    def scripted(request: RawRequest) -> Script:
        if request.target != "/again":
            return echo(request)
        if request.connection == 1:
            return Script([], End.RESET)
        return Script([Send(head(100)), Wait(0.05), *echo(request).steps], End.KEEP)

    async with proxied(scripted) as (upstream, gateway), await gateway.connect() as client:
        assert (await client.request(get("/first"))).status == 200
        client.send(request(method, "/again", "Expect: 100-continue", framing))
        assert (await client.response()).status == status
        if status == 100:
            client.send(body)
            assert (await client.response()).status == 200
            await eventually(lambda: bytes(upstream.requests[-1].body) == body)


@pytest.mark.parametrize(
    ("sent", "tries"),
    [
        (get(), 2),
        (request("PUT", "/", body=b"whole"), 2),
        (request("POST", "/", body=b"whole"), 1),
        (request("PATCH", "/", body=b"whole"), 1),
        (request("PURGE", "/"), 1),
    ],
)
async def test_a_connection_that_dies_unanswered_is_tried_again_for_idempotent_methods(sent: bytes, tries: int) -> None:
    def scripted(request: RawRequest) -> Script:
        return Script([], End.CLOSE)

    async with proxied(scripted) as (upstream, gateway), await gateway.connect() as client:
        assert (await client.request(sent)).status == 502
        assert upstream.connections == tries


async def test_a_connection_closed_while_idle_is_not_used_again() -> None:
    def scripted(request: RawRequest) -> Script:
        return Script(echo(request).steps, End.CLOSE)

    async with proxied(scripted) as (upstream, gateway):
        for number in range(3):
            assert (await gateway.get(f"/{number}")).status == 200
            await eventually(lambda: not upstream.open)
        assert upstream.connections == 3


@pytest.mark.parametrize("pieces", [1, 2])
async def test_an_upstream_that_says_close_is_not_used_again(pieces: int) -> None:
    def scripted(request: RawRequest) -> Script:
        first = Send(head(200, "Content-Length: 4", "Connection: close") + b"ab")
        return Script([first, Wait(0.05 * (pieces - 1)), Send(b"cd")], End.HANG)

    async with proxied(scripted) as (upstream, gateway):
        for _ in range(2):
            response = await gateway.get()
            assert (response.body, response.headers.get("connection")) == (b"abcd", None)
        assert upstream.connections == 2


# ── limits on connections ────────────────────────────────────────────────────────────────────────


async def test_connections_past_the_limit_are_told_so() -> None:
    async with proxied(echo, limits="{connections: 2}") as (_upstream, gateway):
        first, second = await gateway.connect(), await gateway.connect()
        assert (await second.request(get("/a"))).status == 200
        async with await gateway.connect() as third:
            refused = await third.response()
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
            assert b"Service overloaded" in refused.body
            assert await third.ended() == "closed"
        first.writer.close()
        await eventually(lambda: len(gateway.plane.downstreams) == 1)
        assert (await gateway.get("/b")).status == 200
        second.writer.close()
