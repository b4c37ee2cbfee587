"""A corpus of requests made from the grammar: every position spoiled by every bad byte, and every combination of what
frames, names and routes a request.  Whether a case is legal is for `strict` to say, not for this file.

Each request carries its case's number (`X-Case`), a line that is never spoiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class Case:
    """`raw` are the bytes of one connection; `{case}` in them stands for the case's number."""

    name: str
    raw: bytes


MARK = b"X-Case: {case}"
#: What is inserted, and put in the place of what is there.
BAD = (*(bytes([byte]) for byte in b'\x00\x01\x08\t\n\x0b\x0c\r\x1f "#(,/0:;=@a{\x7f\x80\xff'), b"\r\n", b"\r\n ")

HOST = b"Host: lms.example.org"
BASES = {
    "GET": b"GET /a/b?c=d HTTP/1.1\r\n%b\r\nHost: lms:80\r\nX-A: b c\r\n\r\n",
    "POST": b"POST /a HTTP/1.1\r\n%b\r\nHost: lms\r\nContent-Length: 5\r\nConnection: x-b\r\n\r\nhello",
    "chunked": (
        b"POST /a HTTP/1.1\r\n%b\r\nHost: lms\r\nTransfer-Encoding: chunked\r\n\r\n"
        b'5;a="b"\r\nhello\r\n1\r\n!\r\n0\r\nX-Sum: 1\r\n\r\n'
    ),
    "absolute": b"GET http://lms.example.org:80/a HTTP/1.1\r\n%b\r\nHost: x\r\n\r\n",
    "1.0": b"POST / HTTP/1.0\r\n%b\r\nContent-Length: 2\r\n\r\nok",
}


def spoiled() -> Iterator[Case]:
    """Every base with one byte inserted, replaced, deleted or doubled, in every place but the mark."""
    for kind, base in BASES.items():
        whole = base % MARK
        start = whole.index(MARK)
        places = [at for at in range(len(whole) + 1) if not start < at < start + len(MARK)]
        for at in places:
            before, rest = whole[:at], whole[at:]
            for bad in BAD:
                yield Case(f"{kind}: {bad!r} before {at}", before + bad + rest)
                if rest and at != start:
                    yield Case(f"{kind}: {bad!r} instead of {at}", before + bad + rest[1:])
            if rest and at != start:
                yield Case(f"{kind}: without {at}", before + rest[1:])
                yield (
                    Case(f"{kind}: cut at {at}", before)
                    if at > start + len(MARK)
                    else Case(f"{kind}: doubled {at}", before + rest[:1] + rest)
                )


def request(first: bytes = b"POST /a HTTP/1.1", *lines: bytes, body: bytes = b"", host: bytes = HOST) -> bytes:
    """A request with the mark and these lines."""
    return b"\r\n".join([first, MARK, *filter(None, [host]), *lines, b"", b""]) + body


LENGTHS = (
    b"", b"5", b"0", b"005", b"+5", b"-5", b"5 ", b"5,5", b"5, 6", b"0x5", b"5;", b"five", b" 5", b"5.0", b"5 5",
    b"5" * 19, b"99999999999999999999",
)  # fmt: skip
CODINGS = (
    b"", b"chunked", b"Chunked", b"chunked ", b"\tchunked", b"identity", b"gzip", b"gzip, chunked", b"chunked, gzip",
    b"chunked, chunked", b"chunked,", b",chunked", b"xchunked", b"chunked;a=b", b'"chunked"', b"chunked\x0b",
    b"chun ked", b"CHUNKED, identity", b"gzip;q=1, chunked", b"\x00chunked", b"chunke\xc4\xb1d",
)  # fmt: skip
BODIES = (b"5\r\nhello\r\n0\r\n\r\n", b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: lms\r\n\r\n", b"hello")
NAMES = (
    (b"Content-Length", b"Transfer-Encoding"), (b"content-length", b"TRANSFER-ENCODING"),
    (b"Content-Length ", b"Transfer-Encoding "), (b"Content_Length", b"Transfer_Encoding"),
)  # fmt: skip


def framings() -> Iterator[Case]:
    """Every length with every coding, in both orders, twice, in other spellings, in both versions."""
    for (length, coding), body, version in product(product(LENGTHS, CODINGS), BODIES, (b"1.1", b"1.0")):
        lines = [b"Content-Length: " + length] * bool(length) + [b"Transfer-Encoding: " + coding] * bool(coding)
        for order in (lines, lines[::-1])[: len(lines)]:
            first = b"POST /a HTTP/" + version
            yield Case(f"framing: {order} {version.decode()} {body[:3]!r}", request(first, *order, body=body))
    for values in product(LENGTHS[1:6], LENGTHS[1:6]):
        yield Case(f"lengths: {values}", request(*(b"POST /a HTTP/1.1", *(b"Content-Length: " + v for v in values)),
                                                 body=b"hello"))  # fmt: skip
    for values in product(CODINGS[1:8], CODINGS[1:8]):
        lines = [b"Transfer-Encoding: " + value for value in values]
        yield Case(f"codings: {values}", request(b"POST /a HTTP/1.1", *lines, body=BODIES[0]))
    for (length_name, coding_name), body in product(NAMES, BODIES):
        yield Case(f"names: {length_name!r}", request(b"POST /a HTTP/1.1", length_name + b": 5", body=body))
        yield Case(f"names: {coding_name!r}", request(b"POST /a HTTP/1.1", coding_name + b": chunked", body=body))


HOSTS = (
    b"Host: lms", b"Host: lms:", b"Host: lms:80", b"Host: LMS.", b"Host: lms:99999", b"Host: lms:123456",
    b"Host: lms:x", b"Host: lms:80:80", b"Host: :80", b"Host:", b"Host: ", b"", b"Host: lms\r\nHost: lms",
    b"Host: lms\r\nhost: other", b"Host: user@lms", b"Host: user:pw@lms", b"Host: a b", b"Host: a,b", b"Host: a/b",
    b"Host: a?b", b"Host: a#b", b"Host: a\\b", b"Host: http://lms", b"Host: [::1]", b"Host: [::1]:80", b"Host: [::1",
    b"Host: ::1", b"Host: [::1]x", b"Host: [1:2:3:4:5:6:7:8]", b"Host: [1:2:3:4:5:6:7:8:9]",
    b"Host: [1:2:3:4:5:6:1.2.3.4]", b"Host: [::256.0.0.1]", b"Host: [::01.2.3.4]", b"Host: [:::]", b"Host: [12345::]",
    b"Host: [::1%25eth0]", b"Host: [v1.a]", b"Host: [1.2.3.4]", b"Host: 1.2.3.4", b"Host: 1.2.3.4.5", b"Host: a_b",
    b"Host: a%41", b"Host: a%4", b"Host: a%zz", b"Host: \xc3\xa4", b"Host: a<b", b'Host: "a"', b"Host: a\tb",
    b"Host : lms", b"Host: lms\x00", b"Host: *", b"Host: a|b", b"Host: a^b", b"Host: [::1]:99999999",
    b"Host: [1::2::3]", b"Host: [1:2:3:4:5:6:7::]", b"Host: [::2:3:4:5:6:7:8]", b"Host: []",
)  # fmt: skip
METHODS = (
    b"GET", b"get", b"HEAD", b"DELETE", b"PATCH", b"OPTIONS", b"M-SEARCH", b"PROPFIND", b"PRI", b"SOURCE", b"ICE",
    b"QUERY", b"A" * 64, b"A" * 65, b"!#$%&'*+-.^_`|~", b"G(T", b"G,T", b"G\x00T", b"G\xc4T", b"", b"CONNECT",
    b"TRACE", b"trace", b"1", b"GET:", b'"GET"', b"GET/", b"<GET>",
)  # fmt: skip
#: Targets that stand for themselves, and forms that are refused; paths that could be read in two ways are tested with
#: `core.path`.
TARGETS = (
    b"/", b"/a", b"*", b"a", b"?a", b"lms:80", b"http://lms", b"http://lms/", b"http://lms?a=b", b"HTTP://lms/a",
    b"https://lms/a", b"ftp://lms/a", b"http:/a", b"http:///a", b"http://", b"http://:80/", b"http://user@lms/",
    b"http://user:pw@lms/", b"http://lms:x/", b"http://[::1]:80/a", b"http://[::1/a", b"http://lms\\a",
    b"http://a,b/", b"/a#b", b"/a?b#c", b"#", b"/a?b=\"<>[]{}|^`\\", b"/a?%", b"/a?%zz", b"/a?", b"/a??", b"/a?b?c/d",
    b"/a\xc3\xa4", b"/a\x00", b"/a\x01", b"/a\x7f", b"/a b", b"/a\tb", b"//a", b"//lms/a", b"/" + b"a" * 8191,
    b"/" + b"a" * 8192, b"http://lms/" + b"a" * 8200, b"/:80", b"/@a", b"/a,b;c=d", b"HTTP/1.1", b"http://lms#a",
    b"ws://lms/", b"http://lms@other/", b"http://lms:80:80/", b"//", b"http://%6cms/a", b"http://lms/?a", b"/?/../a",
    b"/a%2fb", b"/a%5Cb",    b"/a\\b", b"/a%00", b"/a%0d%0ab", b"/a%7f", b"/a%", b"/a%4", b"/a%zz", b"/%61",
)  # fmt: skip
VERSIONS = (
    b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/1.9", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/3.0", b"HTTP/1.", b"HTTP/.1",
    b"HTTP/1.10", b"HTTP/01.1", b"HTTP/1.01", b"HTTP/11", b"HTTP/1", b"HTTP/2", b"http/1.1", b"Http/1.1", b"HTTP 1.1",
    b"HTTP/1,1", b"HTTP/1.1 ", b" HTTP/1.1", b"HTTP/1.1\t", b"HTTP/1.x", b"HTTPS/1.1", b"RTSP/1.0", b"ICY/1.1", b"",
    b"HTTP/-1.1", b"HTTP/+1.1", b"HTTP/1.1\x00", b"XHTTP/1.1",
)  # fmt: skip
LINES = (
    b"X-A: 1", b"X-A:1", b"X-A:", b"X-A: ", b"X-A:\t1\t", b"X-A : 1", b"X-A\t: 1", b" X-A: 1", b"X-A", b": 1", b":",
    b"X-A: 1\r\n 2", b"X-A: 1\r\n\t2", b"X-A:\r\n 2", b"X-A: 1\r\n \r\nX-B: 2", b"X-A: 1\nX-B: 2", b"X-A: 1\rX-B: 2",
    b"X-A: 1\r\r\nX-B: 2", b"X-A: \x00", b"X-A: \x0b", b"X-A: \x7f", b"X-A: \xff", b"X A: 1", b"X\x00A: 1", b'X"A: 1',
    b"X(A): 1", b"X/A: 1", b"X@A: 1", b"X[A]: 1", b"X{A}: 1", b"X\\A: 1", b"\xc3\xa4: 1", b"X=A: 1", b"X-A: a:b:c",
    b"X-A: " + b"a" * 8000, b"!#$%&'*+-.^_`|~: 1", b"X-A: 1\x1c", b"X-A: \xe2\x80\xa8", b"X-A: 1\x85X-B: 2",
    b"Expect: 100-continue", b"Expect: 200-ok", b"Expect: 100-continue\r\nExpect: 100-continue", b"Connection: close",
    b"Connection: keep-alive, close", b"Connection: Keep-Alive", b"Connection:", b"\r\n".join([b"X-A: 1"] * 98),
    b"\r\n".join([b"X-A: 1"] * 99),
)  # fmt: skip
CHUNK_LINES = (
    b"5", b"05", b"0000000000000005", b"00000000000000005", b"5 ", b" 5", b"\t5", b"+5", b"-5", b"0x5", b"5h", b"",
    b"g", b"5;", b"5;a", b"5;a=b", b"5 ; a = b", b"5\t;\ta\t=\tb", b"5;a=", b"5;=b", b'5;a="b"', b'5;a="b;c\\""',
    b'5;a="b', b'5;a="\x00"', b'5;a="\xff"', b"5;a=\xff", b"5;a b", b"5,a", b"5;a\x00", b"5;a\nb", b"5;a\rb",
    b"5;a;b;c=d;", b"5;;a", b"5\x0b", b"5\x00", b"5#", b"5.", b"5_0", b"\xef\xbc\x95", b"ffffffffffffffff",
    b"10000000000000005", b"5;" + b"a" * 4000, b"5\r", b"\r\n5",
)  # fmt: skip
CHUNK_ENDS = (b"\r\n", b"\n", b"\r", b"", b"\r\r\n", b"\n\r", b"\r\n\r\n", b"X\r\n", b" \r\n")
TRAILERS = (
    b"", b"X-Sum: 1\r\n", b"X-Sum:1\r\nY:\r\n", b"X-Sum : 1\r\n", b" X-Sum: 1\r\n", b"X-Sum\r\n", b": 1\r\n",
    b"X-Sum: 1\r\n 2\r\n", b"X-Sum: \x00\r\n", b"X-Sum: 1\n", b"X-Sum: 1\r", b"X-Sum: \x7f\r\n", b"X S: 1\r\n",
    b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: other\r\n", b"Authorization: x\r\n",
    b"X-Consumer-ID: forged\r\n", b"x_consumer_id: forged\r\n", b"X.Consumer~Groups: forged\r\n",
    b"X-Forwarded-For: 1.1.1.1\r\n", b"X-Real-IP: 1.1.1.1\r\n", b"X-Authenticated-UserId: forged\r\n",
    b"Connection: close\r\n", b"X-Original-URL: /x\r\n",
)  # fmt: skip
#: Names that must never come from a client, and ways to bring them in.
FORGED = (
    b"X-Consumer-ID", b"X-Consumer-Username", b"X-Consumer-Custom-ID", b"X-Consumer-Groups",
    b"X-Credential-Identifier", b"X-Anonymous-Consumer", b"X-Organization-ID", b"X-Authenticated-Scope",
    b"X-Authenticated-UserId",
)  # fmt: skip
SPELLINGS = (
    bytes, bytes.lower, bytes.upper, lambda name: name.replace(b"-", b"_"), lambda name: name.replace(b"-", b"."),
    lambda name: name.replace(b"-", b"~", 1), lambda name: b"-" + name, lambda name: name + b"_",
)  # fmt: skip


def named() -> Iterator[Case]:
    """Hosts, methods, targets, versions, lines, chunks, trailers, forged names, and what stands before and behind."""
    yield from framings()
    for host, first in product(HOSTS, (b"GET /a HTTP/1.1", b"GET /a HTTP/1.0", b"GET http://lms/a HTTP/1.1")):
        yield Case(f"host: {host!r} {first!r}", request(first, host=host))
    for method in METHODS:
        yield Case(f"method: {method!r}", request(method + b" /a HTTP/1.1"))
    for target, method in product(TARGETS, (b"GET", b"OPTIONS")):
        yield Case(f"target: {target!r} {method!r}", request(method + b" " + target + b" HTTP/1.1"))
    for version in VERSIONS:
        yield Case(f"version: {version!r}", request(b"GET /a " + version))
    for line, version in product(LINES, (b"1.1", b"1.0")):
        yield Case(f"line: {line[:40]!r} {version.decode()}", request(b"GET /a HTTP/" + version, line))
    coding = b"Transfer-Encoding: chunked"
    for line, end in product(CHUNK_LINES, (b"\r\n", b"\n", b"\r")):
        wire = line + end + b"hello\r\n0\r\n\r\n"
        yield Case(f"chunk: {line[:40]!r}{end!r}", request(b"POST /a HTTP/1.1", coding, body=wire))
        wire = b"5\r\nhello\r\n" + line.replace(b"5", b"0", 1) + end + b"\r\n"
        yield Case(f"last chunk: {line[:40]!r}{end!r}", request(b"POST /a HTTP/1.1", coding, body=wire))
    for end, last in product(CHUNK_ENDS, CHUNK_ENDS):
        wire = b"5\r\nhello" + end + b"0\r\n" + last
        yield Case(f"chunk ends: {end!r} {last!r}", request(b"POST /a HTTP/1.1", coding, body=wire))
    for trailer, nominated in product(TRAILERS, (b"", b"Trailer: X-Sum, X-Consumer-ID", b"Connection: x-sum")):
        wire = b"5\r\nhello\r\n0\r\n" + trailer + b"\r\n"
        lines = [coding, *filter(None, [nominated])]
        yield Case(f"trailer: {trailer!r} {nominated!r}", request(b"POST /a HTTP/1.1", *lines, body=wire))
    for name, spelling in product(FORGED, SPELLINGS):
        line = spelling(name) + b": forged"
        for beside in ((), (b"Connection: " + name,), (b"Connection: close, " + spelling(name),)):
            yield Case(f"forged: {line!r} {beside}", request(b"GET /a HTTP/1.1", line, *beside))
    for empty in range(7):
        yield Case(f"{empty} empty lines", b"\r\n" * empty + request(b"GET /a HTTP/1.1"))
        yield Case(f"{empty} bare LFs", b"\n" * empty + request(b"GET /a HTTP/1.1"))
    for before in (b" ", b"\t", b"\r", b"\x00", b"\r\n ", b"\xef\xbb\xbf", b"\r\n\n", b"\r\r\n"):
        yield Case(f"{before!r} before", before + request(b"GET /a HTTP/1.1"))
    pairs = [request(b"GET /a HTTP/1.1"), request(b"POST /b HTTP/1.1", b"Content-Length: 5", body=b"hello"),
             request(b"POST /c HTTP/1.1", coding, body=b"5\r\nhello\r\n0\r\n\r\n"), request(b"GET /d HTTP/1.0"),
             request(b"GET /e HTTP/1.1", b"Connection: close"), request(b"GET /f HTTP/2.0"),
             b"garbage\r\n\r\n", b"\r\n"]  # fmt: skip
    for first, second in product(pairs, pairs):
        yield Case(f"pipelined: {first[:16]!r} {second[:16]!r}", first + second)
    for size in (32 * 1024, 32 * 1024 + 1):
        head = request(b"GET /a HTTP/1.1", b"X-Long: ")
        yield Case(f"a head of {size}", head.replace(b"X-Long: ", b"X-Long: " + b"a" * (size - len(head) + 2)))


def numbered(cases: Iterator[Case]) -> list[Case]:
    """The cases, each with its number in its bytes."""
    return [Case(case.name, case.raw.replace(b"{case}", b"%06d" % at)) for at, case in enumerate(cases)]
