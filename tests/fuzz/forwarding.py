"""Fuzz targets of `messages`: what we write is strict, and holds nothing that a client may not say."""

from __future__ import annotations

import re
from contextlib import suppress
from ipaddress import ip_address

from gateway.core.http import FORWARDED, IDENTITY, fold
from gateway.proxy.framing import ChunkedReader, FramingError
from gateway.proxy.http1 import CHUNKED, END, Limits, Refused, RequestHead, parse_request
from gateway.proxy.messages import given_id, request_end, request_head
from gateway.proxy.peers import trusted_peer, untrusted_peer
from gateway.proxy.proxy_protocol import Header, ProxyProtocolError, parse
from tests.proxy import strict
from tests.proxy.test_messages import NETWORKS, make_context, make_route

LIMITS = Limits()
ROUTE = make_route()
PEER = untrusted_peer("192.0.2.7", "http", 8000)
#: RFC 9110, W3C Trace Context §3.2.
TRACE = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
WRITTEN_ONCE = (b"host", b"x-request-id", b"traceparent", b"x-forwarded-for", b"x-real-ip", b"x-forwarded-host")


def _head(data: bytes) -> tuple[RequestHead, bytes] | None:
    end = data.find(END) + 4
    if end < 4:
        return None
    try:
        return parse_request(data[:end], LIMITS), data[end:]
    except Refused:
        return None


def _reread(raw: bytes) -> strict.Request:
    """What a strict upstream makes of it: exactly one request."""
    one = strict.read_request(raw, 200)
    assert one is not None
    assert one[1] == b""
    return one[0]


def forwarded(data: bytes) -> None:
    """Whatever a client sent, the upstream reads one strict request, framed as announced, without a forged name."""
    read = _head(data)
    if read is None:
        return
    head, rest = read
    context = make_context(head)
    raw = request_head(head, context, ROUTE, 0, PEER, b"lms.internal")
    body = b""
    if head.framing == CHUNKED:
        current = ChunkedReader()
        with suppress(FramingError):  # what there is of the trailers is tried all the same
            current.feed(rest)
        body = request_end(current.trailers, head, context)
    elif head.framing < 10_000:
        body = b"x" * head.framing
    else:
        return
    seen = _reread(raw + body)
    assert (seen.method, seen.version, seen.chunked) == (head.method, 1, head.framing == CHUNKED)
    assert seen.body == (b"" if head.framing == CHUNKED else body)
    names = [fold(name) for name, _ in (*seen.fields, *seen.trailers)]
    assert not [name for name in names if name in IDENTITY]
    assert all(names.count(name) == 1 for name in WRITTEN_ONCE)
    assert seen.values(b"x-forwarded-for") == [b"192.0.2.7"]
    assert TRACE.fullmatch(seen.values(b"traceparent")[0])
    nominated = {option for option in head.options if option not in (b"close", b"keep-alive", b"upgrade", b"te")}
    sent = {line.partition(b":")[0].lower() for line in head.lines}
    written = {b"host", b"via", b"content-length", b"transfer-encoding", b"x-request-id", b"traceparent", b"connection",
               b"expect", *FORWARDED}  # fmt: skip
    assert not {name.lower() for name, _ in (*seen.fields, *seen.trailers)} & nominated & sent - written


def forwarded_for(data: bytes) -> None:
    """The lines are X-Forwarded-For, -Proto, -Port and -Host of a trusted proxy: what comes out is addresses."""
    names = (b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-Forwarded-Port", b"X-Forwarded-Host")
    lines = [name + b": " + value for name, value in zip(names, data.split(b"\n"), strict=False)]
    read = _head(b"\r\n".join([b"GET / HTTP/1.1", b"Host: lms", *lines, b"", b""]))
    if read is None:
        return
    head, _ = read
    for address in ("10.0.0.1", "2001:db8::1", "::ffff:10.0.0.9"):
        peer = trusted_peer(address, "http", 8000, NETWORKS, head.index)
        ip_address(peer.client)
        seen = _reread(request_head(head, make_context(head), ROUTE, 0, peer, b"lms.internal"))
        (chain,) = seen.values(b"x-forwarded-for")
        members = [member.decode("ascii") for member in chain.split(b", ")]
        hops = [ip_address(member) for member in members]
        assert members[-1] == address.removeprefix("::ffff:")
        trusted = [any(hop in network for network in NETWORKS) for hop in hops]
        # The client is the last one that we do not trust, or the first of those whom we do.
        assert peer.client == members[0]
        assert all(trusted[1:])
        assert seen.values(b"x-real-ip") == [peer.client.encode()]
        assert peer.scheme in ("http", "https")
        for name in (b"x-forwarded-proto", b"x-forwarded-port", b"x-forwarded-host"):
            assert len(seen.values(name)) == 1


def trace(data: bytes) -> None:
    """A trace goes on as it came if it is one, else a new one begins; an id that is believed can stand anywhere."""
    read = _head(b"GET / HTTP/1.1\r\nHost: lms\r\ntraceparent: " + data + b"\r\n\r\n")
    if read is not None:
        head, _ = read
        (written,) = _reread(request_head(head, make_context(head), ROUTE, 0, PEER, b"lms.internal")).values(
            b"traceparent"
        )
        assert TRACE.fullmatch(written)
        given = data.strip(b" \t")
        assert (written == given) == (TRACE.fullmatch(given) is not None)
    believed = given_id(data)
    if believed is not None:
        assert re.fullmatch(r"[!-~]{1,128}", believed)
        assert not set(believed) & set('"\\,;')
        context = make_context(read[0], request_id=believed) if read is not None else None
        if read is not None and context is not None:
            assert _reread(request_head(read[0], context, ROUTE, 0, PEER, b"lms.internal")).values(b"x-request-id") == [
                data
            ]


def proxy_protocol(data: bytes) -> None:
    """A header is read whole or not at all, the same however much follows, and gives an address and two ports."""
    try:
        header = parse(data)
    except ProxyProtocolError:
        return
    for size in range(len(data) if header is None else header.size):
        assert parse(data[:size]) is None
    if header is None:
        return
    assert parse(data[: header.size]) == parse(data + b"GET / HTTP/1.1\r\n") == Header(header.size, header.source)
    if header.source is not None:
        assert str(ip_address(header.source.address)) == header.source.address
        assert 0 <= header.source.port < 65536
        assert 0 <= header.source.destination_port < 65536
