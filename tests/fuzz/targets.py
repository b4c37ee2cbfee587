"""One target a parser seam: a function of bytes that raises only when something that must always hold does not.

`test_targets.py` runs each shortly with hypothesis, `python -m tests.fuzz` (`make fuzz`) for long with atheris.  A
target may keep nothing but the memories of the parsers themselves, which are part of what is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.fuzz import forwarding, http, values
from tests.integration.malformed_responses import ROWS, Sees
from tests.proxy import strict
from tests.proxy.corpus import CODINGS, HOSTS, TARGETS, named, numbered


@dataclass(frozen=True)
class Target:
    """`run` raises on a broken invariant; `seeds` are inputs to begin with, `words` what a mutation may put in."""

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()


def _some(cases: Iterable[bytes], most: int) -> tuple[bytes, ...]:
    """At most so many of the shorter ones, spread over all."""
    short = [case for case in cases if len(case) < 2000]
    return tuple(short[:: max(1, len(short) // most)])


# Legal ones first: an edit of what is illegal is seldom legal, and shows little.
_ALL = [case.raw for case in numbered(named())]
_LEGAL = [raw for raw in _ALL if strict.read_all(raw)[0] and len(raw) < 2000]
_CASES = (*_some(_LEGAL, 250), *_some(_ALL, 50))
_BODIES = [raw.partition(b"\r\n\r\n")[2] for raw in _LEGAL if b"chunked" in raw.lower()]
_RESPONSES = [b"".join(row.pieces) for row in ROWS if row.sees is not Sees.BAD_GATEWAY]
_REFUSED = [b"".join(row.pieces) for row in ROWS if row.sees is Sees.BAD_GATEWAY]
_HTTP_WORDS = (b"\r\n", b"\r\n\r\n", b": ", b"HTTP/1.1", b"HTTP/1.0", b"Host: ", b"Content-Length: ", b"Connection: ",
               b"Transfer-Encoding: chunked", b"0\r\n\r\n", b"5\r\nhello\r\n", b"Trailer: ", b"TE: trailers",
               b"X-Consumer-ID: ", b"X_Consumer_ID: ", b"Expect: 100-continue", b"Upgrade: websocket",
               *CODINGS[1:9])  # fmt: skip

TARGETS_BY_NAME: dict[str, Target] = {
    "request": Target(http.request, _CASES, _HTTP_WORDS),
    "request-head": Target(http.request_head_begun, _CASES, _HTTP_WORDS),
    "forwarded-request": Target(forwarding.forwarded, _CASES, _HTTP_WORDS),
    "response": Target(http.response, (*_some(_RESPONSES, 150), *_some(_REFUSED, 50)), _HTTP_WORDS),
    "chunked": Target(
        http.chunked,
        tuple(b"\x07" + body for body in _some(_BODIES, 200)),
        (b"\r\n", b"0\r\n\r\n", b";a=b", b';a="', b"5\r\n", b"ffffffff"),
    ),
    "length": Target(http.length, (b"\x05\x02hello world", b"\x00\x00", b"\xff\x01" + b"a" * 300)),
    "host": Target(
        http.host, tuple(host.partition(b": ")[2] for host in HOSTS), (b"[", b"]", b"::", b":80", b"%41", b"1.2.3.4")
    ),
    "absolute-form": Target(http.absolute, TARGETS[:40], (b"http://", b"https://", b"@", b"#", b"?", b"[::1]")),
    "path": Target(
        values.path,
        (b"/a/b", b"/a/./b/../c", b"//a", b"/%2e%2e/", b"/a;b/..;/c", b"/%61%2f", *TARGETS[20:]),
        (b"/", b"..", b".", b"%2e", b"%2f", b"%5c", b"%00", b";", b"//", b"\\"),
    ),
    "websocket-frames": Target(
        http.frames, (b"\x03\x81\x05hello\x88\x02\x03\xe8", b"\x01\x82\xfe\x01\x00abcd", b"\x02\x81\x7f")
    ),
    "x-forwarded-for": Target(
        forwarding.forwarded_for,
        (b"1.2.3.4, 10.0.0.1\nhttps\n443\nlms", b"[::1]:80, ::1, 10.0.0.1\nhttp", b"unknown, _x"),
        (b"10.0.0.1", b"2001:db8::1", b"::ffff:10.0.0.1", b", ", b"\n", b":80", b"%eth0"),
    ),
    "proxy-protocol": Target(
        forwarding.proxy_protocol,
        (
            b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\nGET",
            b"PROXY TCP6 2001:db8::1 ::1 0 65535\r\n",
            b"PROXY UNKNOWN whatever\r\n",
            b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\xdc\x04\x01\xbb",
            b"\r\n\r\n\x00\r\nQUIT\n\x21\x21\x00\x27" + bytes(range(39)),
            b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00",
        ),
        (b"PROXY ", b"TCP4 ", b"TCP6 ", b"UNKNOWN", b"\r\n", b"::", b"\r\n\r\n\x00\r\nQUIT\n"),
    ),
    "traceparent": Target(
        forwarding.trace, (b"00-0123456789abcdef0123456789abcdef-0123456789abcdef-01", b"00-" + b"0" * 32)
    ),
    "carriers": Target(
        values.carriers,
        (
            b"Bearer pnpub_a.pnsec_b",
            b"Basic cG5wdWJfYS5wbnNlY19iOg==",
            b"basic  YTpi",
            b"\napikey=a.b&apikey=c",
            b"\n%61pikey=a%2Eb+",
        ),
        (b"Bearer ", b"Basic ", b"apikey=", b"&", b"%", b"\n"),
    ),
    "key": Target(
        values.key,
        (b"pnpub_a.pnsec_b", b"pnpub_" + b"a" * 64 + b".pnsec_" + b"b" * 65, b"a.b.c"),
        (b"pnpub_", b"pnsec_", b"."),
    ),
    "accept": Target(
        values.accept,
        (
            b"text/html;q=0.9, application/json",
            b"*/*;q=nan",
            b"application/problem+json, */*",
            b"text/*;q=1e400",
        ),
        (b"text/html", b"text/plain", b";q=", b",", b"*/*"),
    ),
    "query": Target(
        values.query,
        (b"org=springfield&_method=DELETE", b"org[]=a;org=b", b"%6frg=%zz", b"my.org=1&my%00org=2"),
        (b"org", b"=", b"&", b";", b"%", b"+", b"[]", b"%00"),
    ),
    "cache-control": Target(
        values.cache_control,
        (
            b"max-age=60, private",
            b'no-cache="set-cookie", public',
            b"s-maxage=1e9",
            b"Sun, 06 Nov 1994 08:49:37 GMT",
            b"Sunday, 06-Nov-94 08:49:37 GMT",
            b"Sun Nov  6 08:49:37 1994",
        ),
        (b"max-age=", b"private", b"no-store", b'"', b",", b"GMT", b"Feb"),
    ),
    "token-answer": Target(
        values.token_answer,
        (
            b'{"access_token":"a","token_type":"Bearer","expires_in":3600}',
            b'{"access_token":"a.b.c","token_type":"JWT","expires_in":"1e999"}',
            b"[]",
        ),
        (b'"access_token"', b'"expires_in"', b"NaN", b"Infinity", b"{", b"["),
    ),
    "units": Target(
        values.units,
        (b"500ms", b"64KiB", b"600/minute", b"20/30s", b"10.0.0.0/8", b"::/0", b"9" * 400 + b"KiB", b"9" * 400 + b"s"),
        (b"/", b"KiB", b"9" * 400),
    ),
    "config": Target(values.config, values.CONFIGS, values.CONFIG_WORDS),
}
