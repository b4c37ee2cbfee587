"""The misbehaviours arrive as described: on the LMS's own port, and from the raw server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from upstream_stub.misbehaviours import BAD_FRAMING, MISBEHAVIOURS, chunk, head, script
from upstream_stub.raw import RawRequest, RawServer, chunked_size
from upstream_stub.steps import End, Repeat, Script, Send, Wait
from upstream_stub.testing import Lms


@pytest.mark.parametrize("name", MISBEHAVIOURS)
def test_every_misbehaviour_has_defaults_and_a_description(name: str) -> None:
    assert isinstance(script(name, {}), Script)
    assert MISBEHAVIOURS[name].__doc__


@pytest.mark.parametrize(
    ("target", "starts", "size"),
    [
        ("/misbehave/close", b"", 0),
        ("/misbehave/cut?after=100&length=500", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", 140),
        ("/misbehave/cut?after=0&length=5", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", None),
        (
            "/misbehave/cut?after=3&chunked=1",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nthe\r\n",
            None,
        ),
        ("/misbehave/cut-head", b"HTTP/1.1 200 OK\r\nContent-Le", 27),
        ("/misbehave/status?code=500&end=close&retry_after=3", b"HTTP/1.1 500 Internal Server Error\r\n", None),
        ("/misbehave/status?code=204&end=close", b"HTTP/1.1 204 No Content\r\n\r\n", 27),
        ("/misbehave/slow?first=0&gap=0.01&count=2&size=3&end=close", b"HTTP/1.1 200 OK\r\nContent-Length: 6", 44),
        ("/misbehave/until-close?size=10", b"HTTP/1.1 200 OK\r\n\r\nthe quick ", 29),
        ("/misbehave/close-idle?after=0.01", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 40),
        ("/misbehave/bad-framing?kind=http-0.9&end=close", b"ok\r\n", 4),
    ],
)
async def test_raw_answers(lms: Lms, target: str, starts: bytes, size: int | None) -> None:
    said = await lms.raw(target)
    assert said.startswith(starts)
    assert len(said) == (
        len(starts) if size is None and not target.startswith("/misbehave/status") else size or len(said)
    )


@pytest.mark.parametrize("target", ["/misbehave/reset", "/misbehave/cut?end=reset&wait=0.05"])
async def test_a_reset_is_a_reset(lms: Lms, target: str) -> None:
    with pytest.raises(ConnectionResetError):
        await lms.raw(target)


@pytest.mark.parametrize("kind", BAD_FRAMING)
async def test_bad_framing_is_sent_as_it_is(lms: Lms, kind: str) -> None:
    assert await lms.raw(f"/misbehave/bad-framing?kind={kind}&end=close") == BAD_FRAMING[kind]


@pytest.mark.parametrize(
    ("target", "until"),
    [
        ("/misbehave/interim", b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\nHTTP/1.1 103"),
        ("/misbehave/endless", b"lazy dog\n"),
        ("/misbehave/endless-head", b"X-Padding: aaa"),
        ("/misbehave/hang?head=1&length=7", b"Content-Length: 7\r\n\r\n"),
    ],
)
async def test_without_end_until_the_reader_leaves(lms: Lms, target: str, until: bytes) -> None:
    assert (await lms.raw(target, until=until)).endswith(until)


async def test_hang_says_nothing(lms: Lms) -> None:
    with pytest.raises(TimeoutError):
        await lms.raw("/misbehave/hang", patience=0.2)


async def test_a_kept_connection_goes_on(lms: Lms) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", lms.port)
    for target in ("/misbehave/trailers", "/misbehave/status", "/misbehave/interim?count=2", "/health"):
        writer.write(f"GET {target} HTTP/1.1\r\nHost: lms\r\n\r\n".encode())
        said = await asyncio.wait_for(reader.read(65536), 30)
        assert said.startswith(b"HTTP/1.1 "), target
        await asyncio.sleep(0.05)
        if "interim" in target and not said.endswith(b"ok"):
            assert (await reader.read(65536)).endswith(b"ok")
    assert b'{"status": "ok"}' in said
    writer.close()


async def test_the_surplus_comes_behind_the_answer(lms: Lms) -> None:
    said = await lms.raw("/misbehave/excess?wait=0.05", until=b"poison")
    assert said.count(b"HTTP/1.1 200 OK") == 2
    assert (await lms.raw("/misbehave/excess?extra=3", until=b"okthe")).endswith(b"\r\n\r\nokthe")


async def _ask(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    said = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    return said


async def test_the_raw_server_plays_a_script_and_records() -> None:
    def scripted(request: RawRequest) -> Script:
        size = int(request.target.removeprefix("/"))
        return Script([Send(head(200, f"Content-Length: {size}")), Wait(0.01), Repeat((Send(b"a"),), size)])

    async with RawServer(scripted) as server:
        said = await _ask(server.port, b"PUT /3 HTTP/1.1\r\nHost: a\r\nX-Two:  b \r\nContent-Length: 4\r\n\r\nbody")
        assert said.endswith(b"\r\n\r\naaa")
        (request,) = server.requests
        assert (request.method, request.target, bytes(request.body)) == ("PUT", "/3", b"body")
        assert request.headers == [("Host", "a"), ("X-Two", "b"), ("Content-Length", "4")]
        assert request.header("x-two") == "b"
        assert server.connections == 1


async def test_the_raw_server_keeps_connections_and_reads_chunks() -> None:
    async with RawServer() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for _ in range(2):
            writer.write(b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"abc"))
            await asyncio.sleep(0.01)
            writer.write(b"0\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\nok")).startswith(b"HTTP/1.1 200 OK")
        async with asyncio.timeout(30):
            while not server.requests[1].body:
                await asyncio.sleep(0.01)
        assert [(r.connection, bytes(r.body)) for r in server.requests] == [(1, b"3\r\nabc\r\n0\r\n\r\n")] * 2
        writer.close()


@pytest.mark.parametrize(
    ("target", "starts"),
    [
        ("/misbehave/cut?after=5&length=9", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nthe q"),
        ("/misbehave/none", b"HTTP/1.1 400 Bad Request"),
    ],
)
async def test_the_raw_server_knows_the_misbehaviours(target: str, starts: bytes) -> None:
    async with RawServer() as server:
        assert (await _ask(server.port, f"GET {target} HTTP/1.1\r\n\r\n".encode())).startswith(starts)


async def test_the_raw_server_on_a_unix_socket(tmp_path: Path) -> None:
    async with RawServer(lambda _: Script([Send(b"raw")], End.CLOSE), path=str(tmp_path / "raw.sock")) as server:
        assert server.url.startswith("unix://")
        reader, writer = await asyncio.open_unix_connection(server.path)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await reader.read() == b"raw"
        writer.close()


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"", 0),
        (b"3\r\nab", 0),
        (b"3\r\nabc\r\n0\r\n", 0),
        (b"3\r\nabc\r\n0\r\n\r\nGET", 13),
        (b"5;a=b\r\n0\r\n\r\n\r\n0\r\nX: y\r\n\r\n", 25),
    ],
)
def test_where_a_chunked_body_ends(data: bytes, size: int) -> None:
    assert chunked_size(data) == size
