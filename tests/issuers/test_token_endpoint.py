"""The door to token endpoints, over real sockets: what is asked, and every way in which an endpoint can fail."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs

import pytest

from gateway.core.errors import IssuerError
from gateway.core.ports import ClientCredentialsGrant
from gateway.issuers.token_endpoint import TokenEndpoint, compose
from gateway.issuers.token_response import MAX_ANSWER, IssuedToken
from upstream_stub.misbehaviours import head
from upstream_stub.raw import RawServer
from upstream_stub.steps import End, Repeat, Script, Send, Wait

GOOD = json.dumps({"access_token": "t-1", "token_type": "Bearer", "expires_in": 60}).encode()


def grant(url: str = "http://127.0.0.1:1/token", **changes: Any) -> ClientCredentialsGrant:
    return ClientCredentialsGrant(url, "post ern", "s3cret&=", **changes)


@pytest.fixture
async def endpoint() -> AsyncIterator[TokenEndpoint]:
    made = TokenEndpoint()
    yield made
    await made.close()


# ── what is asked ────────────────────────────────────────────────────────────────────────────────

BASE = {"grant_type": "client_credentials"}
POST = {**BASE, "client_id": "post ern", "client_secret": "s3cret&="}
#: RFC 6749 §2.3.1: both are form-encoded before they are joined.
BASIC = "Basic " + base64.b64encode(b"post+ern:s3cret%26%3D").decode()


@pytest.mark.parametrize(
    ("changes", "form", "authorization"),
    [
        ({}, POST, None),
        ({"auth": "basic"}, BASE, BASIC),
        ({"scope": "read write", "audience": "lms"}, {**POST, "scope": "read write", "audience": "lms"}, None),
        ({"scheme": "JWT"}, {**POST, "token_type": "jwt"}, None),
        ({"scheme": "JWT", "form": (("token_type", "JWT"),)}, {**POST, "token_type": "JWT"}, None),
        ({"form": (("resource", "a=b&\u00e4"),)}, {**POST, "resource": "a=b&\u00e4"}, None),
    ],
)
def test_the_request(changes: dict[str, Any], form: dict[str, str], authorization: str | None) -> None:
    headers, body = compose(grant(**changes))
    assert parse_qs(body.decode(), strict_parsing=True) == {name: [value] for name, value in form.items()}
    assert headers.get("Authorization") == authorization
    assert headers["Content-Type"] == "application/x-www-form-urlencoded"


async def test_it_is_sent_as_composed(endpoint: TokenEndpoint) -> None:
    async with RawServer(lambda _: answered(GOOD)) as server:
        assert await endpoint.fetch(grant(server.url + "/a%2Fb?c=%20d")) == IssuedToken(b"t-1", 60)
        (request,) = server.requests
        assert (request.method, request.target) == ("POST", "/a%2Fb?c=%20d")
        assert bytes(request.body) == compose(grant())[1]
        assert request.header("Accept-Encoding") == "identity"
        assert request.header("Cookie") is None


async def test_cookies_are_not_kept(endpoint: TokenEndpoint) -> None:
    async with RawServer(lambda _: answered(GOOD, "Set-Cookie: session=a")) as server:
        for _ in range(2):
            await endpoint.fetch(grant(server.url))
        assert [request.header("Cookie") for request in server.requests] == [None, None]
        assert server.connections == 2


async def test_a_proxy_of_the_environment_is_not_asked(
    endpoint: TokenEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with RawServer(lambda _: answered(GOOD)) as server:
        assert (await endpoint.fetch(grant(server.url))).token == b"t-1"


# ── what goes wrong ──────────────────────────────────────────────────────────────────────────────


def answered(body: bytes, *lines: str, status: int = 200) -> Script:
    return Script([Send(head(status, f"Content-Length: {len(body)}", "Connection: close", *lines) + body)])


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        (answered(b"<html>s3cret</html>", "Content-Type: text/html"), "no JSON object"),
        (answered(b"x" * (MAX_ANSWER + 1)), "larger than 64 KiB"),
        (Script([Send(head(200, "Content-Length: 9999999999")), Repeat((Send(b" " * 65536),))]), "larger than 64 KiB"),
        (
            Script(
                [Send(head(200, "Transfer-Encoding: chunked")), Repeat((Send(b"400\r\n" + b" " * 1024 + b"\r\n"),))]
            ),
            "larger than 64 KiB",
        ),
        (answered(gzip.compress(GOOD), "Content-Encoding: gzip"), "no JSON object"),
        (answered(b"", "Location: /elsewhere", status=302), "answers 302"),
        (answered(GOOD, "Location: /elsewhere", status=308), "answers 308"),
        (answered(b"", status=204), "answers 204"),
        (answered(b'{"error": "invalid_client"}', status=401), "invalid_client"),
        (answered(b"s3cret", status=503), "answers 503"),
        (Script([Send(head(200, "Content-Length: 100") + b"{")]), "broke off"),
        (Script([Send(head(200, "Content-Length: 100") + b"{")], End.RESET), "broke off|hung up"),
        (Script([]), "hung up"),
        (Script([], End.RESET), "hung up"),
        (Script([Send(b"s3cret\r\n\r\n")]), "no HTTP"),
        (Script([Send(b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 100_000 + b"\r\n\r\n")]), "no HTTP"),
        (Script([], End.HANG), r"within 0\.3 s"),
        (Script([Send(head(200, "Content-Length: 100")), Repeat((Send(b" "), Wait(0.05)))]), r"within 0\.3 s"),
    ],
)
async def test_what_is_no_token(endpoint: TokenEndpoint, script: Script, fault: str) -> None:
    # A machine that stands still for a moment is not what the others are about.
    timeout = 0.3 if "within" in fault else 30.0
    async with RawServer(lambda _: script) as server:
        with pytest.raises(IssuerError, match=fault) as caught:
            await endpoint.fetch(grant(server.url, timeout=timeout))
        assert len(server.requests) == 1
        assert "s3cret" not in str(caught.value)
        assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("http://127.0.0.1:1/", "cannot be connected to: connection refused"),
        ("http://no-such-host.invalid/", "name cannot be resolved"),
    ],
)
async def test_nobody_there(endpoint: TokenEndpoint, url: str, fault: str) -> None:
    with pytest.raises(IssuerError, match=fault):
        await endpoint.fetch(grant(url, timeout=30.0))


async def test_a_server_that_speaks_no_tls(endpoint: TokenEndpoint) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        with pytest.raises(IssuerError, match="TLS"):
            await endpoint.fetch(grant(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"))


async def test_a_certificate_of_nobody(endpoint: TokenEndpoint, tmp_path_factory: pytest.TempPathFactory) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_self_signed(tmp_path_factory))

    async def unheard(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("a secret was sent to somebody")

    server = await asyncio.start_server(unheard, "127.0.0.1", 0, ssl=context)
    async with server:
        with pytest.raises(IssuerError, match="certificate cannot be verified"):
            await endpoint.fetch(grant(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"))


def _self_signed(factory: pytest.TempPathFactory) -> str:
    """A file with a key and a certificate that nobody vouches for."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = factory.mktemp("tls") / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return str(path)


@pytest.mark.parametrize(
    ("status", "said", "heard"),
    [(503, "7", 7), (429, "3600", 30), (503, "soon", 1), (503, "0", 1), (500, "7", 1), (503, "9" * 5000, 30)],
)
async def test_when_to_ask_again(endpoint: TokenEndpoint, status: int, said: str, heard: int) -> None:
    async with RawServer(lambda _: answered(b"", f"Retry-After: {said}", status=status)) as server:
        with pytest.raises(IssuerError) as caught:
            await endpoint.fetch(grant(server.url))
        assert caught.value.retry_after == heard


async def test_a_fetch_that_is_given_up_leaves_nothing_open(endpoint: TokenEndpoint) -> None:
    async with RawServer(lambda _: Script([], End.HANG)) as server:
        fetching = asyncio.create_task(endpoint.fetch(grant(server.url)))
        while not server.requests:
            await asyncio.sleep(0.005)
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
        while server.open:
            await asyncio.sleep(0.005)
