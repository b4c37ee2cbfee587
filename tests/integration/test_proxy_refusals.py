"""What clients may not send: each kind of bad input has its answer, which the client can read, and nothing passes."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from tests.integration.gateways import MINUTE, chunked, eventually, get, proxied, request, routed, running_gateway
from tests.integration.slow_policy import SlowPolicy
from upstream_stub.misbehaviours import head
from upstream_stub.raw import RawRequest, RawServer
from upstream_stub.steps import End, Script, Send

HOST = b"Host: gateway.example.org\r\n"


def ok(request: RawRequest) -> Script:
    return Script([Send(head(200, "Content-Length: 2") + b"ok")], End.KEEP)


REFUSED: list[tuple[str, bytes, int]] = [
    ("garbage", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ("no version", b"GET /\r\n\r\n", 400),
    ("two spaces", b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("control in the target", b"GET /a\x01b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("NUL in the target", b"GET /a\x00b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("DEL in the target", b"GET /a\x7fb HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("tab in the target", b"GET /a\tb HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("high byte in the target", b"GET /a\xe4b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("encoded NUL", get("/a%00b"), 400),
    ("encoded control", get("/a%0ab"), 400),
    ("encoded slash", get("/a%2fb"), 400),
    ("encoded backslash", get("/a%5Cb"), 400),
    ("backslash", get("/a\\b"), 400),
    ("climbing", get("/../etc/passwd"), 400),
    ("encoded dots", get("/a/%2e%2e/b"), 400),
    ("parameter dots", get("/a/..;/b"), 400),
    ("neither path nor URL", get("no-slash"), 400),
    ("userinfo", get("http://user@gateway.example.org/"), 400),
    ("another scheme", get("ftp://gateway.example.org/"), 400),
    ("absolute form with a bad host", get("http://a b/"), 400),
    ("asterisk with GET", get("*"), 400),
    ("no Host", b"GET / HTTP/1.1\r\n\r\n", 400),
    ("two Hosts", get("/", "Host: other.example.org"), 400),
    ("bad Host", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    ("empty Host", b"GET / HTTP/1.1\r\nHost: \r\n\r\n", 400),
    ("obs-fold", b"GET / HTTP/1.1\r\n" + HOST + b"X-A: 1\r\n 2\r\n\r\n", 400),
    ("space before the colon", b"GET / HTTP/1.1\r\n" + HOST + b"X-A : 1\r\n\r\n", 400),
    ("no colon", b"GET / HTTP/1.1\r\n" + HOST + b"words\r\n\r\n", 400),
    ("empty name", b"GET / HTTP/1.1\r\n" + HOST + b": 1\r\n\r\n", 400),
    ("NUL in a value", b"GET / HTTP/1.1\r\n" + HOST + b"X-A: a\x00b\r\n\r\n", 400),
    ("bare CR in a value", b"GET / HTTP/1.1\r\n" + HOST + b"X-A: a\rb\r\n\r\n", 400),
    ("bare LF lines", b"GET / HTTP/1.1\nHost: a\n\n", 400),
    ("one bare LF", b"GET / HTTP/1.1\r\nHost: a\nX-A: 1\r\n\r\n", 400),
    ("two lengths", request("POST", "/", "Content-Length: 1", "Content-Length: 1") + b"a", 400),
    ("list of lengths", request("POST", "/", "Content-Length: 1, 1") + b"a", 400),
    ("signed length", request("POST", "/", "Content-Length: +1") + b"a", 400),
    ("negative length", request("POST", "/", "Content-Length: -1") + b"a", 400),
    ("hexadecimal length", request("POST", "/", "Content-Length: 0x1") + b"a", 400),
    ("huge length", request("POST", "/", "Content-Length: " + "9" * 30) + b"a", 400),
    ("length and coding", request("POST", "/", "Content-Length: 1", "Transfer-Encoding: chunked") + chunked(), 400),
    ("coding in 1.0", request("POST", "/", "Transfer-Encoding: chunked", version="1.0") + chunked(), 400),
    ("chunked twice", request("POST", "/", "Transfer-Encoding: chunked, chunked") + chunked(), 400),
    ("two codings", request("POST", "/", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked") + chunked(), 400),
    ("chunked not last", request("POST", "/", "Transfer-Encoding: chunked, gzip") + chunked(), 400),
    ("bad chunk", request("POST", "/", "Transfer-Encoding: chunked") + b"zz\r\n", 400),
    ("chunk ended by LF", request("POST", "/", "Transfer-Encoding: chunked") + b"1\na\n0\n\n", 400),
    ("unknown coding", request("POST", "/", "Transfer-Encoding: gzip, chunked") + chunked(), 501),
    ("coding with a vertical tab", request("POST", "/", "Transfer-Encoding: \x0bchunked") + chunked(), 400),
    ("CONNECT", b"CONNECT gateway.example.org:443 HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    ("TRACE", request("TRACE", "/"), 405),
    ("HTTP/2.0", get("/", version="2.0"), 505),
    ("HTTP/1.2", get("/", version="1.2"), 505),
    ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("HTTP/0.9", b"GET / HTTP/0.9\r\n" + HOST + b"\r\n", 505),
    ("RTSP", b"GET / RTSP/1.0\r\n" + HOST + b"\r\n", 400),
    ("long target", get("/" + "a" * 8192), 414),
    ("very long target", get("/" + "a" * 100_000), 414),
    ("many fields", get("/", *(f"X-{number}: 1" for number in range(100))), 431),
    ("long field", get("/", "X-Long: " + "a" * 40_000), 431),
    ("a megabyte of field", get("/", "X-Long: " + "a" * 1_000_000), 431),
    ("a megabyte of fields", get("/", *(f"X-{number}: {'a' * 100}" for number in range(10_000))), 431),
]


@pytest.mark.parametrize(("sent", "status"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
async def test_bad_input_is_refused_and_the_connection_closed(sent: bytes, status: int) -> None:
    async with proxied(ok) as (upstream, gateway), await gateway.connect() as client:
        client.send(sent)
        response = await client.response()
        assert response.status == status
        assert response.headers["connection"] == "close"
        assert ("allow" in response.headers) is (status == 405)
        answer = json.loads(response.body)
        assert answer.keys() == {"error", "status_code", "reason", "request_id"}
        assert answer["status_code"] == status
        assert await client.ended() == "closed"
        assert not upstream.requests
        (record,) = await gateway.recorded(1)
        assert (record.status, record.decision) == (status, "denied")


@pytest.mark.parametrize(
    ("sent", "media"),
    [
        (request("TRACE", "/", "Accept: text/plain"), "text/plain; charset=utf-8"),
        (request("TRACE", "/", "accept:application/problem+json"), "application/problem+json"),
        (get("/", "Accept: text/html", version="2.0"), "text/html; charset=utf-8"),
        (get("/", "Accept: text/plain", "No colon"), "text/plain; charset=utf-8"),
        (get("/", "X-Long: " + "a" * 40_000, "ACCEPT: text/plain"), "text/plain; charset=utf-8"),
        (get("/", "No colon") + b"Accept: text/plain\r\n", "application/json; charset=utf-8"),
    ],
)
async def test_a_refusal_at_the_door_comes_in_the_form_that_is_preferred(sent: bytes, media: str) -> None:
    async with proxied(ok) as (_, gateway), await gateway.connect() as client:
        client.send(sent)
        assert (await client.response()).headers["content-type"] == media


async def test_a_refused_head_gets_no_body() -> None:
    async with proxied(ok) as (_, gateway), await gateway.connect() as client:
        client.send(request("HEAD", "/", "No colon"))
        response = await client.response("HEAD")
        assert (response.status, int(response.headers["content-length"]) > 0) == (400, True)
        assert await client.rest() == b""


ACCEPTED: list[tuple[str, bytes, str]] = [
    ("absolute form", get("http://Gateway.Example.org/a?b=c"), "/a?b=c"),
    ("absolute form without a path", get("http://gateway.example.org?b=c"), "/?b=c"),
    ("the largest target", get("/" + "a" * 8191), "/" + "a" * 8191),
    ("the most fields", get("/", *(f"X-{number}: 1" for number in range(99))), "/"),
    ("another method", request("PURGE", "/a"), "/a"),
    ("a WebDAV method", request("PROPFIND", "/a"), "/a"),
    ("a method with odd characters", request("M-SEARCH", "/a"), "/a"),
    ("dot segments", get("/a/./b/../c"), "/a/c"),
    ("the query, byte for byte", get("/a?x=%2F%2e;&&=\\'\"{}|^`[]"), "/a?x=%2F%2e;&&=\\'\"{}|^`[]"),
    ("an empty query", get("/a?"), "/a?"),
    ("bytes beyond ASCII in a value", b"GET /a HTTP/1.1\r\n" + HOST + b"X-Name: J\xc3\xb6rg\r\n\r\n", "/a"),
    ("two Accepts", get("/a", "Accept: a/b", "Accept: c/d"), "/a"),
]


@pytest.mark.parametrize(("sent", "target"), [case[1:] for case in ACCEPTED], ids=[case[0] for case in ACCEPTED])
async def test_what_is_only_unusual_passes(sent: bytes, target: str) -> None:
    async with proxied(ok) as (upstream, gateway), await gateway.connect() as client:
        assert (await client.request(sent)).status == 200
        assert upstream.requests[0].target == target
        assert upstream.requests[0].method == sent.split(b" ")[0].decode()


async def test_an_absolute_target_overrides_the_host() -> None:
    async with (
        proxied(ok, route="paths: [/]\n        hosts: [a.example.org]") as (upstream, gateway),
        await gateway.connect() as client,
    ):
        assert (await client.request(get("http://A.example.org:80/"))).status == 200
        assert upstream.requests[0].header("X-Forwarded-Host") == "A.example.org:80"
        assert (await client.request(get("/"))).status == 404


@pytest.mark.parametrize(
    ("asked", "status", "forwarded"),
    [
        (request("OPTIONS", "*"), 204, None),
        (request("OPTIONS", "*", "Max-Forwards: 5"), 204, None),
        (request("OPTIONS", "http://a.example.org"), 204, None),  # RFC 9112 §3.2.4: the same
        (request("OPTIONS", "/a", "Max-Forwards: 0"), 204, None),
        (request("OPTIONS", "/a", "Max-Forwards: 3"), 200, "2"),
        (request("OPTIONS", "/a", "Max-Forwards: -1"), 400, None),
        (request("OPTIONS", "/a", "Max-Forwards: 1", "Max-Forwards: 2"), 400, None),
        (request("GET", "/a", "Max-Forwards: 0"), 200, "0"),  # it counts for TRACE and OPTIONS alone
    ],
)
async def test_options_that_are_ours_to_answer(asked: bytes, status: int, forwarded: str | None) -> None:
    async with proxied(ok) as (upstream, gateway), await gateway.connect() as client:
        response = await client.request(asked)
        assert response.status == status
        assert ("allow" in response.headers) == (status == 204)
        assert [seen.header("Max-Forwards") for seen in upstream.requests] == ([forwarded] if forwarded else [])


async def test_two_authorization_headers() -> None:
    text = "{auth: {any_of: [api-key]}}"
    async with proxied(ok, policies=text) as (upstream, gateway), await gateway.connect() as client:
        lines = ("Authorization: Bearer pnpub_a.pnsec_b", "Authorization: Bearer pnpub_a.pnsec_b")
        response = await client.request(get("/", *lines))
        assert response.status == 400
        assert not upstream.requests


async def test_no_route() -> None:
    async with proxied(ok, route="paths: [/a]") as (_, gateway), await gateway.connect() as client:
        response = await client.request(get("/b"))
        assert (response.status, "connection" in response.headers) == (404, False)
        assert json.loads(response.body)["error"] == "No route matched with those values"
        assert (await client.request(get("/a"))).status == 200


# ── limits on bodies ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request("POST", "/", body=b"x" * 100), 200),
        (request("POST", "/", body=b"x" * 101), 413),
        (request("POST", "/", "Content-Length: 1000000000"), 413),
        (request("POST", "/", "Transfer-Encoding: chunked") + chunked(b"x" * 60, b"x" * 40), 200),
        (request("POST", "/", "Transfer-Encoding: chunked") + chunked(b"x" * 60, b"x" * 41), 413),
        (request("POST", "/", "Transfer-Encoding: chunked") + b"fffffff\r\n" + b"x" * 1000, 413),
    ],
)
async def test_a_body_limit(sent: bytes, status: int) -> None:
    async with (
        proxied(ok, policies="{request-size-limiting: {max: 100}}") as (_, gateway),
        await gateway.connect() as client,
    ):
        client.send(sent)
        assert (await client.response()).status == status


async def test_a_chunked_body_grows_past_its_limit_while_it_is_forwarded() -> None:
    def patient(request: RawRequest) -> Script:
        return Script([], End.HANG)

    async with (
        proxied(patient, policies="{request-size-limiting: {max: 100}}") as (upstream, gateway),
        await gateway.connect() as client,
    ):
        client.send(request("POST", "/", "Transfer-Encoding: chunked") + b"32\r\n" + b"x" * 50 + b"\r\n")
        await eventually(lambda: upstream.requests)
        client.send(b"33\r\n" + b"x" * 51 + b"\r\n")
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (413, "close")
        await eventually(lambda: not upstream.open)


async def test_a_refused_upload_can_read_its_answer() -> None:
    async with (
        proxied(ok, policies="{request-size-limiting: {max: 100}}") as (_, gateway),
        await gateway.connect() as client,
    ):
        client.send(request("POST", "/", "Content-Length: 4000000"))
        for _ in range(40):
            client.send(b"x" * 100_000)
            await asyncio.sleep(0)
        assert (await client.response()).status == 413


# ── clients that are slow ────────────────────────────────────────────────────────────────────────

QUICK = "{header_timeout: 500ms, body_timeout: 500ms, idle_timeout: 700ms}"
#: For what is judged at moments that a test names (`Gateway.deadlines`).
SLOW = "{header_timeout: 1m, body_timeout: 1m, idle_timeout: 1m}"


@pytest.mark.parametrize(
    "pieces",
    [
        [b"GET / HT"],
        [b"GET / HTTP/1.1\r\n"] + [b"X: 1\r\n"] * 20,
        [b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nab"],
        [b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"],
    ],
    ids=["request line", "drops of a head", "body", "chunks"],
)
async def test_a_slow_client_times_out(pieces: list[bytes]) -> None:
    """When its time is over, not before; what comes of a head meanwhile buys no more of it."""
    async with proxied(hangs, limits=SLOW) as (upstream, gateway):
        began = time.monotonic_ns()
        async with await gateway.connect() as client:
            client.send(pieces[0])
            await eventually(lambda: upstream.requests if b"\r\n\r\n" in pieces[0] else gateway.plane.downstreams)
            waiting = time.monotonic_ns()
            for piece in pieces[1:]:
                client.send(piece)
                await asyncio.sleep(0.005)
            gateway.deadlines(began + MINUTE - 1)
            assert not gateway.records
            gateway.deadlines(waiting + MINUTE)
            response = await client.response()
            assert (response.status, response.headers["connection"]) == (408, "close")
            assert await client.ended() == "closed"


def hangs(request: RawRequest) -> Script:
    """Never answers in time."""
    return Script([], End.HANG)


async def test_a_second_head_has_its_own_time() -> None:
    """However long the connection was idle before."""
    async with proxied(ok, limits=SLOW) as (_, gateway), await gateway.connect() as client:
        assert (await client.request(get("/"))).status == 200
        (connection,) = gateway.plane.downstreams
        idle, until = time.monotonic_ns(), connection.deadline
        client.send(b"GET / HTTP/1.1\r\n")
        await eventually(lambda: connection.deadline != until)
        gateway.deadlines(idle + MINUTE)
        assert (await client.request(HOST + b"\r\n")).status == 200


async def test_a_steady_body_may_take_long() -> None:
    limits = SLOW.replace("}", ", body_rate: 0}")
    async with proxied(hangs, limits=limits) as (upstream, gateway), await gateway.connect() as client:
        client.send(request("POST", "/", "Content-Length: 8"))
        await eventually(lambda: upstream.requests)
        for number in range(1, 9):
            before = time.monotonic_ns()
            client.send(b"x")
            await eventually(lambda: len(upstream.requests[0].body) == number)  # noqa: B023 - it is awaited here
            gateway.deadlines(before + MINUTE)
        assert not gateway.records


async def test_a_body_that_trickles_is_refused() -> None:
    async with proxied(hangs, limits=QUICK) as (_, gateway), await gateway.connect() as client:
        client.send(request("POST", "/", "Content-Length: 1000"))
        answer = asyncio.create_task(client.response())
        while not answer.done():
            client.send(b"x")
            await asyncio.sleep(0.1)
        assert (await answer).status == 408


@pytest.mark.parametrize("first", [b"", get("/")])
async def test_empty_lines_buy_no_time(first: bytes) -> None:
    async with proxied(ok, limits=QUICK) as (_, gateway), await gateway.connect() as client:
        client.send(first)
        if first:
            assert (await client.response()).status == 200
        ended = asyncio.create_task(client.ended())
        while not ended.done():
            client.send(b"\r\n")
            await asyncio.sleep(0.1)
        assert await ended in ("closed", "reset")


@pytest.mark.parametrize("first", [b"", get("/"), b"\r\n"])
async def test_an_idle_connection_is_closed_without_a_word(first: bytes) -> None:
    async with proxied(ok, limits=QUICK) as (_, gateway), await gateway.connect() as client:
        began = time.monotonic()
        client.send(first)
        if first.strip():
            assert (await client.response()).status == 200
        assert await client.ended() == "closed"
        assert time.monotonic() - began > 0.4


async def test_a_request_that_waits_for_its_decision_is_bounded_in_memory() -> None:
    """64 KiB of its body are held, then the client has to wait."""
    SlowPolicy.waiting.clear()
    async with (
        RawServer(ok) as upstream,
        running_gateway(routed(upstream.url, policies="{slow: {}}"), {"slow": SlowPolicy}) as gateway,
        await gateway.connect() as client,
    ):
        client.send(request("POST", "/", "Content-Length: 50000000"))
        feeding = asyncio.create_task(_feed(client.writer, 50_000_000))
        await eventually(lambda: SlowPolicy.waiting)
        await asyncio.sleep(0.3)
        (connection,) = gateway.plane.downstreams
        assert connection.exchange is not None
        assert connection.exchange.received < 1 << 20
        SlowPolicy.waiting[0].resolve(SlowPolicy.VERDICT)
        assert (await client.response()).status == 200
        feeding.cancel()


async def _feed(writer: asyncio.StreamWriter, total: int) -> None:
    for _ in range(total // 65536):
        writer.write(b"x" * 65536)
        await writer.drain()
