"""The door to token endpoints (law 5): one POST over aiohttp's client, and every way in which it can fail.

Laws: what goes wrong is an `IssuerError` whose text holds neither secret nor answer; nothing is followed, kept or
decompressed, and no more is read than an answer may hold.
"""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
from typing import Final
from urllib.parse import quote_plus, urlencode

import aiohttp

from gateway import __version__
from gateway.core.errors import IssuerError
from gateway.core.ports import ClientCredentialsGrant
from gateway.issuers.token_response import MAX_ANSWER, IssuedToken, parse_answer

#: The longest `Retry-After` of an issuer that is honoured, in seconds.
_LONGEST_WAIT: Final = 30
_HEADERS: Final = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "Content-Type": "application/x-www-form-urlencoded",
    "User-Agent": f"postern/{__version__}",
}


def compose(grant: ClientCredentialsGrant) -> tuple[dict[str, str], bytes]:
    """`(headers, body)` of the request of a grant (RFC 6749 §4.4.2); a JWT is asked for as Open edX wants it."""
    form = {"grant_type": "client_credentials"}
    headers = dict(_HEADERS)
    if grant.auth == "basic":
        pair = f"{quote_plus(grant.client_id)}:{quote_plus(grant.client_secret)}"
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    else:
        form |= {"client_id": grant.client_id, "client_secret": grant.client_secret}
    if grant.scope:
        form["scope"] = grant.scope
    if grant.audience:
        form["audience"] = grant.audience
    if grant.scheme == "JWT":
        form["token_type"] = "jwt"
    return headers, urlencode({**form, **dict(grant.form)}).encode("ascii")


class TokenEndpoint:
    """Asks token endpoints; certificates are judged by the system's authorities."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def fetch(self, grant: ClientCredentialsGrant) -> IssuedToken:
        """Ask once.  Raises `IssuerError`, at the latest after `grant.timeout` seconds."""
        headers, body = compose(grant)
        try:
            async with (
                asyncio.timeout(grant.timeout),
                self._open().post(grant.token_url, data=body, headers=headers, allow_redirects=False) as response,
            ):
                answer = await _read(response)
                status, retry_after = response.status, response.headers.get("Retry-After", "")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise IssuerError(_cause(error, grant.timeout)) from None  # its own text may quote what it was given
        try:
            return parse_answer(status, answer, grant.scheme)
        except IssuerError as error:
            if status in (429, 503) and retry_after.isascii() and retry_after.isdigit():
                error.retry_after = max(1, min(int(retry_after[:9]), _LONGEST_WAIT))
            raise

    async def close(self) -> None:
        """Close what is open."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Tokens are fetched seldom: a kept connection would be dead by the next time.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, use_dns_cache=False),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),  # `fetch` has its own, which covers everything
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    while chunk := await response.content.read(MAX_ANSWER + 1 - len(body)):
        body += chunk
        if len(body) > MAX_ANSWER:
            raise IssuerError(f"its answer is larger than {MAX_ANSWER // 1024} KiB")
    return bytes(body)


def _cause(error: Exception, timeout: float) -> str:
    """What went wrong, in words that hold nothing of request or answer."""
    if isinstance(error, TimeoutError):
        return f"it did not answer within {timeout:g} s"
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return "its certificate cannot be verified"
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return "no TLS connection to it can be made"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name cannot be resolved"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        return f"it cannot be connected to: {os.strerror(number).lower() if number else 'no address answers'}"
    if isinstance(error, aiohttp.ClientResponseError):
        return "what it answers is no HTTP"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "its answer broke off"
    if isinstance(error, aiohttp.ServerDisconnectedError | OSError):
        return "it hung up"
    return f"it cannot be asked ({type(error).__name__})"
