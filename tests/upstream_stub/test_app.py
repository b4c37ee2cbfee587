"""The LMS behaves: lessons, accounts, transfer, events, WebSocket, echo."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import AsyncIterator

import pytest

from upstream_stub.testing import Lms
from upstream_stub.transfer import HANDBOOK_SIZE, parse_range, pattern
from upstream_stub.users import safe_return


@pytest.mark.parametrize(
    ("path", "status", "member"),
    [
        ("/health", 200, "status"),
        ("/content/v1/read/do_1", 200, "result"),
        ("/content/v1/read/do_missing_1", 404, "params"),
        ("/api/courses", 200, "courses"),
        ("/api/courses?language=hi", 200, "courses"),
        ("/api/courses/algebra-1", 200, "lessons"),
        ("/api/courses/none", 404, "error"),
        ("/api/lessons", 200, "lessons"),
        ("/api/lessons/1", 200, "title"),
        ("/api/lessons/99", 404, "error"),
        ("/api/users/me", 401, "error"),
        ("/misbehave", 200, "cut"),
        ("/misbehave/none", 400, "error"),
        ("/misbehave/cut?after=x", 400, "error"),
        ("/misbehave/bad-framing?kind=none", 400, "error"),
        ("/events?count=x", 400, "error"),
    ],
)
async def test_reads(lms: Lms, path: str, status: int, member: str) -> None:
    async with lms.session.get(lms.url(path)) as answer:
        assert answer.status == status
        assert member in await answer.json()


async def test_content_is_in_sunbirds_envelope(lms: Lms) -> None:
    async with lms.session.get(lms.url("/content/v1/read/do_42")) as answer:
        body = await answer.json()
    assert body["responseCode"] == "OK"
    assert body["result"]["content"]["identifier"] == "do_42"


async def test_a_lesson_is_made_and_forgotten(lms: Lms) -> None:
    made = {"course": "algebra-1", "title": "Fractions"}
    async with lms.session.post(lms.url("/api/lessons"), json=made) as answer:
        assert answer.status == 201
        where = answer.headers["Location"]
    for method, status in [("GET", 200), ("DELETE", 204), ("DELETE", 404), ("GET", 404)]:
        async with lms.session.request(method, lms.url(where)) as answer:
            assert answer.status == status, method


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"\xff", 400),
        (b"[]", 422),
        (b'{"course": "none"}', 422),
        (b'{"course": "algebra-1", "title": 3}', 422),
    ],
)
async def test_a_bad_lesson_is_refused(lms: Lms, body: bytes, status: int) -> None:
    async with lms.session.post(lms.url("/api/lessons"), data=body) as answer:
        assert answer.status == status


async def test_login_sets_a_session_and_returns(lms: Lms) -> None:
    async with lms.session.get(lms.url("/login?next=/oauth/authorize%3Fa%3D1%26b%3D2")) as answer:
        assert 'value="/oauth/authorize?a=1&amp;b=2"' in await answer.text()
    form = {"username": "student", "password": "wrong", "next": "/x"}
    async with lms.session.post(lms.url("/login"), data=form) as answer:
        assert answer.status == 401
    form["password"] = "student"
    async with lms.session.post(lms.url("/login"), data=form, allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, "/x")
        cookies = {name: morsel.value for name, morsel in answer.cookies.items()}
    async with lms.session.get(lms.url("/api/users/me"), cookies=cookies) as answer:
        assert (await answer.json())["username"] == "student"
    async with lms.session.post(lms.url("/logout"), cookies=cookies) as answer:
        assert answer.status == 204
    async with lms.session.get(lms.url("/api/users/me"), cookies=cookies) as answer:
        assert answer.status == 401


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("/a?b=c", "/a?b=c"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example/", "/"),
        ("http://lms.test:8000/oauth", "http://lms.test:8000/oauth"),
        ("http://user@lms.test:8000/", "/"),
        ("http://[", "/"),
        ("javascript:alert(1)", "/"),
        ("/a\nb", "/"),
        ("", "/"),
    ],
)
def test_a_login_is_no_open_redirect(wanted: str, expected: str) -> None:
    assert safe_return(wanted, ("lms.test:8000",)) == expected


async def test_an_upload_is_counted_as_it_streams(lms: Lms) -> None:
    pieces = [bytes([number]) * 40_000 for number in range(10)]

    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    for data in (b"".join(pieces), body()):
        async with lms.session.post(lms.url("/api/upload"), data=data) as answer:
            digest = hashlib.sha256(b"".join(pieces)).hexdigest()
            assert await answer.json() == {"bytes": 400_000, "sha256": digest}


async def test_a_coded_body_stays_as_sent(lms: Lms) -> None:
    async with lms.session.post(
        lms.url("/api/upload"), data=b"not gzip", headers={"Content-Encoding": "gzip"}
    ) as answer:
        assert (await answer.json())["bytes"] == 8


@pytest.mark.parametrize("query", ["", "?chunked", "?gap=0.001"])
async def test_a_download_is_the_pattern(lms: Lms, query: str) -> None:
    async with lms.session.get(lms.url(f"/api/download/200000{query}")) as answer:
        body = await answer.read()
        assert ("Content-Length" in answer.headers) == (query != "?chunked")
    assert body == bytes(offset % 251 for offset in range(200_000))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-9", (0, 10)),
        ("bytes=90-", (90, 100)),
        ("bytes=-5", (95, 100)),
        ("bytes=-500", (0, 100)),
        ("bytes=50-500", (50, 100)),
        ("bytes=9-3", None),
        ("bytes=-", None),
        ("bytes=0-1,3-4", None),
        ("lines=0-1", None),
    ],
)
def test_ranges(header: str | None, expected: tuple[int, int] | None) -> None:
    assert parse_range(header, 100) == expected


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=-0"])
def test_a_range_outside_is_refused(header: str) -> None:
    with pytest.raises(ValueError, match="outside"):
        parse_range(header, 100)


@pytest.mark.parametrize(
    ("headers", "status", "size"),
    [
        ({"Range": "bytes=251-500"}, 206, 250),
        ({"Range": f"bytes={HANDBOOK_SIZE}-"}, 416, 0),
        ({"If-None-Match": '"100000"'}, 304, 0),
        ({}, 200, HANDBOOK_SIZE),
    ],
)
async def test_the_handbook(lms: Lms, headers: dict[str, str], status: int, size: int) -> None:
    async with lms.session.get(lms.url("/api/files/handbook"), headers=headers) as answer:
        body = await answer.read()
        assert (answer.status, len(body)) == (status, size)
        assert body[:200] == pattern(0, 200)[: len(body)]


async def test_events(lms: Lms) -> None:
    headers = {"Last-Event-ID": "7"}
    async with lms.session.get(lms.url("/events?count=3&interval=0.01"), headers=headers) as answer:
        text = await answer.text()
    assert answer.content_type == "text/event-stream"
    assert [line for line in text.splitlines() if line.startswith("id:")] == ["id: 8", "id: 9", "id: 10"]


async def test_the_socket_echoes(lms: Lms) -> None:
    async with lms.session.ws_connect(lms.url("/ws"), protocols=["chat"]) as ws:
        assert ws.protocol == "chat"
        await ws.send_str("hello")
        assert (await ws.receive(timeout=30)).data == "hello"
        await ws.send_bytes(b"\x00\xff")
        assert (await ws.receive(timeout=30)).data == b"\x00\xff"
        await ws.send_str("headers")
        assert "Upgrade" in (await ws.receive(timeout=30)).data
        await ws.send_str("close")
        await ws.receive(timeout=30)
        assert ws.close_code == 1000


async def test_echo_says_what_arrived(lms: Lms) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", lms.port)
    writer.write(
        b"PATCH /echo/a%2Fb//c?x=%41&x=2 HTTP/1.1\r\nHost: lms\r\nX-B: 1\r\nx-a: two\r\nX-B: 3\r\n"
        b"Content-Length: 3\r\nConnection: close\r\n\r\nabc"
    )
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    said = json.loads(body)
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert (said["method"], said["path"], said["query"]) == ("PATCH", "/echo/a%2Fb//c", "x=%41&x=2")
    assert [pair for pair in said["headers"] if pair[0].lower().startswith("x-")] == [
        ["X-B", "1"],
        ["x-a", "two"],
        ["X-B", "3"],
    ]
    assert said["body"] == {"length": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}


async def test_echo_shapes_its_answer(lms: Lms) -> None:
    async with lms.session.get(lms.url("/echo?status=418&header=X-A:%201&header=X-A:%202")) as answer:
        assert answer.status == 418
        assert answer.headers.getall("X-A") == ["1", "2"]


async def test_the_process_ends_with_its_parent() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "upstream_stub",
        "--port",
        "0",
        "--exit-with-parent",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 30)
    assert line.startswith(b"stub LMS ready on http://127.0.0.1:")
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), 30) == 0
