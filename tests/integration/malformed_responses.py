"""The table of malformed and hostile upstream responses: bytes, what a client may see, the connection's fate.

`test_malformed_responses.py` plays it.  Plain values; nothing here touches a socket.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from upstream_stub.misbehaviours import head
from upstream_stub.steps import End

#: What an LMS might say; no client may ever take it for its own answer's body, or for another answer.
POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nX-Poisoned: yes\r\n\r\npoison"
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
_CHUNKS = b"2\r\nok\r\n0\r\n\r\n"


class Sees(Enum):
    """What the client must see."""

    #: 502 in the contract's words; nothing of the response.
    BAD_GATEWAY = "502"
    #: The response, read in the one way that it can be read.
    RELAYED = "relayed"
    #: 502 if nothing was relayed yet, else the connection's end so that the body cannot look complete.
    CUT = "cut"


@dataclass(frozen=True)
class Row:
    """`pieces` are sent with a pause between them, then the connection ends as `end` says.

    `kept`: the upstream connection carries the next request; it must be gone otherwise.  For a relayed response
    `status`, `reason`, `body`, `lines` (its header lines as the client must see them, where they matter).
    """

    name: str
    pieces: tuple[bytes, ...]
    sees: Sees = Sees.BAD_GATEWAY
    kept: bool = False
    end: End = End.KEEP
    method: str = "GET"
    status: int = 200
    body: bytes = b"ok"
    lines: tuple[bytes, ...] | None = None
    #: How many 1xx the client must see before.
    interims: int = 0


def refused(name: str, data: bytes, method: str = "GET") -> Row:
    """A head that nobody may see."""
    return Row(name, (data,), method=method)


def relayed(name: str, *pieces: bytes, **facts: object) -> Row:
    """A response that is odd, and can be read in one way only."""
    return Row(name, pieces, **{"sees": Sees.RELAYED, **facts})  # type: ignore[arg-type]  # fields of Row by name


def cut(name: str, *pieces: bytes, end: End = End.KEEP) -> Row:
    """A body that breaks."""
    return Row(name, pieces, Sees.CUT, end=end)


def with_line(line: bytes, body: bytes = b"ok") -> bytes:
    """A good response but for one header line."""
    return OK + line + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def framed(*lines: bytes, body: bytes = b"ok", first: bytes = b"HTTP/1.1 200 OK") -> bytes:
    """A response with these lines and no others."""
    return b"\r\n".join([first, *lines, b"", b""]) + body


def first_line(line: bytes) -> bytes:
    """A good response but for its status line."""
    return line + b"\r\nContent-Length: 2\r\n\r\nok"


STATUS_LINES = [
    *(
        refused(f"status line: {name}", first_line(line))
        for name, line in {
            "HTTP/0.9 in name": b"HTTP/0.9 200 OK",
            "HTTP/1.2": b"HTTP/1.2 200 OK",
            "HTTP/2.0": b"HTTP/2.0 200 OK",
            "HTTP/2": b"HTTP/2 200 OK",
            "HTTP/1": b"HTTP/1 200 OK",
            "HTTP/1.10": b"HTTP/1.10 200 OK",
            "HTTP/11.1": b"HTTP/11.1 200 OK",
            "lower case": b"http/1.1 200 OK",
            "RTSP": b"RTSP/1.0 200 OK",
            "ICY": b"ICY 200 OK",
            "status 099": b"HTTP/1.1 099 Low",
            "status 000": b"HTTP/1.1 000 None",
            "status 1000": b"HTTP/1.1 1000 High",
            "status 20": b"HTTP/1.1 20 OK",
            "status 2x0": b"HTTP/1.1 2x0 OK",
            "status -20": b"HTTP/1.1 -20 OK",
            "status +20": b"HTTP/1.1 +20 OK",
            "status in other digits": "HTTP/1.1 ２００ OK".encode(),
            "no status": b"HTTP/1.1",
            "no status, a space": b"HTTP/1.1 ",
            "no space behind the status": b"HTTP/1.1 200OK",
            "two spaces": b"HTTP/1.1  200 OK",
            "a tab": b"HTTP/1.1\t200 OK",
            "a leading space": b" HTTP/1.1 200 OK",
            "a leading empty line": b"\r\nHTTP/1.1 200 OK",
            "a byte order mark": b"\xef\xbb\xbfHTTP/1.1 200 OK",
            "NUL in the reason": b"HTTP/1.1 200 O\x00K",
            "a control in the reason": b"HTTP/1.1 200 O\x01K",
            "DEL in the reason": b"HTTP/1.1 200 O\x7fK",
            "bare CR in the reason": b"HTTP/1.1 200 OK\rX-Poisoned: yes",
            "bare LF in the reason": b"HTTP/1.1 200 OK\nX-Poisoned: yes",
            "a bare LF at its end": b"HTTP/1.1 200 OK\nContent-Type: a/b",
            "longer than any head": b"HTTP/1.1 200 " + b"O" * 70_000,
        }.items()
    ),
    refused("no HTTP: a body alone (HTTP/0.9)", b"<html>hello</html>\r\n"),
    refused("no HTTP: a TLS alert", b"\x15\x03\x01\x00\x02\x02\x46"),
    refused("no HTTP: an HTTP/2 preface of settings", b"\x00\x00\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64"),
    refused("no HTTP: a banner", b"SSH-2.0-OpenSSH_9.2\r\n"),
    refused("no HTTP: every byte there is", bytes(range(256)) + b"\r\n\r\n"),
    refused("no HTTP: an empty head", b"\r\n\r\n"),
    refused("no HTTP: a request", b"GET / HTTP/1.1\r\nHost: lms\r\n\r\n"),
    refused("bare LFs all through", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"),
    refused("bare CRs all through", b"HTTP/1.1 200 OK\rContent-Length: 2\r\rok"),
    relayed("status line: no reason", first_line(b"HTTP/1.1 200"), kept=True),
    relayed("status line: an empty reason", first_line(b"HTTP/1.1 200 "), kept=True),
    relayed("status line: obs-text in the reason", first_line(b"HTTP/1.1 200 D\xe9j\xe0"), kept=True),
    relayed("status 600", first_line(b"HTTP/1.1 600 Odd"), status=600, kept=True),
    relayed("status 999", first_line(b"HTTP/1.1 999 Request denied"), status=999, kept=True),
]  # fmt: skip

FIELDS = [
    *(
        refused(f"field: {name}", with_line(line))
        for name, line in {
            "obs-fold": b"X-Folded: one\r\n two",
            "obs-fold by a tab": b"X-Folded: one\r\n\ttwo",
            "an indented first line": b" X-A: 1",
            "space before the colon": b"X-A : 1",
            "tab before the colon": b"X-A\t: 1",
            "no colon": b"just words",
            "no name": b": 1",
            "space in the name": b"X A: 1",
            "a slash in the name": b"X/A: 1",
            "a quote in the name": b'X"A: 1',
            "NUL in the name": b"X\x00A: 1",
            "a control in the name": b"X\x01A: 1",
            "UTF-8 in the name": "X-Ä: 1".encode(),
            "NUL in the value": b"X-A: a\x00b",
            "a control in the value": b"X-A: a\x0bb",
            "DEL in the value": b"X-A: a\x7fb",
            "bare CR in the value": b"X-A: a\rX-Poisoned: yes",
            "bare LF in the value": b"X-A: a\nX-Poisoned: yes",
            "bare CR at the value's end": b"X-A: a\r",
            "CR CR LF": b"X-A: a\r\r\nX-B: 1",
            "space before the colon of the length": b"Content-Length : 3",
            "more than 64 KiB": b"X-Long: " + b"a" * 70_000,
            "more than 500 lines": b"\r\n".join([b"X-A: 1"] * 500),
        }.items()
    ),
    refused("field: lines without end", OK + b"X-Padding: aaaaaaaaaaaaaaaa\r\n" * 4000),
    relayed("field: obs-text in a value", with_line(b"X-A: \xff\xfe"), kept=True, lines=(b"X-A: \xff\xfe",)),
    relayed("field: no value", with_line(b"X-A:"), kept=True, lines=(b"X-A:",)),
    relayed("field: no space, and many", with_line(b"X-A:1\r\nX-B: \t 2 \t"), kept=True,
            lines=(b"X-A:1", b"X-B: \t 2 \t")),
    relayed("field: 499 lines", with_line(b"\r\n".join([b"X-A: 1"] * 499)), kept=True, lines=(b"X-A: 1",) * 499),
    relayed("field: underscores and identity names", with_line(b"X_Consumer_ID: 1\r\nX-Consumer-ID: 2"), kept=True,
            lines=(b"X_Consumer_ID: 1", b"X-Consumer-ID: 2")),
    relayed("field: Connection nominates", with_line(b"X-Hop: 1\r\nConnection: x-hop, Keep-Alive\r\nKeep-Alive: 5"),
            kept=True, lines=()),
    relayed("field: Connection nominates the length", with_line(b"Connection: content-length"), kept=True, lines=()),
    relayed("field: Connection nominates the coding",
            framed(b"Connection: transfer-encoding", b"Transfer-Encoding: chunked", body=_CHUNKS),
            kept=True, lines=()),
]  # fmt: skip

LENGTHS = [
    *(
        refused(f"length: {name}", framed(*lines))
        for name, lines in {
            "two that differ": (b"Content-Length: 2", b"Content-Length: 3"),
            "two alike": (b"Content-Length: 2", b"Content-Length: 2"),
            "two in other spellings": (b"Content-Length: 2", b"CONTENT-LENGTH: 2"),
            "a list of two alike": (b"Content-Length: 2, 2",),
            "a list of two that differ": (b"Content-Length: 2, 3",),
            "negative": (b"Content-Length: -2",),
            "with a plus": (b"Content-Length: +2",),
            "hexadecimal": (b"Content-Length: 0x2",),
            "a fraction": (b"Content-Length: 2.0",),
            "an exponent": (b"Content-Length: 2e0",),
            "underscores": (b"Content-Length: 0_2",),
            "two numbers": (b"Content-Length: 2 3",),
            "quoted": (b'Content-Length: "2"',),
            "words": (b"Content-Length: two",),
            "empty": (b"Content-Length:",),
            "other digits": ("Content-Length: ２".encode(),),
            "past 2^64": (b"Content-Length: 18446744073709551618",),
            "past everything": (b"Content-Length: " + b"9" * 400,),
            "beside a coding": (b"Content-Length: 2", b"Transfer-Encoding: chunked"),
            "behind a coding": (b"Transfer-Encoding: chunked", b"Content-Length: 2"),
            "beside an unknown coding": (b"Content-Length: 2", b"Transfer-Encoding: x"),
        }.items()
    ),
    relayed("length: leading zeros", framed(b"Content-Length: 0002"), kept=True),
    relayed("length: spaces around it", framed(b"Content-Length: \t2 \t"), kept=True),
]

CODINGS = [
    *(
        refused(f"coding: {name}", framed(*lines, body=_CHUNKS))
        for name, lines in {
            "gzip": (b"Transfer-Encoding: gzip",),
            "gzip, chunked": (b"Transfer-Encoding: gzip, chunked",),
            "chunked, gzip": (b"Transfer-Encoding: chunked, gzip",),
            "chunked, chunked": (b"Transfer-Encoding: chunked, chunked",),
            "two fields": (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
            "two fields, one identity": (b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
            "identity": (b"Transfer-Encoding: identity",),
            "xchunked": (b"Transfer-Encoding: xchunked",),
            "a control before it": (b"Transfer-Encoding: \x0bchunked",),
            "a parameter": (b"Transfer-Encoding: chunked;q=1",),
            "quoted": (b'Transfer-Encoding: "chunked"',),
            "a comma behind": (b"Transfer-Encoding: chunked,",),
            "a comma before": (b"Transfer-Encoding: , chunked",),
            "empty": (b"Transfer-Encoding:",),
            "space before the colon": (b"Transfer-Encoding : chunked",),
            "folded": (b"Transfer-Encoding:\r\n chunked",),
        }.items()
    ),
    refused("coding: chunked in HTTP/1.0",
            framed(b"Transfer-Encoding: chunked", first=b"HTTP/1.0 200 OK", body=_CHUNKS)),
    refused("coding: beside a length, to HEAD", framed(b"Content-Length: 2", b"Transfer-Encoding: chunked"), "HEAD"),
    relayed("coding: CHUNKED", framed(b"TRANSFER-encoding: CHUNKED", body=_CHUNKS), kept=True),
]  # fmt: skip

BAD_CHUNKS = {
    "no number": b"zz\r\nok\r\n0\r\n\r\n",
    "an empty size": b"\r\nok\r\n0\r\n\r\n",
    "negative": b"-2\r\nok\r\n0\r\n\r\n",
    "a plus": b"+2\r\nok\r\n0\r\n\r\n",
    "0x2": b"0x2\r\nok\r\n0\r\n\r\n",
    "underscores": b"0_2\r\nok\r\n0\r\n\r\n",
    "a leading space": b" 2\r\nok\r\n0\r\n\r\n",
    "a trailing space": b"2 \r\nok\r\n0\r\n\r\n",
    "17 digits": b"00000000000000002\r\nok\r\n0\r\n\r\n",
    "past 2^64": b"fffffffffffffffff\r\nok\r\n0\r\n\r\n",
    "past 2^62": b"ffffffffffffffff\r\nok\r\n0\r\n\r\n",
    "a bare LF behind the size": b"2\nok\r\n0\r\n\r\n",
    "a bare CR behind the size": b"2\rok\r\n0\r\n\r\n",
    "a bare LF behind the data": b"2\r\nok\n0\r\n\r\n",
    "no line end behind the data": b"2\r\nokXX0\r\n\r\n",
    "more data than its size": b"2\r\nokay\r\n0\r\n\r\n",
    "an extension without a name": b"2;\r\nok\r\n0\r\n\r\n",
    "an extension with a NUL": b"2;a=\x00\r\nok\r\n0\r\n\r\n",
    "an extension with a bare LF": b"2;a\nok\r\n0\r\n\r\n",
    "an extension that is not closed": b'2;a="b\r\nok\r\n0\r\n\r\n',
    "an extension of 70 KB": b"2;" + b"x" * 70_000 + b"\r\nok\r\n0\r\n\r\n",
    "extensions without end": (b"1;" + b"x" * 4000 + b"\r\no\r\n") * 8 + b"0\r\n\r\n",
    "a last chunk ended by LFs": b"2\r\nok\r\n0\n\n",
    "a last chunk ended by a lone CR": b"2\r\nok\r\n0\r\n\rX",
    "a trailer without a colon": b"2\r\nok\r\n0\r\nwords\r\n\r\n",
    "a folded trailer": b"2\r\nok\r\n0\r\nX-A: 1\r\n 2\r\n\r\n",
    "a trailer with a space before its colon": b"2\r\nok\r\n0\r\nX-A : 1\r\n\r\n",
    "a trailer with a NUL": b"2\r\nok\r\n0\r\nX-A: \x00\r\n\r\n",
    "a trailer with a bare CR": b"2\r\nok\r\n0\r\nX-A: 1\rX-B: 2\r\n\r\n",
    "a trailer with a bare LF": b"2\r\nok\r\n0\r\nX-A: 1\nX-B: 2\r\n\r\n",
    "trailers without end": b"2\r\nok\r\n0\r\n" + b"X-A: %b\r\n" % (b"a" * 1000) * 20,
}
CHUNKS = [
    *(cut(f"chunks: {name}", CHUNKED, data) for name, data in BAD_CHUNKS.items()),
    *(cut(f"chunks in one piece: {name}", CHUNKED + data) for name, data in BAD_CHUNKS.items()),
    relayed("chunks: extensions", CHUNKED + b'2 ; a = "b\\"c" ;d\r\nok\r\n0;e\r\n\r\n', kept=True),
    relayed("chunks: leading zeros", CHUNKED + b"0000000000000002\r\nok\r\n0000\r\n\r\n", kept=True),
    relayed("chunks: trailers with names of ours",
            CHUNKED + b"2\r\nok\r\n0\r\nContent-Length: 9\r\nX-Consumer-ID: 1\r\n\r\n", kept=True),
    relayed("chunks: nothing but the last", CHUNKED + b"0\r\n\r\n", kept=True, body=b""),
]  # fmt: skip

GOOD = {
    "a length": OK + b"Content-Type: a/b\r\nContent-Length: 10\r\n\r\n0123456789",
    "chunks": CHUNKED + b"6\r\n012345\r\n4;a=b\r\n6789\r\n0\r\nX-Sum: 1\r\n\r\n",
}
_PLACES = {
    "a length": {"the version": b"HTT", "the status": b"HTTP/1.1 2", "the reason": b"HTTP/1.1 200 O",
                 "a name": b"OK\r\nConten", "a value": b"Content-Type: a", "a CRLF": b"a/b\r",
                 "two lines": b"a/b\r\n", "the last CRLFs": b": 10\r\n\r"},
    "chunks": {},
}  # fmt: skip
_BODY_PLACES = {
    "a length": {"head and body": b": 10\r\n\r\n", "the body": b"01234"},
    "chunks": {"head and chunks": b"chunked\r\n\r\n", "a size": b"chunked\r\n\r\n6", "a size's CRLF": b"\r\n\r\n6\r",
               "a chunk": b"0123", "a chunk and its CRLF": b"012345", "a chunk's CRLF": b"012345\r",
               "two chunks": b"012345\r\n", "an extension": b"4;a", "the last chunk": b"6789\r\n0",
               "the last chunk and its trailers": b"6789\r\n0\r\n", "a trailer": b"X-Sum",
               "the end": b"X-Sum: 1\r\n\r"},
}  # fmt: skip


def _ended_early() -> Iterator[Row]:
    """FIN and RST in each place of a good response."""
    for end, word in ((End.CLOSE, "closed"), (End.RESET, "reset")):
        yield Row(f"{word} before the first byte", (), end=end)
        for kind, answer in GOOD.items():
            for place, last in _PLACES[kind].items():
                yield Row(f"{word} inside {kind}: {place}", (answer[: answer.index(last) + len(last)],), end=end)
            for place, last in _BODY_PLACES[kind].items():
                yield cut(f"{word} inside {kind}: {place}", answer[: answer.index(last) + len(last)], end=end)
    yield cut("reset inside a body until close", OK + b"\r\n", b"half", end=End.RESET)
    yield cut("reset inside a body until close of HTTP/1.0", b"HTTP/1.0 200 OK\r\n\r\n", b"half", end=End.RESET)


SURPLUS = [
    *(
        relayed(f"surplus: {name}, {where}", *([answer + POISON] if where == "at once" else [answer, POISON]), **facts)
        for where in ("at once", "later")
        for name, answer, facts in (
            ("a response behind a length", head(200, "Content-Length: 2") + b"ok", {}),
            ("a response behind the last chunk", CHUNKED + _CHUNKS, {}),
            ("a response behind 204", head(204), {"status": 204, "body": b""}),
            ("a response behind 204 with a length", head(204, "Content-Length: 6"), {"status": 204, "body": b""}),
            ("a response behind 204 that says chunked", head(204, "Transfer-Encoding: chunked"),
             {"status": 204, "body": b""}),
            ("a response behind 304", head(304, "Content-Length: 6"), {"status": 304, "body": b""}),
            ("a response behind HEAD", head(200, "Content-Length: 6"), {"method": "HEAD", "body": b""}),
            ("a response behind HEAD that says chunked", head(200, "Transfer-Encoding: chunked"),
             {"method": "HEAD", "body": b""}),
            ("a response behind a length of 0", head(200, "Content-Length: 0"), {"body": b""}),
            ("a response behind 205", head(205, "Content-Length: 0"), {"status": 205, "body": b""}),
        )
    ),
    relayed("surplus: one byte", framed(b"Content-Length: 2", body=b"ok!")),
    relayed("surplus: one byte, later", framed(b"Content-Length: 2"), b"!"),
    relayed("surplus: an empty line", framed(b"Content-Length: 2", body=b"ok\r\n")),
    relayed("surplus: garbage between keep-alive responses", framed(b"Content-Length: 2"), b"\x00\xff garbage \r\n"),
    relayed("surplus: a 100 behind the final response", framed(b"Content-Length: 2") + head(100)),
    relayed("surplus: a 100 later", framed(b"Content-Length: 2"), head(100)),
    relayed("surplus: 100,000 bytes", framed(b"Content-Length: 2", body=b"ok" + b"x" * 100_000)),
]  # fmt: skip

_FINAL = head(200, "Content-Length: 2") + b"ok"
INTERIMS = [
    *(refused(f"1xx: an unasked 101{name}", framed(*lines, first=b"HTTP/1.1 101 Switching Protocols", body=body))
      for name, lines, body in (
          ("", (b"Upgrade: other", b"Connection: upgrade"), b"raw"),
          (" with nothing to switch to", (), b""),
          (" and a response behind it", (b"Upgrade: other", b"Connection: upgrade"), POISON),
          (" with a length", (b"Content-Length: 2",), b"ok"),
      )),
    refused("1xx: 33 of 100", head(100) * 33 + _FINAL),
    Row("1xx: 33 of 103", (head(103) * 33 + _FINAL,), interims=32),
    refused("1xx: 100,000 of 100", head(100) * 4000 + _FINAL),
    refused("1xx: a malformed one", framed(b"X-A : 1", first=b"HTTP/1.1 103 Early Hints", body=_FINAL)),
    refused("1xx: one with two lengths", framed(b"Content-Length: 2, 3", first=b"HTTP/1.1 100 C", body=_FINAL)),
    refused("1xx: one with a length, and a body",
            framed(b"Content-Length: 3", first=b"HTTP/1.1 100 Continue", body=b"abc" + _FINAL)),
    Row("1xx: chunks behind one", interims=1,
        pieces=(framed(b"Transfer-Encoding: chunked", first=b"HTTP/1.1 103 E", body=b"0\r\n\r\n" + _FINAL),)),
    Row("1xx: one, then a malformed head", (head(103) + b"HTTP/1.1 099 Low\r\n\r\n",), interims=1),
    Row("1xx: one, then no HTTP", (head(103), b"no HTTP\r\n"), interims=1),
    Row("1xx: one, then the end", (head(103),), end=End.CLOSE, interims=1),
    Row("1xx: one, then a reset", (head(103),), end=End.RESET, interims=1),
    relayed("1xx: one with a length", framed(b"Content-Length: 2", first=b"HTTP/1.1 103 Early Hints", body=_FINAL),
            kept=True, interims=1),
    relayed("1xx: one with an unknown status", framed(first=b"HTTP/1.1 199 Odd", body=_FINAL), kept=True, interims=1),
    relayed("1xx: one that says close", framed(b"Connection: close", first=b"HTTP/1.1 103 E", body=_FINAL), kept=True,
            interims=1),
]  # fmt: skip

ENDS = [
    relayed("until close", OK + b"\r\nok", end=End.CLOSE),
    relayed("until close, of HTTP/1.0", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nok", end=End.CLOSE),
    relayed("until close, an empty body", OK + b"\r\n", end=End.CLOSE, body=b""),
    relayed("until close, a body like a response", OK + b"\r\n" + POISON, end=End.CLOSE, body=POISON),
    relayed("close, and the connection stays open", framed(b"Content-Length: 2", b"Connection: close")),
    relayed("HTTP/1.0 without keep-alive stays open", framed(b"Content-Length: 2", first=b"HTTP/1.0 200 OK")),
    relayed("HTTP/1.0 with keep-alive",
            framed(b"Content-Length: 2", b"Connection: keep-alive", first=b"HTTP/1.0 200 OK"), kept=True),
    relayed("a whole body, then a reset", framed(b"Content-Length: 2"), end=End.RESET),
    relayed("a whole chunked body, then the end", CHUNKED + _CHUNKS, end=End.CLOSE),
]  # fmt: skip

ROWS = [*STATUS_LINES, *FIELDS, *LENGTHS, *CODINGS, *CHUNKS, *_ended_early(), *SURPLUS, *INTERIMS, *ENDS]
