"""Header names the gateway has an opinion on, and the memo that finds that opinion in one look-up.

Request headers fall into four kinds: forwarded as they are, hop-by-hop (RFC 9110 §7.6.1), written by
the gateway alone (identity and forwarding headers, contract §3), and believed from trusted proxies only.
A name is judged as the loosest CGI or WSGI server would fold it: case makes no difference, and all but letters and
digits is one (`X_Consumer_ID`; lighttpd makes HTTP_X_CONSUMER_ID of `X.Consumer~ID` too).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Kind(IntEnum):
    """What happens to a request header on its way to the upstream."""

    FORWARD = 0
    #: Belongs to this hop; never forwarded (RFC 9110 §7.6.1).
    HOP = 1
    #: Written by the gateway; what a client sends under this name, in any spelling, is dropped.
    IDENTITY = 2
    #: Dropped unless the peer is a trusted proxy.
    TRUSTED = 3
    #: Framing and routing: rewritten by the data plane (Host, Content-Length, Transfer-Encoding, Expect, Via …).
    OWN = 4
    #: Where credentials usually travel: forwarded unless a policy hides it.
    CREDENTIAL = 5


HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"upgrade",
        b"http2-settings",
    }
)

IDENTITY: Final = frozenset(
    {
        b"x-consumer-id",
        b"x-consumer-username",
        b"x-consumer-custom-id",
        b"x-consumer-groups",
        b"x-credential-identifier",
        b"x-anonymous-consumer",
        b"x-organization-id",
        b"x-authenticated-scope",
        b"x-authenticated-userid",
        b"x-authenticated-groups",
        b"x-credential-username",
    }
)

#: Always rewritten; a trusted peer's values are continued, anybody else's dropped.
FORWARDED = frozenset(
    {
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-real-ip",
    }
)

TRUSTED_ONLY = frozenset(
    {
        b"forwarded",
        b"x-forwarded",
        b"x-forwarded-server",
        b"x-forwarded-prefix",
        b"x-forwarded-scheme",
        b"x-forwarded-ssl",
        b"x-original-url",
        b"x-original-uri",
        b"x-rewrite-url",
        b"x-http-method-override",
        b"x-http-method",
        b"x-method-override",
    }
)

OWN: Final = frozenset(
    {
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"expect",
        b"x-request-id",
        b"traceparent",
    }
)

#: The usual carriers of credentials.
CREDENTIALS: Final = frozenset({b"authorization", b"apikey", b"x-api-key"})

#: A CGI server makes HTTP_PROXY of it (httpoxy, CVE-2016-5385); no client has a use for it.
_NEVER = frozenset({b"proxy"})

#: Response headers that belong to the upstream's hop.
RESPONSE_DROP: Final = HOP_BY_HOP | {b"transfer-encoding", b"content-length"}

#: Fields that mean something before a body is read, and so nothing behind it (RFC 9110 §6.5.1): framing, routing,
#: request modifiers, authentication, payload processing, and what a response is controlled by.
NO_TRAILERS: Final = (
    HOP_BY_HOP
    | OWN
    | CREDENTIALS
    | frozenset({b"cookie", b"set-cookie", b"max-forwards", b"range", b"cache-control", b"pragma", b"age", b"date",
                 b"expires", b"location", b"retry-after", b"vary", b"warning", b"www-authenticate", b"via",
                 b"authentication-info", b"proxy-authentication-info", b"trailer", b"content-encoding",
                 b"content-type", b"content-range", b"content-disposition", b"content-security-policy",
                 b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"if-range",
                 b"origin", b"referer"})
)  # fmt: skip

_MEMO_LIMIT: Final = 4096

#: Letters in lower case and digits; anything else as `-`.
_FOLDED: Final = bytes(ord(chr(byte).lower()) if chr(byte).isalnum() else 0x2D for byte in range(128)) + b"-" * 128


def fold(name: bytes) -> bytes:
    """A header name as CGI would see it: lower case, whatever is neither letter nor digit read as `-`."""
    return name.translate(_FOLDED)


def classify(name: bytes) -> Kind:
    """What happens to the request header of this name (in any spelling)."""
    folded = fold(name)
    if folded in IDENTITY or folded in FORWARDED:
        return Kind.IDENTITY
    lower = name.lower()
    if folded in TRUSTED_ONLY:
        # A proxy that sets or strips one of these knows its own spelling alone; others may be its client's.
        return Kind.TRUSTED if lower == folded else Kind.IDENTITY
    if folded in _NEVER:
        return Kind.HOP
    # Other spellings that fold into one of these are not ours to read, and would be the upstream's to
    # misread: `Content_Length`, `Transfer.Encoding`, `X_Request_ID`, `X_API_Key`.
    if folded in HOP_BY_HOP or folded in OWN or folded in CREDENTIALS:
        if lower != folded:
            return Kind.IDENTITY
        if folded in CREDENTIALS:
            return Kind.CREDENTIAL
        return Kind.OWN if folded in OWN else Kind.HOP
    return Kind.FORWARD


_request_names: Final[dict[bytes, tuple[int, bytes]]] = {}


def request_name(name: bytes) -> tuple[int, bytes]:
    """`(kind, lower-case name)` of a request header; remembers up to 4,096 spellings."""
    entry = _request_names.get(name)
    if entry is None:
        entry = (int(classify(name)), name.lower())
        if len(_request_names) < _MEMO_LIMIT:
            _request_names[name] = entry
    return entry


class Watched:
    """The response headers that may have to go (this hop's own fields, framing, what policies replace) or to come."""

    def __init__(self) -> None:
        self.names = RESPONSE_DROP | {b"date"}

    def add(self, names: frozenset[bytes]) -> bool:
        """Watch these, too; False if they were watched already."""
        if names <= self.names:
            return False
        self.names |= names
        return True


def tokens(value: bytes) -> list[bytes]:
    """The members of a comma-separated list of tokens, lower case, empty ones left out (RFC 9110 §5.6.1)."""
    return [member for part in value.lower().split(b",") if (member := part.strip(b" \t"))]
