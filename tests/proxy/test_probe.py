"""What a probe asks and how it judges, against servers that say exactly the bytes they are given."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.pool import Pool
from gateway.proxy.probe import ProbeError, final_status, probe
from gateway.proxy.tls import ClientSettings, client_tls
from gateway.proxy.upstream import MAX_HEAD
from gateway.snapshot import SECOND, ActiveHealth, Origin
from tests.certificates import authority
from upstream_stub.raw import RawServer
from upstream_stub.steps import End, Script, Send


def health(timeout: float = 5, expect: frozenset[int] = frozenset()) -> ActiveHealth:
    return ActiveHealth(b"/health?deep=1", 5 * SECOND, int(timeout * SECOND), 1, 1, expect)


async def asked(origin: Origin, settings: ActiveHealth) -> str:
    return await probe(Pool(origin, asyncio.get_running_loop()), b"lms.internal", settings)


def answer(status: int | str, rest: bytes = b"Content-Length: 0\r\n\r\n") -> bytes:
    return f"HTTP/1.1 {status} X\r\n".encode() + rest


@pytest.mark.parametrize(
    ("said", "end", "expect", "why"),
    [
        (answer(200), End.KEEP, (), ""),
        (answer(204, b"\r\n"), End.KEEP, (), ""),
        (answer(302), End.KEEP, (), ""),
        (answer(200, b"\r\nno length"), End.CLOSE, (), ""),
        (answer(200, b"Content-Length: 1000000\r\n\r\nbegun"), End.KEEP, (), ""),
        (answer(102, b"\r\n") + answer(103, b"Link: </a>\r\n\r\n") + answer(200), End.KEEP, (), ""),
        (answer(400), End.KEEP, (), "it answered 400"),
        (answer(503), End.KEEP, (), "it answered 503"),
        (answer(200), End.KEEP, (200, 401), ""),
        (answer(401), End.KEEP, (200, 401), ""),
        (answer(204, b"\r\n"), End.KEEP, (200, 401), "it answered 204"),
        (b"", End.CLOSE, (), "it closed the connection before it answered"),
        (b"HTTP/1.1 20", End.CLOSE, (), "it closed the connection before it answered"),
        (b"HTTP/1.1 200 OK\r\nContent", End.RESET, (), "before it answered|broke"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", End.KEEP, (), "its response is malformed: malformed status line"),
        (answer("99999"), End.KEEP, (), "its response is malformed"),
        (answer(200, b"Content-Length: x\r\n\r\n"), End.KEEP, (), "its response is malformed"),
        (answer(101, b"Upgrade: x\r\nConnection: upgrade\r\n\r\n"), End.KEEP, (), "101 that nobody asked for"),
        (answer(200, b"X: " + b"x" * MAX_HEAD + b"\r\n\r\n"), End.KEEP, (), "its response head is too large"),
    ],
)
async def test_answers(said: bytes, end: End, expect: tuple[int, ...], why: str) -> None:
    async with RawServer(lambda request: Script([Send(said)], end)) as server:
        found = await asked(Origin("127.0.0.1", server.port), health(expect=frozenset(expect)))
    assert any(text in found for text in why.split("|")) if why else found == ""
    (request,) = server.requests
    assert request.head == (
        b"GET /health?deep=1 HTTP/1.1\r\nHost: lms.internal\r\nUser-Agent: postern-health\r\nAccept: */*\r\n"
        b"Connection: close\r\n\r\n"
    )


async def test_the_connection_ends_with_the_probe() -> None:
    async with RawServer(lambda request: Script([Send(answer(200))], End.KEEP)) as server:
        pool = Pool(Origin("127.0.0.1", server.port), asyncio.get_running_loop())
        assert await probe(pool, b"lms", health()) == ""
        assert (pool.connections, pool.idle, pool.busy) == (set(), [], 0)
        async with asyncio.timeout(30):
            while server.open:
                await asyncio.sleep(0.005)


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "lms.sock")
    async with RawServer(lambda request: Script([Send(answer(200))], End.KEEP), path=path):
        assert await asked(Origin(path=path), health()) == ""
    assert "lms.sock" in await asked(Origin(path=path), health())


async def test_nobody_listens(unused_tcp_port: int) -> None:
    assert f"127.0.0.1:{unused_tcp_port}" in await asked(Origin("127.0.0.1", unused_tcp_port), health())


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\n"])
async def test_no_answer_in_time(said: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with RawServer(lambda request: Script([Send(said)] if said else [], End.KEEP)) as server:
        assert await asked(Origin("127.0.0.1", server.port), health(0.05)) == "no answer within 0.05 s"
    assert caplog.records == [], "an error that nobody asked for was left behind"


@given(st.binary(max_size=200), st.integers(0, 200))
def test_whatever_it_says(data: bytes, cut: int) -> None:
    """Garbage is an error or not enough; a good answer is found behind any cut of itself."""
    try:
        assert final_status(data) is None or data.startswith(b"HTTP/1.")
    except ProbeError:
        return
    whole = answer(200)
    assert final_status(whole[:cut]) in (None, 200)


@pytest.mark.parametrize(("name", "why"), [("lms.internal", ""), ("other.internal", "other.internal")])
async def test_over_tls(name: str, why: str, tmp_path: Path) -> None:
    """As the pool's own connections are made: the name is asked for, and must be in the certificate."""
    issued = authority().issue(tmp_path, "lms.internal")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(200))

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        settings = ClientSettings(verify=True, ca_file=authority().file(tmp_path))
        port = server.sockets[0].getsockname()[1]
        found = await asked(Origin("127.0.0.1", port, tls=client_tls(settings, name)), health())
    assert why in found if why else found == ""
