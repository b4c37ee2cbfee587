"""Bodies and heads over real sockets: each framing in each direction, responses without bodies, 1xx, Expect."""

from __future__ import annotations

import asyncio

import pytest

from gateway.proxy.exchange import MAX_INTERIM
from tests.integration.gateways import Client, chunked, eventually, get, proxied, request, routed, running_gateway
from upstream_stub.misbehaviours import chunk, head
from upstream_stub.raw import RawRequest, Scripted
from upstream_stub.steps import End, Script, Send, Wait

BIG = b"0123456789abcdef" * 65536


def says(data: bytes, end: End = End.KEEP) -> Scripted:
    return lambda request: Script([Send(data)], end)


def ok(request: RawRequest) -> Script:
    return Script([Send(head(200, "Content-Length: 2") + b"ok")], End.KEEP)


async def still_usable(client: Client) -> bool:
    """The connection carries another request: the framing before it was read as it was written."""
    client.send(get("/next"))
    return (await client.response()).status == 200


# ── responses without a body ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("method", "answer", "status", "length"),
    [
        ("HEAD", head(200, "Content-Length: 1234"), 200, "1234"),
        ("HEAD", head(200, "Transfer-Encoding: chunked"), 200, None),
        ("HEAD", head(200), 200, None),
        ("HEAD", head(404, "Content-Length: 7"), 404, "7"),
        ("GET", head(204), 204, None),
        ("GET", head(204, "Content-Length: 0"), 204, None),
        ("GET", head(304, "ETag: x"), 304, None),
        ("GET", head(304, "Content-Length: 1234"), 304, "1234"),
        ("GET", head(304, "Transfer-Encoding: chunked"), 304, None),
        ("GET", head(200, "Content-Length: 0"), 200, "0"),
        ("OPTIONS", head(200, "Content-Length: 0"), 200, "0"),
    ],
)
async def test_responses_without_a_body(method: str, answer: bytes, status: int, length: str | None) -> None:
    def scripted(request: RawRequest) -> Script:
        return ok(request) if request.target == "/next" else says(answer)(request)

    async with proxied(scripted) as (upstream, gateway), await gateway.connect() as client:
        response = await client.request(request(method, "/"), method)
        assert (response.status, response.headers.get("content-length"), response.body) == (status, length, b"")
        assert "transfer-encoding" not in response.headers
        assert await still_usable(client)
        assert upstream.connections == 1


@pytest.mark.parametrize(
    "date", [(), ("Date: Sun, 06 Nov 1994 08:49:37 GMT",), ("date: Sun, 06 Nov 1994 08:49:37 GMT",)]
)
async def test_a_response_has_one_date(date: tuple[str, ...]) -> None:
    async with proxied(says(head(200, "Content-Length: 0", *date))) as (_, gateway):
        (line,) = [line for line in (await gateway.get()).lines if line.lower().startswith(b"date:")]
        assert line.decode() in date or not date


async def test_a_head_refused_by_the_gateway_has_no_body() -> None:
    async with (
        proxied(ok, policies='{request-termination: {status: 200, body: "pong"}}') as (_, gateway),
        await gateway.connect() as client,
    ):
        response = await client.request(request("HEAD", "/"), "HEAD")
        assert (response.status, response.headers["content-length"]) == (200, "4")
        assert (await client.request(get("/"))).body == b"pong"


# ── bodies of responses ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize(
    ("answer", "end"),
    [
        (head(200, f"Content-Length: {len(BIG)}") + BIG, End.KEEP),
        (head(200, "Transfer-Encoding: chunked") + chunk(BIG[:7]) + chunk(BIG[7:]) + b"0\r\n\r\n", End.KEEP),
        (head(200, "Transfer-Encoding: Chunked") + b"00100000;a=b\r\n" + BIG + b"\r\n000;c\r\nA: 1\r\n\r\n", End.KEEP),
        (head(200) + BIG, End.CLOSE),
        (head(200, "Connection: close") + BIG, End.CLOSE),
        (b"HTTP/1.0 200 OK\r\n\r\n" + BIG, End.CLOSE),
        (b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BIG) + BIG, End.CLOSE),
        (b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\nConnection: keep-alive\r\n\r\n" % len(BIG) + BIG, End.KEEP),
    ],
    ids=["length", "chunked", "chunked-with-extras", "until-close", "close", "1.0", "1.0-length", "1.0-keep-alive"],
)
async def test_a_response_body_arrives_whole(answer: bytes, end: End, version: str) -> None:
    async with proxied(says(answer, end)) as (upstream, gateway), await gateway.connect() as client:
        asked = get("/", "Connection: keep-alive", version=version)
        response = await client.request(asked)
        assert (response.version, response.status) == ("HTTP/1.1", 200)
        assert response.body == BIG
        framed = {"content-length", "transfer-encoding"} & response.headers.keys()
        if version == "1.0" and "content-length" not in response.headers:
            assert not framed
            assert await client.ended() == "closed"
        else:
            assert len(framed) == 1
            assert (await client.request(asked)).body == BIG
            assert upstream.connections == (1 if end is End.KEEP else 2)


async def test_an_empty_until_close_body() -> None:
    async with proxied(says(head(200), End.CLOSE)) as (_, gateway):
        assert (await gateway.get()).body == b""


@pytest.mark.parametrize(
    ("asked", "came"),
    [
        (get(), None),
        (get("/", "TE: deflate"), None),
        (get("/", "TE: trailers", version="1.0"), None),
        (get("/", "TE: trailers"), b"X-Sum: 1\r\n"),
        (get("/", "Connection: TE", "TE: deflate;q=0.5, Trailers"), b"X-Sum: 1\r\n"),
    ],
)
async def test_a_response_s_trailers_reach_who_takes_them(asked: bytes, came: bytes | None) -> None:
    section = b"X-Sum: 1\r\nContent-Length: 9\r\nSet-Cookie: a=b\r\nX-Hop: 1\r\n"
    answer = (
        head(200, "Transfer-Encoding: chunked", "Trailer: X-Sum", "Connection: X-Hop")
        + chunk(b"body")
        + b"0\r\n"
        + section
        + b"\r\n"
    )
    async with proxied(says(answer)) as (upstream, gateway), await gateway.connect() as client:
        client.send(asked)
        begun = await client.head()
        assert begun.headers.get("trailer") == (None if came is None else "X-Sum")
        whole = b"4\r\nbody\r\n0\r\n" + (came or b"") + b"\r\n"
        if begun.headers.get("transfer-encoding") == "chunked":
            assert await client.reader.readexactly(len(whole)) == whole
        else:
            assert await client.rest() == b"body"
        (seen,) = upstream.requests
        wanted = b"trailers" in asked.lower() and b"HTTP/1.1" in asked
        assert (seen.header("TE"), seen.header("Connection")) == (("trailers", "TE") if wanted else (None, None))


@pytest.mark.parametrize(
    ("sent", "forwarded"),
    [
        (b"X-Sum: 1", b"X-Sum: 1"),
        (b"X-Consumer-ID: forged", b""),
        (b"x_consumer_id: forged", b""),
        (b"X-Forwarded-For: 1.2.3.4", b""),
        (b"X-HTTP-Method-Override: DELETE", b""),
        (b"Authorization: Bearer x", b""),
        (b"Content-Length: 5", b""),
        (b"Content_Length: 5", b""),
        (b"Transfer-Encoding: chunked", b""),
        (b"Host: elsewhere", b""),
        (b"Cookie: a=b", b""),
        (b"Content-Type: text/html", b""),
        (b"X-Nominated: 1", b""),
        (b"X-Request-ID: 1", b""),
    ],
)
async def test_a_request_s_trailers_pass_as_headers_would(sent: bytes, forwarded: bytes) -> None:
    name = sent.partition(b":")[0].decode()
    begin = request("POST", "/", "Transfer-Encoding: chunked", f"Trailer: {name}", "Connection: X-Nominated")
    async with proxied(ok) as (upstream, gateway), await gateway.connect() as client:
        assert (await client.request(begin + chunked(b"a", end=b"0\r\n" + sent + b"\r\n\r\n"))).status == 200
        (seen,) = upstream.requests
        expected = b"1\r\na\r\n0\r\n" + (forwarded + b"\r\n" if forwarded else b"") + b"\r\n"
        await eventually(lambda: bytes(seen.body).endswith(b"\r\n\r\n"))
        assert bytes(seen.body) == expected
        assert seen.header("Trailer") == (name.lower() if forwarded else None)


async def test_server_sent_events_flow_as_they_come() -> None:
    """Each is there before the next one is said; gathered ones would be waited for in vain."""
    seen = asyncio.Queue[None]()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head(200, "Content-Type: text/event-stream", "Transfer-Encoding: chunked"))
        for number in range(3):
            await seen.get()
            writer.write(chunk(b"data: %d\n\n" % number))
        writer.write(b"0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, running_gateway(routed(url)) as gateway, await gateway.connect() as client:
        client.send(get("/events"))
        await client.head()
        for number in range(3):
            seen.put_nowait(None)
            assert await client.reader.readuntil(b"\n\n\r\n") == b"9\r\ndata: %d\n\n\r\n" % number
        assert await client.reader.readexactly(5) == b"0\r\n\r\n"


# ── bodies of requests ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("sent", "framing", "received"),
    [
        (request("POST", "/", body=b"body"), "content-length: 4", b"body"),
        (request("POST", "/", "Content-Length: 0"), "content-length: 0", b""),
        (request("PUT", "/", body=BIG), f"content-length: {len(BIG)}", BIG),
        (request("GET", "/", body=b"on a GET"), "content-length: 8", b"on a GET"),
        (request("POST", "/", "Content-Length: 0004") + b"body", "content-length: 4", b"body"),
        (request("POST", "/", "Transfer-Encoding: chunked") + chunked(b"a", b"b"), "transfer-encoding: chunked", b"ab"),
        (request("POST", "/", "Transfer-Encoding: CHUNKED") + chunked(), "transfer-encoding: chunked", b""),
        (request("POST", "/", "Transfer-Encoding: chunked") + chunked(BIG), "transfer-encoding: chunked", BIG),
        (
            request("POST", "/", "Transfer-Encoding: chunked", "Trailer: X-Consumer-ID")
            + b'4 ; a = "b;c"\r\nbody\r\n0\r\nX-Consumer-ID: forged\r\n\r\n',
            "transfer-encoding: chunked",
            b"body",
        ),
        (request("POST", "/", version="1.0") + b"", "", b""),
        (request("POST", "/", body=b"old", version="1.0"), "content-length: 3", b"old"),
    ],
)
async def test_a_request_body_arrives_whole(sent: bytes, framing: str, received: bytes) -> None:
    async with proxied(ok) as (upstream, gateway), await gateway.connect() as client:
        assert (await client.request(sent)).status == 200
        (seen,) = upstream.requests
        await eventually(lambda: unframed(seen) == received)
        names = {"content-length", "transfer-encoding", "trailer"}
        assert [f"{n}: {v}".lower() for n, v in seen.headers if n.lower() in names] == ([framing] if framing else [])
        assert b"forged" not in bytes(seen.body)


def unframed(seen: RawRequest) -> bytes:
    """A request's body as a strict reader sees it."""
    from gateway.proxy.framing import ChunkedReader

    if seen.header("Transfer-Encoding") is None:
        return bytes(seen.body)
    reader = ChunkedReader()
    payload, rest = reader.feed(bytes(seen.body))
    assert not rest
    assert reader.done or not seen.body
    return payload if reader.done else b"incomplete"


async def test_chunks_flow_to_the_upstream_before_the_body_is_complete() -> None:
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        received.append(await reader.readexactly(8))
        received.append(await reader.readexactly(9 + 5))
        writer.write(head(200, "Content-Length: 0"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async with (
        server,
        running_gateway(routed(f"http://127.0.0.1:{port}")) as gateway,
        await gateway.connect() as client,
    ):
        client.send(request("POST", "/", "Transfer-Encoding: chunked") + b"3\r\none\r\n")
        await eventually(lambda: len(received) == 1)
        client.send(b"4\r\ntwo!\r\n0\r\n\r\n")
        assert (await client.response()).status == 200
    assert received == [b"3\r\none\r\n", b"4\r\ntwo!\r\n0\r\n\r\n"]


# ── answers while the body is still coming ───────────────────────────────────────────────────────


async def test_an_early_answer_to_a_short_body_keeps_the_client() -> None:
    async with proxied(ok) as (upstream, gateway), await gateway.connect() as client:
        client.send(request("POST", "/", "Content-Length: 10") + b"01234")
        assert (await client.response()).status == 200
        client.send(b"56789")
        assert await still_usable(client)
        # The upstream's connection was in the middle of a request: it is not used again.
        assert upstream.connections == 2


@pytest.mark.parametrize("framing", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
async def test_an_early_answer_to_a_long_body_ends_the_connection_after_the_answer(framing: str) -> None:
    async with proxied(ok) as (_, gateway), await gateway.connect() as client:
        client.send(request("POST", "/", framing) + (b"5\r\n12345\r\n" if "chunked" in framing else b"12345"))
        response = await client.response()
        assert (response.status, response.body, response.headers["connection"]) == (200, b"ok", "close")
        client.send(b"x" * 100_000)  # what is still on its way does not reset the answer
        assert await client.ended() == "closed"


async def test_an_answer_that_ends_before_a_long_body_does() -> None:
    """The head promised to keep the connection, before anybody knew that the body would be left unread."""

    def scripted(request: RawRequest) -> Script:
        return Script([Send(head(200, "Content-Length: 4") + b"ab"), Wait(0.1), Send(b"cd")], End.KEEP)

    async with proxied(scripted) as (_, gateway), await gateway.connect() as client:
        client.send(request("POST", "/", "Content-Length: 1000000") + b"12345")
        assert (await client.response()).body == b"abcd"
        assert await client.ended() == "closed"


# ── 1xx and Expect ───────────────────────────────────────────────────────────────────────────────


async def test_early_hints_are_relayed() -> None:
    hints = head(103, "Link: </style.css>; rel=preload", "Connection: x-hop", "X-Hop: 1")
    async with (
        proxied(says(hints * 2 + head(200, "Content-Length: 2") + b"ok")) as (_, gateway),
        await gateway.connect() as client,
    ):
        client.send(get("/"))
        for _ in range(2):
            hint = await client.response()
            assert (hint.status, hint.headers) == (103, {"link": "</style.css>; rel=preload"})
        assert (await client.response()).body == b"ok"


async def test_http_1_0_clients_get_no_interim_response() -> None:
    answer = head(100) + head(103) + head(200, "Content-Length: 2") + b"ok"
    async with proxied(says(answer)) as (_, gateway), await gateway.connect() as client:
        assert (await client.request(get("/", version="1.0"))).status == 200


async def test_a_100_that_nobody_asked_for_is_dropped() -> None:
    answer = head(100) + head(200, "Content-Length: 2") + b"ok"
    async with proxied(says(answer)) as (_, gateway), await gateway.connect() as client:
        assert (await client.request(request("POST", "/", body=b"body"))).status == 200


@pytest.mark.parametrize(("number", "status"), [(MAX_INTERIM, 200), (MAX_INTERIM + 1, 502), (10_000, 502)])
async def test_interim_responses_are_bounded(number: int, status: int) -> None:
    answer = head(103) * number + head(200, "Content-Length: 2") + b"ok"
    async with proxied(says(answer)) as (_, gateway), await gateway.connect() as client:
        client.send(get("/"))
        for _ in range(min(number, MAX_INTERIM)):
            assert (await client.response()).status == 103
        assert (await client.response()).status == status


async def test_a_101_that_nobody_asked_for_is_refused() -> None:
    answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: upgrade\r\n\r\nraw"
    async with proxied(says(answer)) as (upstream, gateway), await gateway.connect() as client:
        response = await client.request(get("/", "Connection: upgrade", "Upgrade: websocket"))
        assert response.status == 502
        assert b"raw" not in response.body
        assert upstream.requests[0].header("Upgrade") is None
        assert upstream.requests[0].header("Connection") is None


async def test_expect_100_continue_is_relayed() -> None:
    def scripted(request: RawRequest) -> Script:
        return Script([Send(head(100)), Wait(0.1), Send(head(201, "Content-Length: 0"))], End.KEEP)

    async with proxied(scripted) as (upstream, gateway), await gateway.connect() as client:
        client.send(request("PUT", "/", "Expect: 100-Continue", "Content-Length: 4"))
        assert (await client.response()).status == 100
        assert upstream.requests[0].header("Expect") == "100-continue"
        client.send(b"body")
        assert (await client.response()).status == 201
        await eventually(lambda: upstream.requests[0].body == bytearray(b"body"))


@pytest.mark.parametrize(
    "steps", [[Send(head(417, "Content-Length: 0"))], [Send(head(417, "Content-Length: 2")), Wait(0.05), Send(b"no")]]
)
async def test_expect_100_continue_answered_with_a_final_status(steps: list[Send | Wait]) -> None:
    """Whether the client sends its body is then its own affair: the connection cannot be used again."""
    async with proxied(lambda _: Script([*steps], End.KEEP)) as (_, gateway), await gateway.connect() as client:
        response = await client.request(request("PUT", "/", "Expect: 100-continue", "Content-Length: 4"))
        assert (response.status, response.headers["connection"]) == (417, "close")
        assert await client.ended() == "closed"


async def test_expect_100_continue_refused_by_the_gateway() -> None:
    async with proxied(ok, policies="{request-size-limiting: {max: 10}}") as (upstream, gateway):
        async with await gateway.connect() as client:
            response = await client.request(request("PUT", "/", "Expect: 100-continue", "Content-Length: 4000"))
            assert (response.status, response.headers["connection"]) == (413, "close")
            assert await client.ended() == "closed"
        assert not upstream.requests


async def test_a_client_need_not_wait_for_its_100() -> None:
    async with proxied(ok) as (upstream, gateway), await gateway.connect() as client:
        client.send(request("PUT", "/", "Expect: 100-continue", body=b"body"))
        assert (await client.response()).status == 200
        await eventually(lambda: upstream.requests[0].body == bytearray(b"body"))
        assert await still_usable(client)


async def test_an_unknown_expectation_is_refused() -> None:
    async with proxied(ok) as (_, gateway), await gateway.connect() as client:
        assert (await client.request(get("/", "Expect: the-spanish-inquisition"))).status == 417
