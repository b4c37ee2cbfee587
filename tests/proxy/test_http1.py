"""Message heads without sockets: what is cut, what is refused and with which answer, how a body is framed.

A head whose lines are all remembered is not shown to llhttp again: every table runs cold and warm.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.http import Kind
from gateway.proxy import lines
from gateway.proxy.http1 import (
    CHUNKED,
    MAX_RESPONSE_FIELDS,
    NO_BODY,
    UNTIL_CLOSE,
    BadResponse,
    Limits,
    Refused,
    RequestHead,
    ResponseHead,
    check_begun_response,
    find_end,
    parse_request,
    parse_response,
)

LIMITS = Limits()
HOST = b"Host: gateway.example.org"


@pytest.fixture(autouse=True, params=["cold", "warm"])
def memory(request: pytest.FixtureRequest) -> Iterator[None]:
    """The memory of lines, empty or full of what tests use."""
    lines.forget_lines()
    if request.param == "warm":
        for line in (b"A: 1", b"X-Long: a", b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Connection: close"):
            parse_request(b"POST / HTTP/1.1\r\n" + HOST + b"\r\n" + line + b"\r\n\r\n", LIMITS)
            parse_response(b"HTTP/1.1 200 OK\r\n" + line + b"\r\n\r\n", False)
    yield
    lines.forget_lines()


def request(*lines: bytes, first: bytes = b"POST /a HTTP/1.1") -> RequestHead:
    return parse_request(b"\r\n".join([first, HOST, *lines, b"", b""]), LIMITS)


def status_of(head: bytes) -> int:
    """The status that a head is refused with, 200 if it is not; the same when it comes again."""
    seen = []
    for _ in range(2):
        try:
            parse_request(head, LIMITS)
            seen.append(200)
        except Refused as refused:
            seen.append(refused.answer.status)
    assert seen[0] == seen[1]
    return seen[0]


# ── request lines ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET / HTTP/1.1", 200),
        (b"GET / HTTP/1.0", 200),
        (b"get / HTTP/1.1", 200),
        (b"M-SEARCH / HTTP/1.1", 200),
        (b"SOURCE / HTTP/1.1", 200),
        (b"PRI / HTTP/1.1", 200),
        (b"A" * 64 + b" / HTTP/1.1", 200),
        (b"A" * 65 + b" / HTTP/1.1", 400),
        (b"GET / HTTP/2.0", 505),
        (b"GET / HTTP/0.9", 505),
        (b"GET / HTTP/1.2", 505),
        (b"GET / HTTP/10.1", 505),
        (b"GET / HTTP/2", 505),
        (b"GET / http/1.1", 400),
        (b"GET / RTSP/1.0", 400),
        (b"GET / ICE/1.0", 400),
        (b"GET /", 400),
        (b"GET", 400),
        (b" GET / HTTP/1.1", 400),
        (b"GET  / HTTP/1.1", 400),
        (b"GET /  HTTP/1.1", 400),
        (b"GET / HTTP/1.1 ", 400),
        (b"GET\t/ HTTP/1.1", 400),
        (b"GET / x HTTP/1.1", 400),
        (b"GET /#a HTTP/1.1", 400),
        (b"GET /?a#b HTTP/1.1", 400),
        (b"GET /#a HTTP/2.0", 400),
        (b"GET \x00/ HTTP/1.1", 400),
        (b"GET /\x00 HTTP/1.1", 400),
        (b"GET /\x7f HTTP/1.1", 400),
        (b"GET /\xc3\xa4 HTTP/1.1", 400),
        (b"G(T / HTTP/1.1", 400),
        (b"CONNECT a:443 HTTP/1.1", 405),
        (b"TRACE / HTTP/1.1", 405),
        (b"GET /" + b"a" * 8191 + b" HTTP/1.1", 200),
        (b"GET /" + b"a" * 8192 + b" HTTP/1.1", 414),
    ],
)
def test_request_lines(line: bytes, status: int) -> None:
    assert status_of(line + b"\r\n" + HOST + b"\r\n\r\n") == status


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([b"A: 1"], 200),
        ([b"A:1"], 200),
        ([b"A:"], 200),
        ([b"A: \t1\t "], 200),
        ([b"A: \xff\xfe"], 200),
        ([b"A: 1"] * 99, 200),
        ([b"A: 1"] * 100, 431),
        ([b"A : 1"], 400),
        ([b" A: 1"], 400),
        ([b"A: 1", b" 2"], 400),
        ([b"A: 1", b"\t2"], 400),
        ([b"A"], 400),
        ([b": 1"], 400),
        ([b"A\x00: 1"], 400),
        ([b"A: \x00"], 400),
        ([b"A: \x0b"], 400),
        ([b"A: \x7f"], 400),
        ([b"A: 1\rB: 2"], 400),
        ([b"A: 1\nB: 2"], 400),
        ([b"A: 1\nB: 2", b" folded"], 400),
        ([b"\xc3\xa4: 1"], 400),
        ([b'A"B: 1'], 400),
        ([b"A(B): 1"], 400),
        ([b"A B: 1"], 400),
    ],
)
def test_header_lines(lines: list[bytes], status: int) -> None:
    assert status_of(b"\r\n".join([b"GET / HTTP/1.1", HOST, *lines, b"", b""])) == status


@pytest.mark.parametrize(
    ("host", "status", "name"),
    [
        (b"Host: lms.example.org", 200, "lms.example.org"),
        (b"Host: LMS.Example.ORG.:8000", 200, "lms.example.org"),
        (b"HOST:lms:80", 200, "lms"),
        (b"Host: lms:", 200, "lms"),
        (b"Host: [::1]:8000", 200, "[::1]:8000"),
        (b"Host: [::ffff:192.0.2.1]", 200, "[::ffff:192.0.2.1]"),
        (b"Host: [2001:DB8:0:0:0:0:0:1]:", 200, "[2001:db8:0:0:0:0:0:1]"),
        (b"Host: [::::]", 400, ""),
        (b"Host: [1:2:3:4:5:6:7:8:9]", 400, ""),
        (b"Host: [12345::]", 400, ""),
        (b"Host: [::1", 400, ""),
        (b"Host: ::1", 400, ""),
        (b"Host: [::1%25lo]", 400, ""),
        (b"Host: [v1.a]", 400, ""),
        (b"Host: [127.0.0.1]", 400, ""),
        (b"Host: a:123456", 400, ""),
        (b"Host: a%4", 400, ""),
        (b"Host: :80", 400, ""),
        (b"Host: 127.0.0.1", 200, "127.0.0.1"),
        (b"Host: under_score", 200, "under_score"),
        (b"Host:", 400, ""),
        (b"Host: a b", 400, ""),
        (b"Host: a/b", 400, ""),
        (b"Host: a@b", 400, ""),
        (b"Host: a:b", 400, ""),
        (b"Host: a:80:80", 400, ""),
        (b"Host: a,b", 200, "a,b"),
        (b"Host: \xc3\xa4", 400, ""),
        (b"Host: a\r\nHost: a", 400, ""),
        (b"Host: a\r\nhost: b", 400, ""),
        (b"Accept: a/b", 400, ""),
    ],
)
def test_hosts(host: bytes, status: int, name: str) -> None:
    head = b"GET / HTTP/1.1\r\n" + host + b"\r\n\r\n"
    assert status_of(head) == status
    if status == 200:
        assert parse_request(head, LIMITS).hostname.split("]")[0] == name.split("]", maxsplit=1)[0]


def test_a_host_is_optional_in_http_1_0() -> None:
    head = parse_request(b"GET / HTTP/1.0\r\n\r\n", LIMITS)
    assert (head.host, head.hostname, head.version, head.keep_alive) == (b"", "", 0, False)


# ── framing and persistence of requests ──────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("lines", "framing"),
    [
        ([], NO_BODY),
        ([b"Content-Length: 0"], 0),
        ([b"Content-Length: 5"], 5),
        ([b"content-length:5"], 5),
        ([b"Content-Length: 5 "], 5),
        ([b"Content-Length: 00005"], 5),
        ([b"Content-Length: 999999999999999999"], 10**18 - 1),
        ([b"Transfer-Encoding: chunked"], CHUNKED),
        ([b"transfer-encoding:ChunKed"], CHUNKED),
        ([b"Transfer-Encoding: \tchunked \t"], CHUNKED),
    ],
)
def test_framing_of_requests(lines: list[bytes], framing: int) -> None:
    for _ in range(2):
        assert request(*lines).framing == framing


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([b"Content-Length:"], 400),
        ([b"Content-Length: -1"], 400),
        ([b"Content-Length: +1"], 400),
        ([b"Content-Length: 1_0"], 400),
        ([b"Content-Length: 0x5"], 400),
        ([b"Content-Length: 5 5"], 400),
        ([b"Content-Length: 5, 5"], 400),
        ([b"Content-Length: 5,"], 400),
        ([b"Content-Length: 5", b"Content-Length: 5"], 400),
        ([b"Content-Length: 5", b"content-length: 6"], 400),
        ([b"Content-Length: \xb2"], 400),
        ([b"Content-Length: 9999999999999999999"], 400),
        ([b"Content-Length: 5", b"Transfer-Encoding: chunked"], 400),
        ([b"Transfer-Encoding: chunked", b"Content-Length: 5"], 400),
        ([b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"], 400),
        ([b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"], 400),
        ([b"Transfer-Encoding: chunked, chunked"], 400),
        ([b"Transfer-Encoding: chunked, gzip"], 400),
        ([b"Transfer-Encoding: chunked,"], 400),
        ([b"Transfer-Encoding: ,chunked"], 400),
        ([b"Transfer-Encoding: chunked;q=1"], 400),
        ([b'Transfer-Encoding: "chunked"'], 400),
        ([b"Transfer-Encoding: \x0bchunked"], 400),
        ([b"Transfer-Encoding: chunke\xc4\xb1d"], 400),
        ([b"Transfer-Encoding:"], 400),
        ([b"Transfer-Encoding: gzip"], 501),
        ([b"Transfer-Encoding: gzip, chunked"], 501),
        ([b"Transfer-Encoding: identity"], 501),
        ([b"Transfer-Encoding: xchunked"], 501),
    ],
)
def test_framing_that_is_refused(lines: list[bytes], status: int) -> None:
    assert status_of(b"\r\n".join([b"POST / HTTP/1.1", HOST, *lines, b"", b""])) == status


def test_a_coding_in_http_1_0_is_refused() -> None:
    assert status_of(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n") == 400


@pytest.mark.parametrize(
    ("first", "lines", "kept", "options"),
    [
        (b"GET / HTTP/1.1", [], True, []),
        (b"GET / HTTP/1.1", [b"Connection: keep-alive"], True, []),
        (b"GET / HTTP/1.1", [b"Connection: close"], False, [b"close"]),
        (b"GET / HTTP/1.1", [b"Connection: Close"], False, [b"close"]),
        (b"GET / HTTP/1.1", [b"Connection: X-A, close ,,x-b"], False, [b"x-a", b"close", b"x-b"]),
        (b"GET / HTTP/1.1", [b"Connection: x-a", b"Connection: close"], False, [b"x-a", b"close"]),
        (b"GET / HTTP/1.1", [b"Connection: upgrade", b"Upgrade: websocket"], True, [b"upgrade"]),
        (b"GET / HTTP/1.0", [], False, []),
        (b"GET / HTTP/1.0", [b"Connection: keep-alive"], True, []),
        (b"GET / HTTP/1.0", [b"Connection: Keep-Alive"], True, [b"keep-alive"]),
        (b"GET / HTTP/1.0", [b"Connection: keep-alive, close"], False, [b"keep-alive", b"close"]),
    ],
)
def test_persistence(first: bytes, lines: list[bytes], kept: bool, options: list[bytes]) -> None:
    for _ in range(2):
        head = request(*lines, first=first)
        assert (head.keep_alive, list(head.options)) == (kept, options)


@pytest.mark.parametrize(
    ("lines", "expects"),
    [
        ([b"Expect: 100-continue", b"Content-Length: 5"], True),
        ([b"Expect: 100-Continue", b"Transfer-Encoding: chunked"], True),
        ([b"Expect: 100-continue"], False),
        ([b"Expect: 100-continue", b"Content-Length: 0"], False),
    ],
)
def test_expectations(lines: list[bytes], expects: bool) -> None:
    assert request(*lines).expects is expects


def test_http_1_0_expects_nothing() -> None:
    head = request(b"Expect: anything", b"Content-Length: 5", first=b"POST / HTTP/1.0")
    assert head.expects is False


# ── what a head holds ────────────────────────────────────────────────────────────────────────────


def test_a_head_is_read_the_same_when_it_comes_again() -> None:
    lines = [
        b"Accept: a/b",
        b"accept:c/d ",
        b"Cookie: a=1",
        b"Cookie: b=2",
        b"X-Consumer-ID: forged",
        b"Content-Length: 5",
    ]
    first, again = request(*lines), request(*lines)
    for head in (first, again):
        assert (head.method, head.target, head.version) == (b"POST", b"/a", 1)
        assert head.lines == [HOST, *lines]
        assert head.repeated == {b"accept", b"cookie"}
        assert head.index[b"accept"] == b"a/b, c/d"
        assert head.index[b"cookie"] == b"a=1; b=2"
        assert head.index[b"content-length"] == b"5"
        assert (1 + 4, Kind.IDENTITY, b"x-consumer-id") in head.special


@pytest.mark.parametrize(
    "line",
    [b"Authorization: Bearer secret-1", b"apikey: secret-1", b"X-API-Key:secret-1", b"Cookie: session=secret-1",
     b"X-CSRF-Token: secret-1", b"Proxy-Authorization: Basic secret-1"],
)  # fmt: skip
def test_secrets_are_not_remembered(line: bytes) -> None:
    for _ in range(2):
        request(line)
        parse_response(b"HTTP/1.1 200 OK\r\nSet-Cookie: secret-1\r\n" + line + b"\r\n\r\n", False)
    for known in remembered():
        assert not [line for line in known if b"secret-1" in line]


def test_a_configuration_names_its_own_secrets() -> None:
    request(b"X-LMS-Key: secret-1")
    lines.keep_secret(frozenset({b"x-lms-key"}))
    request(b"x-lms-key: secret-1")
    assert not [line for line in remembered()[0] if b"secret-1" in line]


def remembered() -> list[list[bytes]]:
    """The lines that are kept, of requests and of responses."""
    return [list(lines.REQUEST_LINES.known), list(lines.RESPONSE_LINES.known)]


def test_memory_is_bounded() -> None:
    for number in range(10_000):
        request(b"X-%d: %d" % (number, number), b"X-Same: %d" % number)
        parse_response(b"HTTP/1.1 200 OK\r\nX-%d: %d\r\nX-Same: %d\r\n\r\n" % (number, number, number), False)
    for known in remembered():
        assert len(known) <= 4096
        assert sum(line.startswith(b"X-Same") for line in known) <= 64


# Lines of which some are legal and some are not: whether a head passes may not depend on what came before.
SCRAPS = (
    "A: 1", "B:2", "C : 3", " fold", "\tfold", "D: \x00", "E", "F: 1\nG: 2", "H: 1\rI: 2", "J: \x0b", ": 1", "K:",
    "L: 1 \t", "Content-Length: 5", "Content-Length: 5 ", "Content-Length:5", "Content-Length: 5, 5",
    "Content-Length : 5", "Transfer-Encoding: chunked", "Transfer-Encoding: \x0bchunked", "Connection: close",
    "Connection: upgrade", "Upgrade: h2c", "Authorization: Bearer a.b", "Authorization: Bearer a.b c",
    "Authorization:  Bearer a", "apikey: a\x7f",
)  # fmt: skip
scraps = st.sampled_from([scrap.encode("latin-1") for scrap in SCRAPS])


@given(st.lists(st.lists(scraps, max_size=5), min_size=1, max_size=6))
def test_what_was_seen_before_changes_no_verdict(heads: list[list[bytes]]) -> None:
    def verdict(lines: list[bytes]) -> object:
        try:
            head = request(*lines)
        except Refused as refused:
            return refused.answer.status
        return head.index, head.framing, head.keep_alive, head.special, head.repeated

    def response_verdict(lines: list[bytes]) -> object:
        try:
            head = parse_response(b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"", b""]), False)
        except BadResponse:
            return None
        return head.framing, head.keep_alive, head.special, head.length, list(head.options)

    cold = []
    for head in heads:
        lines.forget_lines()
        cold.append((verdict(head), response_verdict(head)))
    for _ in range(2):
        assert [(verdict(lines), response_verdict(lines)) for lines in heads] == cold


@given(st.lists(scraps, max_size=5), st.sampled_from([b"GET / HTTP/1.1", b"PURGE / HTTP/1.1", b"GET / HTTP/1.0"]))
def test_we_are_never_laxer_than_llhttp(lines: list[bytes], first: bytes) -> None:
    try:
        request(*lines, first=first)
    except Refused:
        return
    parser = httptools.HttpRequestParser(object())
    line = b"POST / HTTP/1.1" if first.startswith(b"PURGE") else first
    with suppress(httptools.HttpParserUpgrade):
        parser.feed_data(b"\r\n".join([line, HOST, *lines, b"", b""]))


# ── where a head ends ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "begun",
    [b"G", b"GET", b"GET /", b"GET / HTTP/1.", b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\r\n",
     b"GET / HTTP/1.1\r\nHost: a\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r", b"\r"],
)  # fmt: skip
def test_a_head_that_is_not_all_there(begun: bytes) -> None:
    assert find_end(begun, LIMITS) == -1


def test_where_a_head_ends() -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    assert find_end(head, LIMITS) == len(head)
    assert find_end(head + b"GET / HTTP", LIMITS) == len(head)


@pytest.mark.parametrize(
    ("begun", "status"),
    [
        (b"GET /" + b"a" * 8300, 414),
        (b"GET /" + b"a" * 40_000, 414),
        (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n", 414),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 33_000, 431),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 33_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"X: 1\r\n" * 6000, 431),
        (b"GET / HTTP/1.1\nHost: a\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\n", 400),
        (b"GET /\x00", 400),
        (b"GET /\ra", 400),
        (b"GET  / HTTP/1.1\r\n", 400),
        (b"GET / HTTP/10\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
    ],
)
def test_a_head_that_cannot_become_legal_is_refused_early(begun: bytes, status: int) -> None:
    with pytest.raises(Refused) as refused:
        find_end(begun, LIMITS)
    assert refused.value.answer.status == status


@pytest.mark.parametrize("size", [LIMITS.header_bytes - 1, LIMITS.header_bytes, LIMITS.header_bytes + 1])
def test_the_limit_of_a_head_is_exact(size: int) -> None:
    frame = b"GET / HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n"
    head = frame % (b"a" * (size - len(frame) + 2))
    assert len(head) == size
    if size <= LIMITS.header_bytes:
        assert find_end(head, LIMITS) == size
    else:
        with pytest.raises(Refused):
            find_end(head, LIMITS)


# ── responses ────────────────────────────────────────────────────────────────────────────────────


def response(*lines: bytes, first: bytes = b"HTTP/1.1 200 OK", bodiless: bool = False) -> ResponseHead:
    return parse_response(b"\r\n".join([first, *lines, b"", b""]), bodiless)


@pytest.mark.parametrize(
    ("line", "status", "relayed"),
    [
        (b"HTTP/1.1 200 OK", 200, b" 200 OK\r\n"),
        (b"HTTP/1.0 404 Not Found", 404, b" 404 Not Found\r\n"),
        (b"HTTP/1.1 200", 200, b" 200 \r\n"),
        (b"HTTP/1.1 200 ", 200, b" 200 \r\n"),
        (b"HTTP/1.1 999 Odd \xff\t", 999, b" 999 Odd \xff\t\r\n"),
        (b"HTTP/1.1 103 Early Hints", 103, b" 103 Early Hints\r\n"),
    ],
)
def test_status_lines(line: bytes, status: int, relayed: bytes) -> None:
    head = response(first=line)
    assert (head.status, head.line, head.version) == (status, relayed, int(line[7:8]))


@pytest.mark.parametrize(
    "line",
    [b"HTTP/1.2 200 OK", b"HTTP/2.0 200 OK", b"HTTP/0.9 200 OK", b"RTSP/1.0 200 OK", b"HTTP/1.1 099 Low",
     b"HTTP/1.1 1000 High", b"HTTP/1.1 20 Low", b"HTTP/1.1  200 OK", b"HTTP/1.1 200 O\x01K", b"HTTP/1.1 200 O\rK",
     b"HTTP/1.1 2x0 OK", b"ok", b"",
     b"http/1.1 200 OK", b"HTTP/1.1\t200 OK", b" HTTP/1.1 200 OK"],
)  # fmt: skip
def test_malformed_status_lines(line: bytes) -> None:
    with pytest.raises(BadResponse):
        response(first=line)


@pytest.mark.parametrize(
    ("first", "lines", "bodiless", "framing", "kept"),
    [
        (b"HTTP/1.1 200 OK", [b"Content-Length: 5"], False, 5, True),
        (b"HTTP/1.1 200 OK", [b"Content-Length: 0"], False, 0, True),
        (b"HTTP/1.1 200 OK", [b"Transfer-Encoding: chunked"], False, CHUNKED, True),
        (b"HTTP/1.1 200 OK", [b"Transfer-Encoding:Chunked "], False, CHUNKED, True),
        (b"HTTP/1.1 200 OK\t", [b"Transfer-Encoding:\tchunked\t"], False, CHUNKED, True),
        (b"HTTP/1.1 200 OK", [], False, UNTIL_CLOSE, False),
        (b"HTTP/1.1 200 OK", [b"Connection: keep-alive"], False, UNTIL_CLOSE, False),
        (b"HTTP/1.1 200 OK", [b"Content-Length: 5", b"Connection: close"], False, 5, False),
        (b"HTTP/1.1 200 OK", [b"Content-Length: 5", b"Connection: x, CLOSE"], False, 5, False),
        (b"HTTP/1.1 200 OK", [b"Content-Length: 5", b"Connection: a", b"Connection: close"], False, 5, False),
        (b"HTTP/1.0 200 OK", [b"Content-Length: 5"], False, 5, False),
        (b"HTTP/1.0 200 OK", [b"Content-Length: 5", b"Connection: keep-alive"], False, 5, True),
        (b"HTTP/1.0 200 OK", [b"Content-Length: 5", b"Connection: Keep-Alive"], False, 5, True),
        (b"HTTP/1.1 200 OK", [b"Content-Length: 5"], True, NO_BODY, True),
        (b"HTTP/1.1 200 OK", [b"Transfer-Encoding: chunked"], True, NO_BODY, True),
        (b"HTTP/1.1 200 OK", [], True, NO_BODY, True),
        (b"HTTP/1.1 204 No Content", [b"Content-Length: 5"], False, NO_BODY, True),
        (b"HTTP/1.1 304 Not Modified", [b"Content-Length: 5"], False, NO_BODY, True),
        (b"HTTP/1.1 304 Not Modified", [b"Transfer-Encoding: chunked"], False, NO_BODY, True),
        (b"HTTP/1.1 103 Early Hints", [b"Content-Length: 5"], False, NO_BODY, True),
        (b"HTTP/1.1 205 Reset Content", [b"Content-Length: 0"], False, 0, True),
        (b"HTTP/1.1 101 Switching Protocols", [b"Upgrade: a", b"Connection: upgrade"], False, NO_BODY, True),
        (b"HTTP/1.1 101 Switching Protocols", [b"Connection: close"], False, NO_BODY, False),
        (b"HTTP/1.1 101 Switching Protocols", [], False, NO_BODY, True),
    ],
)
def test_framing_of_responses(first: bytes, lines: list[bytes], bodiless: bool, framing: int, kept: bool) -> None:
    for _ in range(2):
        head = response(*lines, first=first, bodiless=bodiless)
        assert (head.framing, head.keep_alive) == (framing, kept)


@pytest.mark.parametrize(
    "lines",
    [
        [b"Content-Length: 5", b"Content-Length: 5"],
        [b"Content-Length: 5, 5"],
        [b"Content-Length: -5"],
        [b"Content-Length: +5"],
        [b"Content-Length:"],
        [b"Content-Length: 9999999999999999999"],
        [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Content-Length: 5"],
        [b"Transfer-Encoding: gzip"],
        [b"Transfer-Encoding: gzip, chunked"],
        [b"Transfer-Encoding: chunked, gzip"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: identity"],
        [b"A : 1"],
        [b"A: 1", b" folded"],
        [b"A: \x00"],
        [b"A: 1\rB: 2"],
        [b"A: 1\nB: 2"],
        [b"words"],
        [b": 1"],
        [b"Content-Length : 5"],
        [b"A: 1"] * (MAX_RESPONSE_FIELDS + 1),
    ],
)
def test_responses_that_nobody_may_see(lines: list[bytes]) -> None:
    for bodiless in (False, True):
        for _ in range(2):
            with pytest.raises(BadResponse):
                response(*lines, bodiless=bodiless)


def test_a_coding_in_an_http_1_0_response_is_refused() -> None:
    with pytest.raises(BadResponse):
        response(b"Transfer-Encoding: chunked", first=b"HTTP/1.0 200 OK")


def test_response_fields_in_order() -> None:
    head = response(b"Set-Cookie: a=1", b"X-A:  1 ", b"Set-Cookie: b=2", b"Content-Length: 5")
    assert head.fields == [
        (b"Set-Cookie", b"a=1"), (b"X-A", b"1"), (b"Set-Cookie", b"b=2"), (b"Content-Length", b"5"),
    ]  # fmt: skip
    assert head.length == b"5"


GOOD = b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nX-A: \xff\r\nContent-Length: 5\r\n\r\n"


@pytest.mark.parametrize("size", range(len(GOOD)))
def test_a_good_response_is_waited_for(size: int) -> None:
    check_begun_response(GOOD[:size])


@pytest.mark.parametrize(
    "begun",
    [b"ok", b"<html>", b"\x15\x03\x01", b"\r\n", b"\n", b"http/1.1", b"HTTP/2", b"HTTP/1.1 200 OK\n",
     b"HTTP/1.1 200\rOK", b"HTTP/1.1 200 O\x00", b"HTTP/1.1 099 Low\r\n", b"HTTP/1.1 200 OK\r\nA: 1\n",
     b"HTTP/1.1 200 OK\r\nA: 1\rB", b"HTTP/1.1 200 OK\r\nA: \x00", b"HTTP/1.1 200 OK\r\nA: 1\r\r",
     b"HTTP/1.1 200 OK\r\r"],
)  # fmt: skip
def test_what_can_never_be_a_response_is_refused_early(begun: bytes) -> None:
    with pytest.raises(BadResponse):
        check_begun_response(begun)
