"""TLS towards upstreams: whose certificate is believed, what we show, and that a cut body never looks whole."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from gateway.proxy.tls_connection import TlsConnection
from tests.certificates import Issued, authority, client_context, server_context, stranger
from tests.integration.gateways import Gateway, Response, eventually, get, request, routed, running_gateway
from tests.integration.test_listener_tls import secure, tls
from tests.integration.test_websockets import echo

UNAVAILABLE = "The upstream server is currently unavailable"
INVALID = "An invalid response was received from the upstream server"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Every request with `ok`."""
    while await reader.readuntil(b"\r\n\r\n"):
        writer.write(OK)


@dataclass
class Server:
    """An upstream that speaks TLS."""

    port: int = 0
    #: The names that clients asked for.
    asked: list[str | None] = field(default_factory=list)
    #: Whom clients' certificates name.
    shown: list[Any] = field(default_factory=list)
    connections: int = 0

    def url(self, host: str = "127.0.0.1") -> str:
        return f"https://{host}:{self.port}"


@asynccontextmanager
async def upstream(context: ssl.SSLContext, talk: Answer = answer) -> AsyncIterator[Server]:
    server = Server()

    def asked(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        server.asked.append(name)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        server.shown.append(writer.get_extra_info("peercert"))
        try:
            await talk(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the gateway has hung up
        finally:
            writer.close()

    context.sni_callback = asked
    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()


def believing(folder: Path, **more: str) -> str:
    """A service's lines: it believes the tests' authority."""
    settings = {"ca_file": str(authority().file(folder)), **more}
    return f"tls: {{{', '.join(f'{name}: {value}' for name, value in settings.items())}}}"


def error(response: Response) -> str:
    """What the gateway says is wrong."""
    match = re.search(rb'"error": ?"([^"]*)"', response.body)
    return match[1].decode() if match is not None else ""


@pytest.fixture
def issued(tmp_path: Path) -> Issued:
    return authority().issue(tmp_path, "lms.internal", "localhost", "127.0.0.1")


async def test_requests_and_kept_connections(tmp_path: Path, issued: Issued) -> None:
    async with (
        upstream(server_context(tmp_path, issued)) as server,
        running_gateway(routed(server.url("localhost"), service=believing(tmp_path))) as gateway,
    ):
        for _ in range(3):
            assert (await gateway.get()).body == b"ok"
        async with await gateway.connect() as client:
            for _ in range(3):
                assert (await client.request(request("POST", "/", body=b"x" * 10))).status == 200
        assert server.connections == 1
        assert server.asked == ["localhost"]


@dataclass(frozen=True)
class Case:
    """A certificate, how it is asked for, and what comes of it; `says` is in the log."""

    names: tuple[str, ...] = ("localhost",)
    host: str = "localhost"
    settings: str = "tls: {ca_file: CA}"
    says: str = ""
    days: int = 1
    self_signed: bool = False
    by_stranger: bool = False


CASES = {
    "by its name": Case(),
    "by a wildcard": Case(
        names=("*.campus.internal",), settings="tls: {ca_file: CA, server_name: lms.campus.internal}"
    ),
    "by its address": Case(names=("127.0.0.1",), host="127.0.0.1"),
    "by a name that is set": Case(names=("lms.internal",), settings="tls: {ca_file: CA, server_name: LMS.internal}"),
    "its own certificate is what is believed": Case(self_signed=True, settings="tls: {ca_file: LEAF}"),
    "its own certificate, signed by others": Case(by_stranger=True, settings="tls: {ca_file: LEAF}"),
    "another name": Case(names=("other.internal",), says="Hostname mismatch, certificate is not valid for 'localhost'"),
    "a name where an address is asked for": Case(host="127.0.0.1", says="IP address mismatch"),
    "no name at all": Case(names=(), says="Hostname mismatch"),
    "another name than is set": Case(
        settings="tls: {ca_file: CA, server_name: lms.internal}", says="not valid for 'lms.internal'"
    ),
    "a wildcard two labels up": Case(
        names=("*.campus.internal",),
        settings="tls: {ca_file: CA, server_name: a.lms.campus.internal}",
        says="Hostname mismatch",
    ),
    "expired": Case(days=-1, says="certificate has expired"),
    "self-signed": Case(self_signed=True, says="self-signed certificate"),
    "of an authority that nobody knows": Case(by_stranger=True, says="unable to get local issuer certificate"),
    "ours, but the system does not know it": Case(settings="", says="unable to get local issuer certificate"),
    "not verified: another name": Case(names=("other.internal",), settings="tls_verify: false"),
    "not verified: expired": Case(days=-1, settings="tls_verify: false"),
    "not verified: self-signed": Case(self_signed=True, settings="tls_verify: false"),
    "not verified: unknown": Case(by_stranger=True, settings="tls_verify: false\ntls: {server_name: any.internal}"),
}


@pytest.mark.parametrize("name", CASES)
async def test_whose_certificate_is_believed(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    case = CASES[name]
    signer = stranger() if case.by_stranger else authority()
    issued = signer.issue(tmp_path, *case.names, days=case.days, self_signed=case.self_signed)
    settings = case.settings.replace("CA", str(authority().file(tmp_path))).replace("LEAF", str(issued.certificate))
    async with (
        upstream(server_context(tmp_path, issued)) as server,
        running_gateway(routed(server.url(case.host), service=settings)) as gateway,
    ):
        answered = await gateway.get()
        if case.says:
            assert (answered.status, error(answered)) == (503, UNAVAILABLE)
            assert case.says in caplog.text
            assert "its certificate is refused" in caplog.text
        else:
            assert (answered.status, answered.body) == (200, b"ok"), caplog.text
            named = re.search(r"server_name: ([\w.]+)", settings)
            wanted = named[1].lower() if named is not None else case.host
            assert server.asked == [wanted if wanted[0].isalpha() else None]


async def test_a_port_that_speaks_no_tls(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(plain, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    async with running_gateway(routed(url)) as gateway:
        answered = await gateway.get()
        assert (answered.status, error(answered)) == (503, UNAVAILABLE)
        assert "no TLS: " in caplog.text
    listening.close()


async def test_a_handshake_is_part_of_connecting(issued: Issued) -> None:
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    listening = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    async with running_gateway(routed(url, service="connect_timeout: 300ms")) as gateway:
        answered = await gateway.get()
        assert answered.status == 504
        assert error(answered) == "The upstream server is timing out"
    listening.close()


async def test_an_upstream_that_hangs_up_in_the_handshake(caplog: pytest.LogCaptureFixture) -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    listening = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    async with running_gateway(routed(url)) as gateway:
        answered = await gateway.get()
        assert (answered.status, error(answered)) == (503, UNAVAILABLE)
    assert "closed during the TLS handshake" in caplog.text or "reset" in caplog.text.lower()
    listening.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_our_own_certificate(tmp_path: Path, issued: Issued, version: ssl.TLSVersion) -> None:
    own = authority().issue(tmp_path, "postern", file="own")
    context = server_context(tmp_path, issued, client_certificates=True)
    context.maximum_version = version
    shows = believing(tmp_path, certificate=str(own.certificate), key=str(own.key))
    async with upstream(context) as server:
        async with running_gateway(routed(server.url(), service=shows)) as gateway:
            assert (await gateway.get()).status == 200
            assert server.shown[0]["subject"] == ((("commonName", "postern"),),)
        async with running_gateway(routed(server.url(), service=believing(tmp_path))) as gateway:
            # TLS 1.3 tells us after our side of the handshake is over.
            assert (await gateway.get()).status in (502, 503)


async def test_new_files_make_new_connections(tmp_path: Path, issued: Issued) -> None:
    """The same settings, another content: what was opened with the old certificate is not used again."""
    own = authority().issue(tmp_path, "old", file="own")
    shows = believing(tmp_path, certificate=str(own.certificate), key=str(own.key))
    async with upstream(server_context(tmp_path, issued, client_certificates=True)) as server:
        text = routed(server.url(), service=shows)
        async with running_gateway(text) as gateway:
            assert (await gateway.get()).status == 200
            gateway.swap(text)
            assert (await gateway.get()).status == 200
            assert server.connections == 1
            authority().issue(tmp_path, "new", file="own")
            gateway.swap(text)
            assert (await gateway.get()).status == 200
        names = [certificate["subject"][0][0][1] for certificate in server.shown]
        assert names == ["old", "new"]


async def test_services_that_differ_in_tls_share_no_connection(tmp_path: Path, issued: Issued) -> None:
    async with upstream(server_context(tmp_path, issued)) as server:
        service = (
            "  - {name: NAME, url: URL, policies: {auth: none}, EXTRA, routes: [{name: r-NAME, paths: [/NAME]}]}\n"
        ).replace("URL", server.url())
        text = "services:\n" + "".join(
            service.replace("NAME", name).replace("EXTRA", extra)
            for name, extra in [("a", "tls_verify: false"), ("b", believing(tmp_path)), ("c", "tls_verify: true")]
        )
        async with running_gateway(text) as gateway:
            assert [(await gateway.get(f"/{name}")).status for name in "abcab"] == [200, 200, 503, 200, 200]
        assert server.connections == 2


@pytest.mark.parametrize(
    ("url", "host"), [("https://localhost:PORT", "localhost:PORT"), ("https://LMS:PORT/", "LMS:PORT")]
)
async def test_the_host_header(url: str, host: str, tmp_path: Path, issued: Issued) -> None:
    seen: list[bytes] = []

    async def look(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)

    async with upstream(server_context(tmp_path, issued), look) as server:
        text = routed(url.replace("PORT", str(server.port)), service="tls_verify: false")
        async with running_gateway(text) as gateway:
            if "LMS" in url:
                assert (await gateway.get()).status == 503  # no such name
                return
            assert (await gateway.get()).status == 200
        assert f"\r\nHost: {host.replace('PORT', str(server.port))}\r\n".encode() in seen[0]


# ── the end of a connection ─────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class End:
    """What an upstream says, how its connection ends, and what the client must see: a status, "cut" or "whole"."""

    said: bytes
    goodbye: bool
    seen: str


UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\nhello"
ENDS = {
    "until close, with a goodbye": End(UNTIL_CLOSE, True, "whole"),
    "until close, without one": End(UNTIL_CLOSE, False, "cut"),
    "until close and empty, without one": End(b"HTTP/1.1 200 OK\r\n\r\n", False, "cut"),
    "a length, with a goodbye": End(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", True, "whole"),
    "a length, without one": End(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", False, "whole"),
    "a length cut short, with a goodbye": End(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", True, "cut"),
    "a length cut short, without one": End(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", False, "cut"),
    "chunks cut short, with a goodbye": End(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", True, "cut"
    ),
    "chunks cut short, without one": End(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", False, "cut"
    ),
    "nothing, with a goodbye": End(b"", True, "502"),
    "nothing, without one": End(b"", False, "502"),
    "half a head, without one": End(b"HTTP/1.1 200 OK\r\nContent-", False, "502"),
}


def ending(said: bytes, goodbye: bool) -> Answer:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await writer.drain()
        await asyncio.sleep(0.02)
        if not goodbye:
            # A FIN of the socket below TLS, which says nothing of it.
            sock = writer.get_extra_info("socket")
            duplicate = os.dup(sock.fileno())
            try:
                import socket

                with socket.socket(fileno=duplicate) as raw:
                    raw.shutdown(socket.SHUT_WR)
                    await asyncio.sleep(0.05)
            finally:
                writer.transport.abort()

    return talk


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("minor", ["1.1", "1.0"])
async def test_how_a_response_ends(
    name: str, version: ssl.TLSVersion, minor: str, tmp_path: Path, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    end = ENDS[name]
    context = server_context(tmp_path, issued)
    context.maximum_version = version
    async with (
        upstream(context, ending(end.said, end.goodbye)) as server,
        running_gateway(routed(server.url(), service=believing(tmp_path))) as gateway,
        await gateway.connect() as client,
    ):
        client.send(get(version=minor))
        if end.seen == "502":
            answered = await client.response()
            assert (answered.status, error(answered)) == (502, INVALID)
        elif end.seen == "whole":
            assert (await client.response()).body == b"hello"
        else:
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await client.response()
            await gateway.recorded(1)
            assert gateway.records[0].reason == "cut"


@pytest.mark.parametrize("framing", ["until close", "length"])
async def test_a_slow_client_loses_nothing_of_a_connection_that_has_ended(
    framing: str, tmp_path: Path, issued: Issued
) -> None:
    """The end is there while much of the body still waits for the client."""
    body = bytes(range(256)) * 20_000
    length = f"Content-Length: {len(body)}\r\n" if framing == "length" else ""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 200 OK\r\n{length}Connection: close\r\n\r\n".encode() + body)
        await writer.drain()

    async with (
        upstream(server_context(tmp_path, issued), talk) as server,
        running_gateway(routed(server.url(), service=believing(tmp_path))) as gateway,
        await gateway.connect(limit=1024) as client,
    ):
        client.send(get())
        await asyncio.sleep(0.3)
        assert (await client.response()).body == body


async def test_uploads_wait_for_a_slow_upstream(tmp_path: Path, issued: Issued) -> None:
    body = bytes(range(256)) * 20_000
    got = bytearray()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.2)
        got.extend(await reader.readexactly(len(body)))
        writer.write(OK)
        await writer.drain()

    async with (
        upstream(server_context(tmp_path, issued), talk) as server,
        running_gateway(routed(server.url(), service=believing(tmp_path))) as gateway,
        await gateway.connect() as client,
    ):
        assert (await client.request(request("POST", "/", body=body))).status == 200
        assert bytes(got) == body


async def test_a_kept_connection_that_ended_is_not_used(tmp_path: Path, issued: Issued) -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await writer.drain()

    async with upstream(server_context(tmp_path, issued), once) as server:
        async with running_gateway(routed(server.url(), service=believing(tmp_path))) as gateway:
            assert (await gateway.get()).status == 200
            await eventually(lambda: all(not pool.connections for pool in gateway.plane.targets.pools.values()))
            assert (await gateway.get()).status == 200
        assert server.connections == 2


def broken(folder: Path, issued: Issued) -> dict[str, tuple[str, str]]:
    (folder / "text").write_text("hunter2\n", "utf-8")
    return {
        "no authority": (f"{{ca_file: {folder}/none}}", "tls.ca_file: cannot be read: no such file"),
        "text for an authority": (f"{{ca_file: {folder}/text}}", "tls.ca_file: holds no certificate in PEM form"),
        "no certificate": (f"{{certificate: {folder}/none}}", "tls.certificate: cannot be read"),
        "no key": (f"{{certificate: {issued.certificate}, key: {folder}/none}}", "tls.key: cannot be read"),
        "a key of nothing": (f"{{key: {issued.key}}}", "tls: must name the certificate that the key belongs to"),
        "text for a key": (
            f"{{certificate: {issued.certificate}, key: {folder}/text}}",
            "tls.key: holds no private key",
        ),
        "no host name": ("{server_name: 'a b'}", "tls.server_name: must be a host name or an address"),
        "an unknown key": ("{ca: x}", "tls.ca: unknown key"),
    }


@pytest.mark.parametrize(
    "case",
    [
        "no authority",
        "text for an authority",
        "no certificate",
        "no key",
        "a key of nothing",
        "text for a key",
        "no host name",
        "an unknown key",
    ],
)
async def test_settings_that_cannot_be_used(case: str, tmp_path: Path, issued: Issued) -> None:
    settings, text = broken(tmp_path, issued)[case]
    with pytest.raises(Exception, match=re.escape(text)) as caught:
        async with running_gateway(routed("https://lms.internal", service=f"tls: {settings}")):
            raise AssertionError
    assert re.match(r"config\.yaml:\d+:\d+: services\[0\]\.tls", str(caught.value))
    assert "hunter2" not in str(caught.value)


async def test_both_sides(tmp_path: Path, issued: Issued) -> None:
    async with upstream(server_context(tmp_path, issued)) as server:
        text = routed(server.url(), service=believing(tmp_path), top=tls(issued))
        async with (
            running_gateway(text) as gateway,
            await secure(gateway, client_context(tmp_path), "lms.internal") as client,
        ):
            for _ in range(3):
                assert (await client.request(get())).status == 200


@pytest.mark.parametrize("end", ["client", "server"])
async def test_websockets_over_tls_on_both_sides(end: str, tmp_path: Path, issued: Issued) -> None:
    """As over TCP: everything passes both ways, and either side's farewell arrives."""

    async def lms(socket: ServerConnection) -> None:
        await echo(socket)

    async with serve(lms, "127.0.0.1", 0, ssl=server_context(tmp_path, issued), max_size=1 << 24) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        text = routed(f"https://127.0.0.1:{port}", service=believing(tmp_path), top=tls(issued))
        async with running_gateway(text) as gateway:
            context = client_context(tmp_path)
            url = f"wss://localhost:{gateway.port}/live"
            async with connect(url, ssl=context, host="127.0.0.1", max_size=1 << 24) as socket:
                for size in (1, 1000, 1_000_000):
                    await socket.send(b"x" * size)
                    assert await socket.recv() == b"x" * size
                if end == "server":
                    await socket.send("close 4001")
                    with pytest.raises(ConnectionClosed) as closed:
                        await socket.recv()
                    assert closed.value.rcvd is not None
                    assert closed.value.rcvd.code == 4001
            assert socket.close_code == (4001 if end == "server" else 1000)
            await eventually(lambda: not gateway.plane.tunnels and not gateway.plane.downstreams)


@pytest.mark.parametrize("believed", [True, False])
async def test_probes_speak_tls_too(believed: bool, tmp_path: Path, issued: Issued) -> None:
    health = "health: {active: {path: /health, interval: 50ms, timeout: 2s, healthy: 1, unhealthy: 1}}"
    service = f"{believing(tmp_path)}\n{health}" if believed else health
    asked: list[bytes] = []

    async def look(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(OK)

    async with (
        upstream(server_context(tmp_path, issued), look) as server,
        running_gateway(routed(server.url("localhost"), service=service)) as gateway,
    ):
        if believed:
            await eventually(lambda: any(head.startswith(b"GET /health ") for head in asked))
            assert (await gateway.get()).status == 200
            assert set(server.asked) == {"localhost"}
        else:
            # No healthy target: refused at once, without a handshake of its own.
            await eventually(lambda: len(server.asked) > 2)
            assert (await gateway.get()).status == 503
            assert asked == []


# ── memory ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def no_collector() -> Iterator[None]:
    logging.disable()  # pytest keeps what is logged, errors with all that they passed
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    logging.disable(logging.NOTSET)


async def test_what_is_over_is_freed_without_the_collector(tmp_path: Path, no_collector: None) -> None:
    """It comes seldom in a gateway, and OpenSSL holds some 40 KiB a connection."""

    async def no_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    issued = authority().issue(tmp_path, "lms.example.org")
    context = client_context(tmp_path)
    plain = await asyncio.start_server(no_tls, "127.0.0.1", 0)
    async with plain, serve(echo, "127.0.0.1", 0, ssl=server_context(tmp_path, issued)) as sockets:
        ports = [plain.sockets[0].getsockname()[1], next(iter(sockets.sockets)).getsockname()[1]]
        for number, port in enumerate(ports):
            text = routed(f"https://127.0.0.1:{port}", service="tls_verify: false", top=tls(issued))
            async with running_gateway(text) as gateway:

                async def once(gateway: Gateway = gateway, tunnel: bool = bool(number)) -> None:
                    if not tunnel:
                        async with await secure(gateway, context) as client:
                            assert (await client.request(get())).status == 503
                        return
                    url = f"wss://127.0.0.1:{gateway.port}/"
                    async with connect(url, ssl=context, server_hostname="lms.example.org") as socket:
                        await socket.send("hello")
                        assert await socket.recv() == "hello"

                for _ in range(3):
                    await once()
                await eventually(lambda: not living(TlsConnection))


def living(kind: type) -> int:
    """How many objects of a kind there are."""
    return sum(type(each) is kind for each in gc.get_objects())
