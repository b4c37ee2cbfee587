"""The heads that we write: what an upstream can rely on, whatever a client sent, and what a client gets to see."""

from __future__ import annotations

from ipaddress import ip_network
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.context import Context
from gateway.core.http import FORWARDED, IDENTITY, TRUSTED_ONLY
from gateway.core.identity import Consumer, Credential, Identity, Organization
from gateway.core.units import Network
from gateway.proxy.http1 import Limits, RequestHead, parse_request, parse_response
from gateway.proxy.messages import (
    absolute_form,
    given_id,
    interim_head,
    own_head,
    response_head,
)
from gateway.proxy.messages import request_head as compose
from gateway.proxy.peers import Peer, trusted_peer, untrusted_peer
from gateway.snapshot import Origin, Route, Service, Stats, Target

HOST = "gateway.example.org"
REQUEST_ID = "0123456789abcdef0123456789abcdef"
IDENTITY_NOW = Identity(
    Consumer("7d0f", "mobile_app", custom_id="c-1", organization=Organization("o", "springfield"), groups=("a", "b")),
    Credential("k", "api-key", "pnpub_1", "7d0f"),
    scopes=("courses:read",),
    user_id="u-1",
)
NETWORKS: tuple[Network, ...] = (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))


def request_head(head: RequestHead, context: Context, route: Route, matched: int, peer: Peer) -> bytes:
    """The head for the service's first target."""
    return compose(head, context, route, matched, peer, route.service.targets[0].host_header)


def make_route(*, base_path: str = "/", strip_path: bool = False, preserve_host: bool = False) -> Route:
    service = Service("lms", (Target("lms", Origin("127.0.0.1", 9000), b"lms.internal:9000"),), base_path)
    stats = cast(Stats, None)  # nothing is counted here
    plain = base_path == "/" and not strip_path
    return Route("r", service, (), (), stats, strip_path=strip_path, preserve_host=preserve_host, plain_path=plain)


def parse(*lines: str, method: str = "GET", version: str = "1.1") -> RequestHead:
    raw = "\r\n".join([f"{method} /a HTTP/{version}", f"Host: {HOST}", *lines, "", ""])
    return parse_request(raw.encode("latin-1"), Limits())


def make_context(head: RequestHead, *, path: str = "/a", query: bytes = b"", request_id: str = REQUEST_ID) -> Context:
    return Context(
        head.method.decode(), path, query, head.hostname, "http", head.lines, head.index, head.repeated, "192.0.2.7",
        1, 1.0, request_id, head.framing if head.framing >= 0 else None,
    )  # fmt: skip


def written(
    *lines: str,
    method: str = "GET",
    version: str = "1.1",
    identity: Identity | None = None,
    hidden: tuple[bytes, ...] = (),
    trusted: bool = False,
    route: Route | None = None,
    query: bytes = b"",
) -> tuple[str, list[tuple[str, str]]]:
    """`(request line, fields)` of what the upstream gets for a request with these lines."""
    head = parse(*lines, method=method, version=version)
    context = make_context(head, query=query)
    context.identity, context.hidden = identity, hidden
    peer = (
        trusted_peer("10.0.0.1", "http", 8000, NETWORKS, head.index)
        if trusted
        else untrusted_peer("192.0.2.7", "http", 8000)
    )
    raw = request_head(head, context, route or make_route(), 0, peer)
    assert raw.endswith(b"\r\n\r\n")
    first, *rest = raw[:-4].decode("latin-1").split("\r\n")
    return first, [(name, value) for name, _, value in (line.partition(": ") for line in rest)]


def values(fields: list[tuple[str, str]], name: str) -> list[str]:
    """Every value of a field as a CGI server would find it."""
    return [value for key, value in fields if key.lower().replace("_", "-") == name.lower()]


# ── what a client can never forge ────────────────────────────────────────────────────────────────

OURS = {
    "X-Consumer-ID": ["7d0f"],
    "X-Consumer-Username": ["mobile_app"],
    "X-Consumer-Custom-ID": ["c-1"],
    "X-Consumer-Groups": ["a, b"],
    "X-Credential-Identifier": ["pnpub_1"],
    "X-Organization-ID": ["springfield"],
    "X-Authenticated-Scope": ["courses:read"],
    "X-Authenticated-UserId": ["u-1"],
    "X-Anonymous-Consumer": [],
    "X-Forwarded-For": ["192.0.2.7"],
    "X-Real-IP": ["192.0.2.7"],
    "X-Forwarded-Proto": ["http"],
    "X-Forwarded-Host": [HOST],
    "X-Forwarded-Port": ["8000"],
    "X-Request-ID": [REQUEST_ID],
}


def spellings(name: str) -> st.SearchStrategy[str]:
    """Every spelling that CGI folds into this name."""
    return st.tuples(
        *(st.sampled_from(["-", "_"] if letter == "-" else sorted({letter.lower(), letter.upper()})) for letter in name)
    ).map("".join)


every_name = sorted({*OURS, *(name.decode() for name in IDENTITY | FORWARDED | TRUSTED_ONLY)})


@given(st.sampled_from(every_name).flatmap(spellings), st.booleans(), st.booleans())
def test_no_spelling_of_our_headers_passes(name: str, nominated: bool, known: bool) -> None:
    lines = [f"{name}: forged", *([f"Connection: {name}, close"] if nominated else [])]
    _, fields = written(*lines, identity=IDENTITY_NOW if known else None)
    assert not [field for field in fields if field[1] == "forged"]
    for ours, expected in OURS.items():
        about_identity = ours.lower().encode() in IDENTITY
        assert values(fields, ours) == ([] if about_identity and not known else expected)


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_nomination_does_not_remove_what_we_write(name: str) -> None:
    _, fields = written(f"Connection: {name}", identity=IDENTITY_NOW)
    assert values(fields, name) == OURS[name]


@pytest.mark.parametrize(
    "name",
    ["Content_Length", "Transfer_Encoding", "Proxy", "X_API_KEY", "X_Request_ID", "Keep_Alive", "HTTP2_Settings"],
)
def test_what_an_upstream_could_misread_is_dropped(name: str) -> None:
    _, fields = written(f"{name}: 5")
    assert name not in [key for key, _ in fields]


# ── hop-by-hop and nominated fields ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "line",
    [
        "Connection: x-a",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic a",
        "Proxy-Authenticate: Basic",
        "TE: deflate",
        "Trailer: X-A",  # without a chunked body there is no place for one
        "Upgrade: websocket",
        "HTTP2-Settings: a",
        "Expect: 100-continue",  # without a body there is nothing to wait for
    ],
)
def test_hop_by_hop_fields_end_here(line: str) -> None:
    _, fields = written(line)
    assert not values(fields, line.partition(":")[0])


def test_nominated_fields_end_here() -> None:
    _, fields = written(
        "Connection: X-Private ,close,, Cookie",
        "x-private: 1",
        "Cookie: a=1",
        "X-Public: 2",
        "Connection: x-more",
        "X-More: 3",
    )
    assert not values(fields, "X-Private") + values(fields, "Cookie") + values(fields, "X-More")
    assert values(fields, "X-Public") == ["2"]
    assert not values(fields, "Connection")


@pytest.mark.parametrize("name", ["Host", "Content-Length", "Via", "traceparent"])
def test_nominating_what_carries_the_message_changes_nothing(name: str) -> None:
    _, fields = written(f"Connection: {name}", "Content-Length: 0", method="POST")
    assert len(values(fields, name)) == 1


def test_other_fields_pass_as_they_came_and_in_order() -> None:
    lines = ["Accept: a/b", "ACCEPT:c/d", "X-Odd:  two  words ", "Cookie: a=1", "X-Empty:", "User-Agent: \xff"]
    head = parse(*lines)
    raw = request_head(head, make_context(head), make_route(), 0, untrusted_peer("192.0.2.7", "http", 80))
    assert "\r\n".join(lines).encode("latin-1") in raw


# ── credentials ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("hidden", "line", "passes"),
    [
        ((), "Authorization: Bearer a.b", True),
        ((b"authorization",), "Authorization: Bearer a.b", False),
        ((b"authorization",), "AUTHORIZATION:Bearer a.b", False),
        ((b"authorization",), "apikey: a.b", True),
        ((b"apikey",), "ApiKey: a.b", False),
        ((b"x-api-key",), "X-API-Key: a.b", False),
        ((b"x-lms-key",), "X-LMS-Key: a.b", False),
        ((b"x-lms-key",), "X_LMS-KEY: a.b", False),
        ((b"x_lms_key",), "X-LMS-Key: a.b", False),
        ((b"x-lms-key", b"authorization"), "Authorization: Bearer a.b", False),
        ((b"x-lms-key",), "Authorization: Bearer a.b", True),
    ],
)
def test_hidden_credentials(hidden: tuple[bytes, ...], line: str, passes: bool) -> None:
    _, fields = written(line, "X-Other: 1", hidden=hidden)
    assert bool(values(fields, line.partition(":")[0].replace("_", "-"))) is passes
    assert values(fields, "X-Other") == ["1"]


@pytest.mark.parametrize(
    ("query", "names", "sent"),
    [
        (b"", (), "GET /a HTTP/1.1"),
        (b"x=1&apikey=s", (), "GET /a?x=1&apikey=s HTTP/1.1"),
        (b"x=1&apikey=s", ("apikey",), "GET /a?x=1 HTTP/1.1"),
        (b"apikey=s", ("apikey",), "GET /a HTTP/1.1"),
        (b"apikey", ("apikey",), "GET /a HTTP/1.1"),
        (b"%61pikey=s&x=%2f+&&y", ("apikey",), "GET /a?x=%2f+&&y HTTP/1.1"),
        (b"apikey=s&apikey=t&Apikey=u", ("apikey",), "GET /a?Apikey=u HTTP/1.1"),
    ],
)
def test_hidden_query_parameters(query: bytes, names: tuple[str, ...], sent: str) -> None:
    head = parse()
    context = make_context(head, query=query)
    context.hidden_query = names
    raw = request_head(head, context, make_route(), 0, untrusted_peer("192.0.2.7", "http", 80))
    assert raw.split(b"\r\n")[0].decode() == sent


# ── host, path, framing ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("preserve", "host"), [(False, "lms.internal:9000"), (True, HOST)])
def test_the_upstream_host(preserve: bool, host: str) -> None:
    _, fields = written(route=make_route(preserve_host=preserve))
    assert values(fields, "Host") == [host]
    assert fields[0] == ("Host", host)


def test_the_upstream_path() -> None:
    head = parse()
    context = make_context(head, path="/api/a/b", query=b"q")
    peer = untrusted_peer("192.0.2.7", "http", 80)
    route = make_route(base_path="/lms", strip_path=True)
    assert request_head(head, context, route, len("/api"), peer).startswith(b"GET /lms/a/b?q HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((), {}),
        (("Content-Length: 0",), {"Content-Length": "0"}),
        (("Content-Length: 005",), {"Content-Length": "5"}),
        (("Transfer-Encoding: chunked",), {"Transfer-Encoding": "chunked"}),
        (("Content-Length: 5", "Expect: 100-Continue"), {"Content-Length": "5", "Expect": "100-continue"}),
    ],
)
def test_request_framing(lines: tuple[str, ...], expected: dict[str, str]) -> None:
    _, fields = written(*lines, method="POST")
    found = {name: value for name, value in fields if name in ("Content-Length", "Transfer-Encoding", "Expect")}
    assert found == expected


@pytest.mark.parametrize(("version", "via"), [("1.1", "1.1 postern"), ("1.0", "1.0 postern")])
def test_via_is_appended(version: str, via: str) -> None:
    first, fields = written("Via: 1.1 first", version=version)
    assert values(fields, "Via") == ["1.1 first", via]
    assert first == "GET /a HTTP/1.1"


# ── tracing ──────────────────────────────────────────────────────────────────────────────────────

GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    "line",
    [
        "",
        f"traceparent: {GIVEN[:-1]}",
        f"traceparent: {GIVEN.upper()}",
        f"traceparent: 00-{'0' * 32}-{'1' * 16}-01",
        f"traceparent: 00-{'1' * 32}-{'0' * 16}-01",
        f"traceparent: {GIVEN}\r\ntraceparent: {GIVEN}",
        f"trace_parent: {GIVEN}",
        f"traceparent: ff{GIVEN[2:]}",
    ],
)
def test_a_trace_begins_here_unless_a_good_one_came(line: str) -> None:
    _, fields = written(*([line] if line else []))
    assert values(fields, "traceparent") == [f"00-{REQUEST_ID}-{REQUEST_ID[16:]}-01"]


def test_a_trace_goes_on() -> None:
    _, fields = written(f"Traceparent: {GIVEN}", "tracestate: a=b")
    assert (values(fields, "traceparent"), values(fields, "tracestate")) == ([GIVEN], ["a=b"])


def test_a_given_request_id_of_another_shape_makes_a_trace_too() -> None:
    head = parse()
    raw = request_head(head, make_context(head, request_id="short"), make_route(), 0, untrusted_peer("::1", "http", 80))
    assert b"\r\nX-Request-ID: short\r\n" in raw
    (line,) = [line for line in raw.split(b"\r\n") if line.startswith(b"traceparent: ")]
    assert len(line) == len(b"traceparent: ") + 55


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        (b"a-1.b_c~d:/+=@", True),
        (b"", False),
        (b"a b", False),
        (b"a\xff", False),
        (b"a" * 129, False),
        (b'a"b', False),
        (None, False),
    ],
)
def test_given_ids(value: bytes | None, taken: bool) -> None:
    assert (given_id(value) is not None) is taken


def test_a_trusted_proxy_may_rewrite() -> None:
    assert values(written("X-Original-URL: /b", trusted=True)[1], "X-Original-URL") == ["/b"]
    assert not values(written("X-Original-URL: /b")[1], "X-Original-URL")


@pytest.mark.parametrize(
    ("target", "origin", "host"),
    [
        (b"http://a.example.org/b?c", b"/b?c", b"a.example.org"),
        (b"HTTPS://a:8443/", b"/", b"a:8443"),
        (b"http://a", b"/", b"a"),
        (b"http://a?b", b"/?b", b"a"),
        (b"http://[::1]:80/x", b"/x", b"[::1]:80"),
    ],
)
def test_absolute_targets(target: bytes, origin: bytes, host: bytes) -> None:
    assert absolute_form(target, b"other") == (origin, host)


@pytest.mark.parametrize(("target", "form"), [(b"http://a", b"*"), (b"http://a/", b"/"), (b"http://a?b", b"/?b")])
def test_options_about_a_whole_server(target: bytes, form: bytes) -> None:
    assert absolute_form(target, b"other", b"OPTIONS") == (form, b"a")


@pytest.mark.parametrize(
    "target", [b"a", b"http:///a", b"http://u@a/", b"ftp://a/", b"http://a#b", b"http://a\\b/", b"//a/b", b"http:/a"]
)
def test_targets_that_are_neither(target: bytes) -> None:
    with pytest.raises(ValueError, match="neither"):
        absolute_form(target, b"other")


# ── responses ────────────────────────────────────────────────────────────────────────────────────


def relayed(
    *lines: str,
    status: str = "200 OK",
    replaced: tuple[frozenset[bytes], ...] = (),
    answer_lines: tuple[bytes, ...] = (),
    chunked: bool = False,
    close: bool = False,
    version: int = 1,
) -> tuple[str, list[tuple[str, str]]]:
    """`(status line, fields)` of what the client gets for an upstream's response."""
    raw = "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1")
    context = make_context(parse())
    context.replaced, context.answer_lines = replaced, list(answer_lines)
    out = response_head(parse_response(raw, False), context, chunked, close, version)
    first, *rest = out[:-4].decode("latin-1").split("\r\n")
    return first, [(name, value) for name, _, value in (line.partition(": ") for line in rest)]


@pytest.mark.parametrize("again", range(2))
def test_hop_by_hop_fields_of_responses_end_here(again: int) -> None:
    lines = ("Connection: close, X-Hop", "Keep-Alive: 5", "X-Hop: 1", "Upgrade: h2c", "Trailer: X", "TE: a", "X-A: 1",
             "Proxy-Authenticate: Basic", "Content-Length: 5")  # fmt: skip
    first, fields = relayed(*lines)
    assert first == "HTTP/1.1 200 OK"
    assert fields == [("X-A", "1"), ("Via", "1.1 postern"), ("Content-Length", "5")]


def test_several_cookies_stay_several() -> None:
    _, fields = relayed("Set-Cookie: a=1; Path=/", "Set-Cookie: b=2", "Content-Length: 0")
    assert values(fields, "Set-Cookie") == ["a=1; Path=/", "b=2"]


RATES = frozenset({b"ratelimit-limit", b"ratelimit"})
IDS = frozenset({b"x-request-id"})


@pytest.mark.parametrize("again", range(2))
@pytest.mark.parametrize("connection", [(), ("Connection: x-hop",), ("Connection: close",)])
def test_replaced_headers_of_an_upstream_are_dropped(connection: tuple[str, ...], again: int) -> None:
    lines = ("RateLimit-Limit: 1", "ratelimit:x", "X-Request-Id: upstream", "X-A: 1", *connection, "Content-Length: 0")
    ours = (b"RateLimit-Limit: 600\r\n", b"X-Request-ID: ours\r\n")
    _, fields = relayed(*lines, replaced=(RATES, IDS), answer_lines=ours)
    assert values(fields, "RateLimit-Limit") == ["600"]
    assert values(fields, "X-Request-ID") == ["ours"]
    assert values(fields, "RateLimit") == []
    assert values(fields, "X-A") == ["1"]


def test_without_a_replacement_an_upstream_keeps_its_own() -> None:
    relayed("X-Request-ID: upstream", replaced=(IDS,))
    _, fields = relayed("X-Request-ID: upstream", "RateLimit-Limit: 1")
    assert (values(fields, "X-Request-ID"), values(fields, "RateLimit-Limit")) == (["upstream"], ["1"])


@pytest.mark.parametrize(
    ("chunked", "close", "version", "lines", "expected"),
    [
        (False, False, 1, ("Content-Length: 5",), {"Content-Length": "5"}),
        (True, False, 1, ("Transfer-Encoding: chunked",), {"Transfer-Encoding": "chunked"}),
        (False, True, 0, ("Transfer-Encoding: chunked",), {"Connection": "close"}),
        (False, False, 0, ("Content-Length: 5",), {"Content-Length": "5", "Connection": "keep-alive"}),
        (False, True, 1, ("Content-Length: 5",), {"Content-Length": "5", "Connection": "close"}),
    ],
)
def test_response_framing(
    chunked: bool, close: bool, version: int, lines: tuple[str, ...], expected: dict[str, str]
) -> None:
    _, fields = relayed(*lines, chunked=chunked, close=close, version=version)
    assert dict(fields) == {"Via": "1.1 postern", **expected}


def test_interim_heads() -> None:
    raw = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: X-Hop\r\nX-Hop: 1\r\nContent-Length: 5\r\n\r\n"
    assert interim_head(parse_response(raw, False)) == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding", "Connection"])
def test_how_our_own_answers_are_framed_is_ours_to_say(name: str) -> None:
    head = own_head(
        200, ((name.encode(), b"7"), (b"X-A", b"1")), b"body", (), b"Sat, 01 Jan 2000 00:00:00 GMT", True, 1
    )
    assert head.count(b"\r\nContent-Length: ") == 1
    assert head.count(b"\r\nConnection: ") == 1
    assert b": 7\r\n" not in head
    assert b"X-A: 1\r\n" in head


@pytest.mark.parametrize(
    "field", [(b"X-A", b"1\r\nX-B: 2"), (b"X-A", b"1\n"), (b"X-A: 1\r\nX-B", b"2"), (b"", b"1"), (b"X A", b"1")]
)
def test_a_header_of_our_own_answers_is_one_line(field: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="not one line"):
        own_head(200, (field,), b"", (), b"Sat, 01 Jan 2000 00:00:00 GMT", False, 1)


@pytest.mark.parametrize(
    ("headers", "date", "server"),
    [
        ((), b"Sat, 01 Jan 2000 00:00:00 GMT", b"postern"),
        (((b"date", b"Sun, 02 Jan 2000 00:00:00 GMT"),), b"Sun, 02 Jan 2000 00:00:00 GMT", b"postern"),
        (((b"Server", b"lms/1"),), b"Sat, 01 Jan 2000 00:00:00 GMT", b"lms/1"),
    ],
)
def test_an_answer_that_has_its_own_date_and_server_keeps_them(
    headers: tuple[tuple[bytes, bytes], ...], date: bytes, server: bytes
) -> None:
    head = own_head(200, headers, b"", (), b"Sat, 01 Jan 2000 00:00:00 GMT", False, 1).lower()
    assert (head.count(b"\r\ndate: "), head.count(b"\r\nserver: ")) == (1, 1)
    assert b"\r\ndate: " + date.lower() in head
    assert b"\r\nserver: " + server in head


@pytest.mark.parametrize(
    ("status", "body", "length"),
    [(200, b"pong", b"4"), (200, b"", b"0"), (204, b"", None), (304, b"", None), (413, b"{}", b"2")],
)
def test_our_own_heads(status: int, body: bytes, length: bytes | None) -> None:
    head = own_head(status, ((b"X-A", b"1"),), body, [b"X-B: 2\r\n"], b"Sat, 01 Jan 2000 00:00:00 GMT", False, 1)
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nX-A: 1\r\nX-B: 2\r\n" in head
    assert (b"Content-Length: %b\r\n" % length in head) if length else b"Content-Length" not in head
    assert head.endswith(b"\r\n\r\n")
    assert b"Connection" not in head
