"""TLS towards clients: which certificate is shown to whom, what is refused, and that renewing it disturbs nobody."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Authority, Issued, authority, client_context, stranger
from tests.integration.gateways import MINUTE, Client, Gateway, chunked, eventually, get, proxied, request, routed
from upstream_stub.misbehaviours import head
from upstream_stub.raw import RawRequest
from upstream_stub.steps import End, Script, Send


def ok(_: RawRequest) -> Script:
    return Script([Send(head(200, "Content-Length: 2") + b"ok")], End.KEEP)


def tls(*certificates: Issued, **settings: str) -> str:
    lines = [f"  {name}: {value}" for name, value in settings.items()]
    return "\n".join(["tls:", f"  certificates: [{', '.join(each.yaml() for each in certificates)}]", *lines])


async def secure(gateway: Gateway, context: ssl.SSLContext, name: str | None = "lms.example.org") -> Client:
    """A client over TLS that asks for a name."""
    return Client(*await asyncio.open_connection("127.0.0.1", gateway.port, ssl=context, server_hostname=name or ""))


def shown(client: Client) -> int:
    """The serial number of the certificate that the client was shown."""
    certificate: Any = client.writer.get_extra_info("ssl_object").getpeercert()
    return int(certificate["serialNumber"], 16)


@pytest.fixture
def issued(tmp_path: Path) -> Issued:
    return authority().issue(tmp_path, "lms.example.org")


async def test_requests_over_tls(tmp_path: Path, issued: Issued) -> None:
    async with proxied(ok, top=tls(issued)) as (upstream, gateway):
        async with await secure(gateway, client_context(tmp_path)) as client:
            assert client.writer.get_extra_info("ssl_object").selected_alpn_protocol() is None
            for _ in range(3):
                assert (await client.request(get())).body == b"ok"
        (first, *_) = upstream.requests
        assert first.header("X-Forwarded-Proto") == "https"
        assert first.header("X-Forwarded-Port") == str(gateway.port)
        assert first.header("X-Forwarded-For") == "127.0.0.1"
        assert upstream.connections == 1


@pytest.mark.parametrize(
    ("offered", "spoken"), [(["h2", "http/1.1"], "http/1.1"), (["http/1.1"], "http/1.1"), (["h2"], None)]
)
async def test_application_protocols(tmp_path: Path, issued: Issued, offered: list[str], spoken: str | None) -> None:
    context = client_context(tmp_path)
    context.set_alpn_protocols(offered)
    async with proxied(ok, top=tls(issued)) as (_, gateway), await secure(gateway, context) as client:
        assert client.writer.get_extra_info("ssl_object").selected_alpn_protocol() == spoken


@pytest.mark.parametrize(
    ("asked", "certificate"),
    [
        ("lms.example.org", "first"),
        ("LMS.Example.ORG", "first"),
        ("www.example.org", "first"),
        ("moodle.example.org", "moodle"),
        ("any.example.org", "wildcard"),
        ("a.b.example.org", "first"),
        ("example.org", "first"),
        ("deep.campus.example.org", "campus"),
        ("elsewhere.example.net", "first"),
        ("192.0.2.1", "first"),
        ("", "first"),
    ],
)
async def test_the_certificate_is_chosen_by_name(tmp_path: Path, asked: str, certificate: str) -> None:
    certificates = {
        "first": authority().issue(tmp_path, "lms.example.org", "www.example.org", file="first"),
        "wildcard": authority().issue(tmp_path, "*.example.org", file="wildcard"),
        "moodle": authority().issue(tmp_path, "moodle.example.org", "lms.example.org", file="moodle"),
        "campus": authority().issue(tmp_path, "*.Campus.example.org", file="campus"),
        "nameless": authority().issue(tmp_path, file="nameless"),
    }
    context = client_context(tmp_path)
    context.check_hostname = False
    async with proxied(ok, top=tls(*certificates.values())) as (_, gateway):
        if not asked:
            reader, writer = await without_a_name(gateway, context)
            client = Client(reader, writer)
        else:
            client = await secure(gateway, context, asked)
        async with client:
            assert shown(client) == certificates[certificate].serial
            assert (await client.request(get())).status == 200


async def without_a_name(
    gateway: Gateway, context: ssl.SSLContext
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that asks for no name."""
    return await asyncio.open_connection("127.0.0.1", gateway.port, ssl=context, server_hostname="")


def _old(context: ssl.SSLContext) -> None:
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1


def _two(context: ssl.SSLContext) -> None:
    context.maximum_version = ssl.TLSVersion.TLSv1_2


def _three(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.parametrize(
    ("client", "lowest", "spoken"),
    [
        (_old, "1.2", None),
        (_two, "1.2", "TLSv1.2"),
        (_three, "1.2", "TLSv1.3"),
        (_two, "1.3", None),
        (_three, "1.3", "TLSv1.3"),
        (_two, '"1.2"', "TLSv1.2"),
    ],
)
async def test_versions(tmp_path: Path, issued: Issued, client: Any, lowest: str, spoken: str | None) -> None:
    context = client_context(tmp_path)
    client(context)
    async with proxied(ok, top=tls(issued, min_version=lowest)) as (_, gateway):
        if spoken is None:
            with pytest.raises(ssl.SSLError, match=r"(?i)version"):
                await secure(gateway, context)
            return
        async with await secure(gateway, context) as connection:
            assert connection.writer.get_extra_info("ssl_object").version() == spoken
            assert (await connection.request(get())).status == 200


@pytest.mark.parametrize(
    ("wanted", "own", "good"),
    [
        ("off", None, True),
        ("off", "stranger", True),
        ("optional", None, True),
        ("optional", "ours", True),
        ("optional", "stranger", False),
        ("optional", "expired", False),
        ("required", None, False),
        ("required", "ours", True),
        ("required", "stranger", False),
        ("required", "expired", False),
    ],
)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_clients_certificates(
    tmp_path: Path, issued: Issued, wanted: str, own: str | None, good: bool, version: ssl.TLSVersion
) -> None:
    client_ca = str(authority().file(tmp_path))
    certificates = {
        None: None,
        "ours": authority().issue(tmp_path, "app", file="ours"),
        "stranger": stranger().issue(tmp_path, "app", file="stranger"),
        "expired": authority().issue(tmp_path, "app", file="expired", days=-1),
    }
    context = client_context(tmp_path, certificates[own])
    context.maximum_version = version
    other = authority().issue(tmp_path, "other.example.org", file="other")
    settings = {"client_ca": client_ca, "client_certificates": wanted}
    async with proxied(ok, top=tls(other, issued, **settings)) as (upstream, gateway):
        if good:
            async with await secure(gateway, context) as client:
                assert (await client.request(get())).status == 200
            return
        # TLS 1.3: our handshake is over before the other end has looked at the certificate.
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            async with await secure(gateway, context) as client:
                await client.request(get())
        assert upstream.requests == []


async def test_what_is_no_tls_is_closed_and_nobodys_error(
    issued: Issued, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO)
    async with proxied(ok, top=tls(issued)) as (upstream, gateway):
        for said in (get(), b"\x16\x03\x01\x00\x05hello", b"\0" * 1000, b""):
            async with await gateway.connect() as client:
                client.send(said)
                client.writer.write_eof()
                answer = await client.ended()
                assert answer in ("closed", "reset") or answer.startswith("b'\\x15")  # an alert
        with pytest.raises(ssl.SSLError):
            await secure(gateway, ssl.create_default_context())
        async with await secure(gateway, client_context(tmp_path)) as client:
            assert (await client.request(get())).status == 200
        assert len(upstream.requests) == 1
        assert [record.status for record in await gateway.recorded(1)] == [200]
    assert [record for record in caplog.records if record.name.startswith(("postern", "asyncio"))] == []


async def test_a_handshake_has_its_time(issued: Issued, tmp_path: Path) -> None:
    async with proxied(ok, top=tls(issued), limits="{header_timeout: 1500ms}") as (_, gateway):
        async with await gateway.connect() as silent, await gateway.connect() as slow:
            slow.send(b"\x16\x03\x01\x02")
            await eventually(lambda: gateway.listener.greeting == 2)
            assert await silent.ended() in ("closed", "reset")
            assert await slow.ended() in ("closed", "reset")
            assert gateway.listener.greeting == 0
        async with await secure(gateway, client_context(tmp_path)) as client:
            assert (await client.request(get())).status == 200
            assert gateway.listener.greeting == 0


async def test_handshakes_are_bounded_in_number(issued: Issued) -> None:
    async with proxied(ok, top=tls(issued), limits="{connections: 3}") as (_, gateway):
        silent = [await gateway.connect() for _ in range(3)]
        await eventually(lambda: gateway.listener.greeting == 3)
        async with await gateway.connect() as one_more:
            assert await one_more.ended() in ("closed", "reset")
        for client in silent:
            client.writer.close()
        await eventually(lambda: gateway.listener.greeting == 0)


SOURCE = "PROXY TCP4 {} 198.51.100.1 4711 443\r\n"


async def greeted(gateway: Gateway, source: str, context: ssl.SSLContext | None) -> Client:
    """A connection from `source` (PROXY protocol; "": without) that shakes hands, or (no context) keeps silent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    if source:
        writer.write(SOURCE.format(source).encode())
    if context is not None:
        await writer.start_tls(context, server_hostname="lms.example.org")
    return Client(reader, writer)


@pytest.mark.parametrize("source", ["", "192.0.2.7"])
@pytest.mark.parametrize(
    ("limits", "here", "elsewhere"),
    [
        ("{connections: 3}", 503, 503),
        ("{connections: 4}", 200, 200),
        ("{connections_per_client: 3}", 503, 200),
        ("{connections_per_client: 4}", 200, 200),
    ],
)
async def test_handshakes_count_as_connections(
    issued: Issued, tmp_path: Path, source: str, limits: str, here: int, elsewhere: int
) -> None:
    top = tls(issued) + ("\nlisten: {proxy_protocol: on}" if source else "")
    context = client_context(tmp_path)
    async with proxied(ok, top=top, limits=limits) as (_, gateway):
        idle = await greeted(gateway, source, context)
        assert (await idle.request(get())).status == 200
        silent = [await greeted(gateway, source, None) for _ in range(2)]
        await eventually(lambda: sum(gateway.plane.clients.values()) == 3)
        assert gateway.plane.counts()["downstream", "greeting"] == gateway.listener.greeting == 2
        async with await greeted(gateway, source, context) as client:
            client.send(get())
            assert (await client.response()).status == here
        await eventually(lambda: len(gateway.plane.downstreams) == 1)
        if source:
            async with await greeted(gateway, "192.0.2.8", context) as client:
                client.send(get())
                assert (await client.response()).status == elsewhere
        for client in (idle, *silent):
            client.writer.close()
        await eventually(lambda: not (gateway.plane.clients or gateway.listener.greeting or gateway.plane.greeting))
        async with await greeted(gateway, source, context) as client:
            assert (await client.request(get())).status == 200


async def test_one_client_cannot_take_all_handshakes(issued: Issued) -> None:
    async with proxied(ok, top=tls(issued), limits="{connections_per_client: 2}") as (_, gateway):
        silent = [await gateway.connect() for _ in range(4)]
        await eventually(lambda: gateway.listener.greeting == 4)
        async with await gateway.connect() as one_more:
            assert await one_more.ended() in ("closed", "reset")
        for client in silent:
            client.writer.close()
        await eventually(lambda: not (gateway.plane.clients or gateway.listener.greeting or gateway.plane.greeting))


async def test_a_new_certificate_disturbs_nobody(issued: Issued, tmp_path: Path) -> None:
    """Connections that stand keep theirs; a handshake that has begun ends with the old one or the new one."""
    context = client_context(tmp_path)
    async with proxied(ok, top=tls(issued)) as (upstream, gateway):
        async with await secure(gateway, context) as standing, await gateway.connect() as begun:
            renewed = authority().issue(tmp_path, "lms.example.org", file="renewed")
            gateway.swap(routed(upstream.url, top=tls(renewed)))
            assert shown(standing) == issued.serial
            assert (await standing.request(get())).status == 200
            async with await secure(gateway, context) as fresh:
                assert shown(fresh) == renewed.serial
                assert (await fresh.request(get())).status == 200
            assert (await standing.request(get())).status == 200
            await begun.__aexit__()
        # And TLS can come and go.
        gateway.swap(routed(upstream.url))
        assert (await gateway.get()).status == 200


async def test_large_bodies_both_ways(issued: Issued, tmp_path: Path) -> None:
    """More than any buffer holds, against a slow reader: nothing is lost, and it waits."""
    body = bytes(range(256)) * 40_000

    def echo(_: RawRequest) -> Script:
        return Script([Send(head(200, "Transfer-Encoding: chunked") + chunked(body))], End.KEEP)

    async with proxied(echo, top=tls(issued)) as (upstream, gateway):
        async with await secure(gateway, client_context(tmp_path)) as client:
            client.send(request("POST", "/", body=body))
            await client.writer.drain()
            await asyncio.sleep(0.2)
            assert (await client.response()).body == body
            assert (await client.request(get())).body == body
        await eventually(lambda: bytes(upstream.requests[0].body) == body)


async def test_pipelined_requests(issued: Issued, tmp_path: Path) -> None:
    async with (
        proxied(ok, top=tls(issued)) as (_, gateway),
        await secure(gateway, client_context(tmp_path)) as client,
    ):
        client.send(get() * 20)
        for _ in range(20):
            assert (await client.response()).status == 200


async def test_a_refused_upload_reads_its_answer(issued: Issued, tmp_path: Path) -> None:
    """What is still being sent when the answer stands must not reset it (RFC 9112 §9.6)."""
    policies = "{request-size-limiting: {max: 1MB}}"
    async with (
        proxied(ok, top=tls(issued), policies=policies) as (_, gateway),
        await secure(gateway, client_context(tmp_path)) as client,
    ):
        client.send(request("POST", "/", body=b"x" * 4_000_000))
        answer = await client.response()
        assert answer.status == 413
        assert await client.ended() == "closed"


class RawTls:
    """A client that sees how its connection ends: with TLS's goodbye, without one, or by a reset."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="lms.example.org")

    async def begin(self, gateway: Gateway) -> None:
        self._reader, self.writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        await self.until(self.tls.do_handshake)

    def flush(self) -> None:
        self.writer.write(self._outgoing.read())

    async def until(self, step: Callable[[], Any]) -> Any:
        """What a step of TLS comes to, once enough has arrived."""
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self.flush()
                async with asyncio.timeout(30):
                    data = await self._reader.read(65536)
                if not data:
                    raise EOFError from None
                self._incoming.write(data)

    async def ended(self) -> tuple[bytes, str]:
        """Everything that comes, and how it ends."""
        got = bytearray()
        try:
            while data := await self.until(lambda: self.tls.read(65536)):
                got += data
        except EOFError:
            return bytes(got), "cut"
        except ConnectionResetError:
            return bytes(got), "reset"
        except ssl.SSLZeroReturnError:
            pass  # a goodbye that answers our own
        return bytes(got), "goodbye"


def cut(_: RawRequest) -> Script:
    return Script([Send(head(200, "Transfer-Encoding: chunked") + chunked(b"hello", end=b""))])


@pytest.mark.parametrize(
    ("scripted", "said", "seen"),
    [
        (ok, get(version="1.0"), "goodbye"),
        (ok, get("/", "Connection: close"), "goodbye"),
        (ok, b"GET / HTTP/9.9\r\n\r\n", "goodbye"),
        (ok, get(), "goodbye"),  # it is idle for too long
        (ok, b"", "goodbye"),
        (cut, get(version="1.0"), "reset"),
        (cut, get(), "reset"),
    ],
)
async def test_how_a_connection_ends(issued: Issued, tmp_path: Path, scripted: Any, said: bytes, seen: str) -> None:
    """What is whole ends with a goodbye; what is cut has none, so that it cannot look complete."""
    limits = "{idle_timeout: 1m, header_timeout: 1m}"
    async with proxied(scripted, top=tls(issued), limits=limits) as (_, gateway):
        client = RawTls(client_context(tmp_path))
        await client.begin(gateway)
        if said:
            client.tls.write(said)
            client.flush()
        ending = asyncio.create_task(client.ended())
        if scripted is ok and said in (b"", get()):
            await eventually(lambda: gateway.records if said else gateway.plane.downstreams)
            gateway.deadlines(time.monotonic_ns() + MINUTE)
        assert (await ending)[1] == seen
        client.writer.close()
        await eventually(lambda: not gateway.plane.downstreams)


async def test_a_client_that_has_said_all_gets_its_answer(issued: Issued, tmp_path: Path) -> None:
    """TLS has halves as TCP has: a goodbye is not an abort."""
    async with proxied(ok, top=tls(issued)) as (_, gateway):
        client = RawTls(client_context(tmp_path))
        await client.begin(gateway)
        client.tls.write(get())
        with pytest.raises(ssl.SSLWantReadError):
            client.tls.unwrap()
        client.flush()
        answer, end = await client.ended()
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert end == "goodbye"
        client.writer.close()


BROKEN: dict[str, tuple[Callable[[Path, Issued], tuple[Path, Path]], str]] = {
    "no certificate": (
        lambda f, i: (f / "none.crt", i.key),
        r"certificates\[0\]\.certificate: cannot be read: no such",
    ),
    "no key": (lambda f, i: (i.certificate, f / "none.key"), r"certificates\[0\]\.key: cannot be read: no such file"),
    "a folder": (lambda f, i: (f, i.key), r"certificates\[0\]\.certificate: cannot be read: it is not a regular file"),
    "another key": (
        lambda f, i: (i.certificate, Authority().issue(f, "x", file="x").key),
        r"certificates\[0\]\.key: is not the key of this certificate",
    ),
    "a key as a certificate": (lambda f, i: (i.key, i.key), r"\.certificate: holds no certificate in PEM form"),
    "a certificate as a key": (lambda f, i: (i.certificate, i.certificate), r"\.key: holds no private key in PEM form"),
    "neither": (lambda f, i: (f / "text", f / "text"), r"certificates\[0\]\.certificate: holds no certificate in PEM"),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_files_that_cannot_be_used(issued: Issued, tmp_path: Path, case: str) -> None:
    (tmp_path / "text").write_text("hunter2\n", "utf-8")
    choose, text = BROKEN[case]
    certificate, key = choose(tmp_path, issued)
    broken = f"{{certificate: {certificate}, key: {key}}}"
    async with proxied(ok, top=tls(issued)) as (upstream, gateway):
        standing = gateway.plane.snapshot
        with pytest.raises(Exception, match=text) as caught:
            gateway.swap(routed(upstream.url, top=tls(issued).replace(issued.yaml(), broken)))
        assert re.match(r"config\.yaml:\d+:\d+: tls\.certificates\[0\]", str(caught.value))
        assert "hunter2" not in str(caught.value)
        assert gateway.plane.snapshot is standing
