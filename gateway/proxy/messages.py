"""What we write: request heads for upstreams, response heads for clients.  Pure, bytes in and bytes out.

Law: a header of contract §3 reaches the upstream only as written here, whatever the client sent
(`core.http.classify`); hop-by-hop fields and what Connection nominates end here (RFC 9110 §7.6.1).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from gateway.core import path as paths
from gateway.core.answers import reason_phrase
from gateway.core.context import index_fields
from gateway.core.http import CREDENTIALS, NO_TRAILERS, RESPONSE_DROP, Kind, classify, fold, tokens
from gateway.proxy.http1 import CHUNKED, NO_BODY, Fields, RequestHead, ResponseHead
from gateway.proxy.lines import watch

if TYPE_CHECKING:
    from gateway.core.context import Context
    from gateway.proxy.peers import Peer
    from gateway.snapshot import Route

_VIA: Final = {1: b"Via: 1.1 postern\r\n", 0: b"Via: 1.0 postern\r\n"}
_TRACEPARENT: Final = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_GIVEN_ID: Final = re.compile(rb"[A-Za-z0-9._~:/+=@-]{1,128}")
_CREDENTIAL: Final = int(Kind.CREDENTIAL)
_TRUSTED: Final = int(Kind.TRUSTED)
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
#: A 405 says what would do (RFC 9110 §15.5.6): every method but TRACE and CONNECT may pass, if its route allows it.
ALLOW: Final = (b"Allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
#: What both sides of a WebSocket's handshake say to the next hop.
UPGRADE: Final = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
_WEBSOCKET_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#: Members of Connection that name no field.
_OPTIONS: Final = frozenset({b"close", b"keep-alive", b"upgrade"})


def given_id(value: bytes | None) -> str | None:
    """A request id that a trusted proxy gave, if it is one that may be written anywhere."""
    return value.decode() if value is not None and _GIVEN_ID.fullmatch(value) else None


def absolute_form(target: bytes, host: bytes, method: bytes = b"GET") -> tuple[bytes, bytes]:
    """`(origin form, host)` of a target in absolute form (RFC 9112 §3.2.2); `*` is left as it is, and what an OPTIONS
    about a server as a whole comes to (§3.2.4).

    Raises ValueError for anything else.
    """
    if target == b"*":
        return target, host
    match = re.fullmatch(rb"(?i:https?)://([^/?#@\\]+)((?:[/?][^#]*)?)", target)
    if match is None:
        raise ValueError("the target is neither a path nor an absolute URL")
    rest = match[2]
    if not rest and method == b"OPTIONS":
        return b"*", match[1]
    return (rest if rest.startswith(b"/") else b"/" + rest), match[1]


def _without(query: bytes, names: tuple[str, ...]) -> bytes:
    """The query string less the parameters of these names, the rest byte for byte."""
    from urllib.parse import unquote_plus

    kept = [part for part in query.split(b"&") if unquote_plus(part.partition(b"=")[0].decode("latin-1")) not in names]
    return b"&".join(kept)


def request_head(
    head: RequestHead, context: Context, route: Route, matched: int, peer: Peer, host_header: bytes
) -> bytes:
    """The head that the upstream gets; `host_header` is what the target is called."""
    service = route.service
    if route.plain_path:
        path = context.path
    else:
        path = paths.join_upstream(service.base_path, context.path, matched, route.strip_path)
    given = context.upstream_query
    query = context.query if given is None else given
    if context.hidden_query:
        query = _without(query, context.hidden_query)
    host = head.host if route.preserve_host and head.host else host_header
    if query:
        query = b"?" + query
    elif head.target[-1] == 0x3F and given is None and not context.hidden_query:
        query = b"?"  # an empty query is a query, byte for byte
    out = [head.method, b" ", path.encode("ascii"), query, b" HTTP/1.1\r\nHost: ", host, b"\r\n"]
    lines = _forwarded(head, context.hidden, peer.trusted)
    if lines:
        out += (b"\r\n".join(lines), b"\r\n")
    request_id = context.request_id.encode("ascii")
    out += (peer.lines, peer.host or head.host or host_header, b"\r\nX-Request-ID: ", request_id)
    trace = head.index.get(b"traceparent")
    if trace is not None and _TRACEPARENT.fullmatch(trace):
        out += (b"\r\ntraceparent: ", trace, b"\r\n", _VIA[head.version])
    else:
        # A new trace: its id is the request's, its parent span the request's last half; sampled, as a request
        # without any traceparent would be by default.
        own = request_id if len(request_id) == 32 else _derived(request_id)
        out += (b"\r\ntraceparent: 00-", own, b"-", own[16:], b"-01\r\n", _VIA[head.version])
    identity = context.identity
    if identity is not None:
        out.append(identity.upstream_headers)
    if context.upstream_lines:
        out += context.upstream_lines
    framing = head.framing
    if framing == CHUNKED:
        out.append(b"Transfer-Encoding: chunked\r\n")
        if b"trailer" in head.index:
            names = [name for name in tokens(head.index[b"trailer"]) if _may_trail(name, head, context)]
            if names:
                out += (b"Trailer: ", b", ".join(names), b"\r\n")
    elif framing or b"content-length" in head.index:
        out.append(b"Content-Length: %d\r\n" % framing)
    if head.expects:
        out.append(b"Expect: 100-continue\r\n")
    if head.options and asks_upgrade(head):
        out.append(UPGRADE)
    elif b"te" in head.index and head.version and b"trailers" in tokens(head.index[b"te"]):
        out.append(b"TE: trailers\r\nConnection: TE\r\n")
    out.append(b"\r\n")
    return b"".join(out)


def asks_upgrade(head: RequestHead) -> bool:
    """Does a request ask for a WebSocket (RFC 6455 §4.1)?  No other protocol is switched to: h2c would tunnel requests
    past every policy."""
    index = head.index
    return (
        head.method == b"GET"
        and head.version == 1
        and head.framing == NO_BODY
        and b"upgrade" in head.options
        and b"sec-websocket-key" in index
        and b"upgrade" in index
        and tokens(index[b"upgrade"]) == [b"websocket"]
    )


def answers_upgrade(response: ResponseHead, head: RequestHead) -> bool:
    """Is a 101 the answer to this request's handshake (RFC 6455 §4.1: Upgrade, Connection, Sec-WebSocket-Accept)?"""
    index, repeated = index_fields(response.fields)
    key = head.index.get(b"sec-websocket-key", b"")
    accept = base64.b64encode(hashlib.sha1(key + _WEBSOCKET_GUID, usedforsecurity=False).digest())
    return (
        asks_upgrade(head)
        and response.version == 1
        and b"upgrade" in response.options
        and tokens(index.get(b"upgrade", b"")) == [b"websocket"]
        and b"sec-websocket-accept" not in repeated
        and index.get(b"sec-websocket-accept") == accept
    )


def _may_trail(name: bytes, head: RequestHead, context: Context) -> bool:
    """May a trailer of this name go on?  None that would not pass as a header does, or that a policy hides, and none
    that must not stand behind a body (RFC 9110 §6.5.1)."""
    folded = fold(name)
    return (
        classify(name) == Kind.FORWARD
        and folded not in NO_TRAILERS
        and folded not in [fold(hidden) for hidden in context.hidden]
        and name.lower() not in head.options
    )


def request_end(trailers: Fields, head: RequestHead, context: Context) -> bytes:
    """The last chunk of a request, with those trailers that may go on."""
    out = [b"%b: %b\r\n" % (name, value) for name, value in trailers if _may_trail(name, head, context)]
    return b"0\r\n" + b"".join(out) + b"\r\n"


def response_end(trailers: Fields, options: Sequence[bytes], context: Context) -> bytes:
    """The last chunk of a response with those trailers that may go on; `options`: what its Connection named."""
    drop = NO_TRAILERS.union(RESPONSE_DROP, options, *context.replaced)
    out = [b"%b: %b\r\n" % (name, value) for name, value in trailers if name.lower() not in drop]
    return b"0\r\n" + b"".join(out) + b"\r\n"


def _forwarded(head: RequestHead, hidden: tuple[bytes, ...], trusted: bool) -> list[bytes]:
    """The header lines that go on as they came."""
    lines = head.lines.copy()
    for at, kind, lower in reversed(head.special):
        if kind == _CREDENTIAL:
            if lower not in hidden:
                continue
        elif kind == _TRUSTED and trusted:
            continue
        del lines[at]
    if head.options:
        nominated = [option for option in head.options if option not in _OPTIONS]
        if nominated:
            lines = [line for line in lines if line.partition(b":")[0].lower() not in nominated]
    if hidden and not CREDENTIALS.issuperset(hidden):
        folded = [fold(name) for name in hidden]
        lines = [line for line in lines if fold(line.partition(b":")[0]) not in folded]
    return lines


def _derived(request_id: bytes) -> bytes:
    """32 hex digits for a request id of another shape."""
    from hashlib import blake2b

    return blake2b(request_id, digest_size=16).hexdigest().encode()


_DROPS: Final[dict[tuple[frozenset[bytes], ...], frozenset[bytes]]] = {(): RESPONSE_DROP}


def _drop(replaced: tuple[frozenset[bytes], ...]) -> frozenset[bytes]:
    """Every name that a response loses when policies replace these."""
    drop = RESPONSE_DROP.union(*replaced)
    # From now on `http1` tells these apart.
    watch(drop)
    if len(_DROPS) < 1024:
        _DROPS[replaced] = drop
    return drop


def response_head(response: ResponseHead, context: Context, chunked: bool, close: bool, version: int) -> bytes:
    """The head that the client gets; `chunked`: how an unknown length is framed, `version`: the client's minor."""
    out = [b"HTTP/1.1", response.line]
    replaced = context.replaced
    lines = response.lines.copy()
    if not replaced and not response.options:
        for at, lower in reversed(response.special):
            if lower in RESPONSE_DROP:
                del lines[at]
    else:
        drop = _DROPS.get(replaced)
        if drop is None or response.options:
            # Seldom: headers that are replaced for the first time, or that Connection nominates.
            drop = _drop(replaced).union(option for option in response.options if option not in _OPTIONS)
            lines = [line for line in lines if line.partition(b":")[0].lower() not in drop]
        else:
            for at, lower in reversed(response.special):
                if lower in drop:
                    del lines[at]
    if lines:
        out += (b"\r\n".join(lines), b"\r\n")
    out.append(_VIA[response.version])
    if context.answer_lines:
        out += context.answer_lines
    if chunked:
        out.append(b"Transfer-Encoding: chunked\r\n")
    elif response.length is not None and response.status != 204 and response.status != 101:
        out += (b"Content-Length: ", response.length, b"\r\n")
    if close:
        out.append(b"Connection: close\r\n")
    elif not version:
        out.append(b"Connection: keep-alive\r\n")
    out.append(b"\r\n")
    return b"".join(out)


def interim_head(response: ResponseHead) -> bytes:
    """A 1xx head for the client."""
    out = [b"HTTP/1.1", response.line]
    for name, value in response.fields:
        lower = name.lower()
        if lower not in RESPONSE_DROP and lower not in response.options:
            out += (name, b": ", value, b"\r\n")
    out.append(b"\r\n")
    return b"".join(out)


def own_head(
    status: int,
    headers: Sequence[tuple[bytes, bytes]],
    body: bytes,
    lines: Sequence[bytes],
    date: bytes,
    close: bool,
    version: int,
) -> bytes:
    """The head of an answer of the gateway's own.

    How it is framed and whether the connection stays is ours to say, whatever `headers` name; `date` and our own name
    stand where these have neither `Date` nor `Server` (a stored response keeps its own).  Raises ValueError for one
    that would be another line, too.
    """
    given: list[bytes] = []
    dated = served = False
    for name, value in headers:
        if b"\r" in value or b"\n" in value or not _NAME.fullmatch(name):
            raise ValueError("a policy's answer holds a header that is not one line")
        lower = name.lower()
        if lower in RESPONSE_DROP:
            continue
        given += (name, b": ", value, b"\r\n")
        if lower == b"date":
            dated = True
        elif lower == b"server":
            served = True
    out = [b"HTTP/1.1 %d %b\r\n" % (status, reason_phrase(status).encode())]
    if not dated:
        out += (b"Date: ", date, b"\r\n")
    if not served:
        out.append(b"Server: postern\r\n")
    out += given
    if lines:
        out += lines
    if status >= 200 and status not in (204, 304):
        out.append(b"Content-Length: %d\r\n" % len(body))
    if close:
        out.append(b"Connection: close\r\n")
    elif not version:
        out.append(b"Connection: keep-alive\r\n")
    out.append(b"\r\n")
    return b"".join(out)
