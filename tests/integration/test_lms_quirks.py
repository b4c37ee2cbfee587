"""What particular learning platforms do, through the gateway to an upstream that records what it got.

Canvas, Moodle, Open edX and WordPress each have habits that a gateway can break by meaning well: a 403 that is no
refusal, an error under 200, a credential in a place of its own, a redirect that depends on the scheme.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable

import pytest

from tests.integration.gateways import Client, Keys, Response, chunked, eventually, get, proxied, request
from tests.policies.helpers import make_identity
from upstream_stub.misbehaviours import chunk, head
from upstream_stub.raw import RawRequest
from upstream_stub.steps import End, Script, Send, Step, Until

KEY = "pnpub_k.pnsec_k"
KEYS = Keys({KEY.encode(): make_identity(username="mobile_app")})
KEYED = "{auth: {any_of: [api-key]}}"


def answering(status: int, *lines: str, body: bytes = b"", length: int | None = None) -> Callable[[RawRequest], Script]:
    """An upstream that always answers so; `length` where it is not the body's."""
    framing = [] if status in (204, 304) else [f"Content-Length: {len(body) if length is None else length}"]
    return lambda seen: Script([Send(head(status, *lines, *framing) + body)], End.KEEP)


def relayed(response: Response, lines: tuple[str, ...]) -> bool:
    """Did these header lines of the upstream's come through, byte for byte and in their order?"""
    return [line for line in response.lines if line.decode("latin-1") in lines] == [line.encode() for line in lines]


# ── Canvas ──────────────────────────────────────────────────────────────────────────────────────


async def test_canvas_throttles_by_itself() -> None:
    """Canvas says 403 where others say 429; it is the application's answer, not one of ours."""
    lines = ("X-Rate-Limit-Remaining: 0.0", "X-Request-Cost: 0.1234567", "Content-Type: text/html; charset=utf-8")
    body = b"403 Forbidden (Rate Limit Exceeded)\n"
    answer = head(403, *lines, f"Content-Length: {len(body)}").replace(b"Forbidden", b"Forbidden (Rate Limit Exceeded)")

    def scripted(seen: RawRequest) -> Script:
        return Script([Send(answer + body)], End.KEEP)

    policies = "{auth: {any_of: [api-key]}, rate-limiting: {limits: [600/minute]}}"
    async with proxied(scripted, KEYS, policies=policies) as (_, gateway), await gateway.connect() as client:
        client.send(get("/api/v1/courses", f"Authorization: Bearer {KEY}", "Connection: close"))
        raw = await client.rest()
        first, *sent = raw.partition(b"\r\n\r\n")[0].split(b"\r\n")
        response = Response("HTTP/1.1", 403, sent, raw.partition(b"\r\n\r\n")[2])
        assert first == b"HTTP/1.1 403 Forbidden (Rate Limit Exceeded)"
        assert relayed(response, lines)
        assert response.body == body
        # Ours is counted beside it, and says nothing of waiting.
        assert response.headers["ratelimit-remaining"] == "599"
        assert "retry-after" not in response.headers
        (record,) = await gateway.recorded(1)
        assert (record.status, record.decision, record.reason) == (403, "proxied", "")
        assert gateway.stats["lms", "all"].refused == []


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize(
    ("status", "location"),
    [
        (201, "https://canvas.example.org/api/v1/files/7?include[]=enhanced_preview_url"),
        (303, "https://canvas.example.org/api/v1/files/7/create_success?uuid=ab%2Fcd"),
    ],
)
async def test_canvas_uploads_in_three_steps(status: int, location: str, framing: str) -> None:
    """Where to, the file itself, and whatever its answer points to; the file flows while it is sent."""
    whole = asyncio.Event()
    ticket = b'{"upload_url":"https://canvas.example.org/files_api?a=1&b=%2F","upload_params":{"key":"/x/y.png"}}'
    json = "Content-Type: application/json"

    def scripted(seen: RawRequest) -> Script:
        steps: dict[str, list[Step]] = {
            "/api/v1/courses/1/files": [Send(head(200, json, f"Content-Length: {len(ticket)}") + ticket)],
            "/files_api?a=1&b=%2F": [
                Until(whole),
                Send(head(status, f"Location: {location}", "Content-Length: 0")),
            ],
        }
        return Script(steps.get(seen.target, [Send(head(200, json, "Content-Length: 8") + b'{"id":7}')]), End.KEEP)

    begin = b'--xyz\r\nContent-Disposition: form-data; name="key"\r\n\r\n/x/y.png\r\n--xyz\r\n'
    begin += b'Content-Disposition: form-data; name="file"; filename="y.png"\r\n\r\n\x89PNG\r\n\x1a\n'
    rest = bytes(range(256)) * 64 + b"\r\n--xyz--\r\n"
    kind = "Content-Type: multipart/form-data; boundary=xyz"
    async with proxied(scripted, KEYS, policies=KEYED) as (upstream, gateway), await gateway.connect() as client:
        key = f"Authorization: Bearer {KEY}"
        form = b"name=y.png&size=16400&content_type=image%2Fpng"
        first = await client.request(request("POST", "/api/v1/courses/1/files", key, body=form))
        assert (first.status, first.body) == (200, ticket)

        length = len(begin) + len(rest)
        how = f"Content-Length: {length}" if framing == "length" else "Transfer-Encoding: chunked"
        client.send(request("POST", "/files_api?a=1&b=%2F", key, kind, how))
        client.send(begin if framing == "length" else chunk(begin))
        await eventually(lambda: len(upstream.requests) == 2)
        if framing == "length":
            await eventually(lambda: bytes(upstream.requests[1].body) == begin)
            client.send(rest)
            await eventually(lambda: bytes(upstream.requests[1].body) == begin + rest)
        else:
            client.send(chunk(rest) + b"0\r\n\r\n")
            await eventually(lambda: bytes(upstream.requests[1].body) == chunked(begin, rest))
        whole.set()
        second = await client.response("POST")
        assert (second.status, second.headers["location"]) == (status, location)
        assert upstream.requests[1].header("Content-Type") == kind.partition(": ")[2]

        third = await client.request(get(location.removeprefix("https://canvas.example.org"), key))
        assert (third.status, third.body) == (200, b'{"id":7}')
        assert upstream.requests[2].target == location.removeprefix("https://canvas.example.org")


# ── Moodle ──────────────────────────────────────────────────────────────────────────────────────

MOODLES_ERROR = (
    b'{"exception":"core\\\\exception\\\\moodle_exception","errorcode":"invalidtoken",'
    b'"message":"Invalid token - token not found"}'
)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_moodle_takes_its_token_as_a_parameter_and_fails_under_200(method: str) -> None:
    parameters = "wstoken=0a1b2c3d&wsfunction=core_course_get_courses&moodlewsrestformat=json&options[ids][0]=%31"
    path = "/webservice/rest/server.php"
    target = f"{path}?{parameters}" if method == "GET" else path
    body = b"" if method == "GET" else parameters.encode()
    kind = "Content-Type: application/x-www-form-urlencoded"
    scripted = answering(200, "Content-Type: application/json", "Access-Control-Allow-Origin: *", body=MOODLES_ERROR)
    async with proxied(scripted, KEYS, policies=KEYED) as (upstream, gateway), await gateway.connect() as client:
        response = await client.request(request(method, target, f"X-API-Key: {KEY}", kind, body=body))
        assert (response.status, response.body) == (200, MOODLES_ERROR)
        assert relayed(response, ("Content-Type: application/json", "Access-Control-Allow-Origin: *"))
        (seen,) = upstream.requests
        await eventually(lambda: bytes(seen.body) == body)
        assert (seen.method, seen.target, seen.header("X-API-Key")) == (method, target, None)
        (record,) = await gateway.recorded(1)
        assert (record.status, record.decision) == (200, "proxied")


# ── Open edX ────────────────────────────────────────────────────────────────────────────────────

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJ1c2VyX2lkIjo3fQ.c2lnbmF0dXJl"
COOKIES = (
    f"edx-jwt-cookie-header-payload={JWT.rpartition('.')[0]}; edx-jwt-cookie-signature={JWT.rpartition('.')[2]}; "
    'sessionid="1|ab=,cd"; csrftoken=x'
)
ATTRIBUTES = "expires=Wed, 21 Oct 2026 07:28:00 GMT; Max-Age=3600; Path=/; SameSite=None; Secure"
SET_COOKIES = (
    f"Set-Cookie: edx-jwt-cookie-header-payload=eyJhbGciOiJSUzUxMiJ9.eyJ4IjoxfQ; Domain=.example.org; {ATTRIBUTES}",
    f"Set-Cookie: edx-jwt-cookie-signature=c2ln; Domain=.example.org; HttpOnly; {ATTRIBUTES}",
)


@pytest.mark.parametrize(
    "sent",
    [
        (f"Authorization: JWT {JWT}",),
        (f"Authorization: JWT {JWT}", f"Cookie: {COOKIES}", "USE-JWT-COOKIE: true"),
        (f"Cookie: {COOKIES}", "USE-JWT-COOKIE: true", "X-CSRFToken: x"),
    ],
)
async def test_open_edx_has_tokens_of_its_own(sent: tuple[str, ...]) -> None:
    """The key comes in a header beside them; they are the LMS's, and pass both ways as they are."""
    scripted = answering(200, *SET_COOKIES, "Vary: Cookie", body=b"{}")
    async with proxied(scripted, KEYS, policies=KEYED) as (upstream, gateway), await gateway.connect() as client:
        response = await client.request(get("/api/user/v1/me", f"X-API-Key: {KEY}", *sent))
        assert response.status == 200
        assert relayed(response, (*SET_COOKIES, "Vary: Cookie"))
        (seen,) = upstream.requests
        names = {"authorization", "cookie", "use-jwt-cookie", "x-csrftoken", "x-api-key"}
        assert tuple(f"{name}: {value}" for name, value in seen.headers if name.lower() in names) == sent
        assert seen.header("X-Consumer-Username") == "mobile_app"


async def test_a_jwt_scheme_alone_is_no_key() -> None:
    async with proxied(answering(200), KEYS, policies=KEYED) as (upstream, gateway):
        async with await gateway.connect() as client:
            response = await client.request(get("/api/user/v1/me", f"Authorization: JWT {JWT}"))
        assert response.status == 401
        assert b"Authorization header must use the Bearer scheme" in response.body
        assert upstream.requests == []


# ── WordPress ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("trusted", "scheme"), [("trusted_proxies: [127.0.0.0/8]", "https"), ("trusted_proxies: [192.0.2.0/24]", "http")]
)
async def test_wordpress_needs_to_know_the_scheme(trusted: str, scheme: str) -> None:
    """It redirects for ever where it is not told that the client came by https; only a trusted proxy may say so."""
    host = "https://learn.example.org"

    def scripted(seen: RawRequest) -> Script:
        if seen.header("X-Forwarded-Proto") == "https":
            return answering(200, body=b"<html>")(seen)
        return answering(301, f"Location: {host}{seen.target}", "X-Redirect-By: WordPress")(seen)

    lines = ("X-Forwarded-Proto: https", "X-Forwarded-Host: learn.example.org", "X-Forwarded-For: 203.0.113.9")
    async with proxied(scripted, top=trusted) as (upstream, gateway), await gateway.connect() as client:
        response = await client.request(get("/wp-admin/?a=%2F", *lines))
        assert [value for name, value in upstream.requests[0].headers if name == "X-Forwarded-Proto"] == [scheme]
        if scheme == "https":
            assert (response.status, response.body) == (200, b"<html>")
            assert upstream.requests[0].header("X-Forwarded-Host") == "learn.example.org"
        else:
            assert response.status == 301
            assert relayed(response, (f"Location: {host}/wp-admin/?a=%2F", "X-Redirect-By: WordPress"))


# ── every LMS ───────────────────────────────────────────────────────────────────────────────────

RANGES = (
    b"--r\r\nContent-Type: video/mp4\r\nContent-Range: bytes 0-1/9\r\n\r\nab\r\n"
    b"--r\r\nContent-Type: video/mp4\r\nContent-Range: bytes 4-5/9\r\n\r\nef\r\n--r--\r\n"
)
#: No decoder would take it: whoever looks inside breaks it.
SQUEEZED = b"\x8b\x03\x80\x00\xff" * 50


@pytest.mark.parametrize(
    ("asked", "method", "status", "lines", "body", "length"),
    [
        ((), "GET", 200, ("Set-Cookie: a=1; Path=/", "X-A: b", "Set-Cookie: b=2, 3", "set-cookie: c="), b"ok", None),
        (("Range: bytes=2-4",), "GET", 206, ("Content-Range: bytes 2-4/9", "Accept-Ranges: bytes"), b"cde", None),
        (("Range: bytes=0-1,4-5",), "GET", 206, ("Content-Type: multipart/byteranges; boundary=r",), RANGES, None),
        (("Range: bytes=99-",), "GET", 416, ("Content-Range: bytes */9",), b"", None),
        (('If-Range: "v1"', "Range: bytes=0-"), "GET", 200, ('ETag: "v2"',), b"whole", None),
        (
            ("Accept-Encoding: gzip",),
            "GET",
            200,
            ("Content-Encoding: gzip", "Vary: A"),
            gzip.compress(b"x" * 999),
            None,
        ),
        (("Accept-Encoding: br, zstd;q=0",), "GET", 200, ("Content-Encoding: br", 'ETag: W/"1"'), SQUEEZED, None),
        ((), "GET", 302, ("Location: https://sso.example.org/login?next=%2Fa%3Fb&x=y#top",), b"", None),
        ((), "POST", 307, ("Location: /relative/../odd path",), b"moved", None),
        (('If-None-Match: "v1", W/"v2"',), "GET", 304, ('ETag: "v1"', "Cache-Control: private"), b"", None),
        (("If-Modified-Since: Wed, 21 Oct 2015 07:28:00 GMT",), "GET", 304, ("Last-Modified: x",), b"", None),
        ((), "HEAD", 200, ("Content-Type: video/mp4", "Accept-Ranges: bytes"), b"", 123_456_789),
        ((), "DELETE", 204, ("X-Deleted: 7",), b"", None),
        ((), "PROPFIND", 207, ("DAV: 1, 2",), b"<multistatus/>", None),
        ((), "GET", 422, ("Content-Type: application/json",), b'{"errors":[]}', None),
        ((), "GET", 503, ("Retry-After: 120", "X-Maintenance: yes"), b"back soon", None),
    ],
)
async def test_what_passes_untouched(
    asked: tuple[str, ...], method: str, status: int, lines: tuple[str, ...], body: bytes, length: int | None
) -> None:
    scripted = answering(status, *lines, body=body, length=length)
    async with proxied(scripted) as (upstream, gateway), await gateway.connect() as client:
        for _ in range(2):  # the connection goes on after it
            response = await client.request(request(method, "/file?v=%7e", *asked), method)
            assert (response.status, response.body) == (status, body)
            assert relayed(response, lines)
            expected = None if status in (204, 304) else str(len(body) if length is None else length)
            assert response.headers.get("content-length") == expected
        for seen in upstream.requests:
            names = {line.partition(":")[0] for line in asked}
            assert tuple(f"{name}: {value}" for name, value in seen.headers if name in names) == asked
            assert (seen.method, seen.target) == (method, "/file?v=%7e")


PIECES = [b"id: 1\ndata: first\n\n", b": still here\n\n", b"data: " + b"x" * 5000 + b"\n\n", b"data: last\n\n"]


def as_chunks(piece: bytes) -> bytes:
    return chunk(piece)


def as_they_are(piece: bytes) -> bytes:
    return piece


@pytest.mark.parametrize(
    ("lines", "framed", "end"),
    [
        (("Content-Type: text/event-stream", "Transfer-Encoding: chunked"), as_chunks, b"0\r\n\r\n"),
        (("Content-Type: text/event-stream",), as_they_are, b""),  # until the connection ends
        (("Content-Type: text/plain", f"Content-Length: {sum(map(len, PIECES))}"), as_they_are, b""),
        (("Content-Type: application/x-ndjson", "Transfer-Encoding: chunked"), as_chunks, b"0\r\n\r\n"),
    ],
)
async def test_each_piece_of_a_slow_stream_arrives_before_the_next_is_sent(
    lines: tuple[str, ...], framed: Callable[[bytes], bytes], end: bytes
) -> None:
    arrived = [asyncio.Event() for _ in PIECES]

    def scripted(seen: RawRequest) -> Script:
        steps: list[Step] = [Send(head(200, *lines))]
        for piece, event in zip(PIECES, arrived, strict=True):
            steps += [Send(framed(piece)), Until(event)]
        return Script([*steps, Send(end)], End.CLOSE)

    async with proxied(scripted) as (_, gateway), await gateway.connect() as client:
        client.send(get("/events", "Accept: text/event-stream", "Connection: close"))
        answer = await client.head()
        assert answer.status == 200
        read = pieces_of(client, answer.headers.get("transfer-encoding") == "chunked")
        for piece, event in zip(PIECES, arrived, strict=True):
            assert await read(len(piece)) == piece
            event.set()
        assert await client.rest() in (b"", b"0\r\n\r\n")


def pieces_of(client: Client, chunks: bool) -> Callable[[int], asyncio.Future[bytes]]:
    """Reads so many bytes of a body as it arrives."""
    held = bytearray()

    async def read(size: int) -> bytes:
        async with asyncio.timeout(30):
            while len(held) < size:
                if not chunks:
                    held.extend(await client.reader.readexactly(size - len(held)))
                    continue
                length = int(await client.reader.readline(), 16)
                held.extend(await client.reader.readexactly(length))
                assert await client.reader.readexactly(2) == b"\r\n"
        piece = bytes(held[:size])
        del held[:size]
        return piece

    return lambda size: asyncio.ensure_future(read(size))
