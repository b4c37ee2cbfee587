"""The misbehaviours by name, as pure functions from query parameters to a script.

`/misbehave/{name}?…` plays them on the LMS's own port; `upstream_stub.raw.RawServer` plays them elsewhere.
A bad parameter raises ValueError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus

from upstream_stub.steps import End, Repeat, Script, Send, Step, Wait

Query = Mapping[str, str]

_BODY = b"the quick brown fox jumps over the lazy dog\n"


def head(status: int, *lines: str) -> bytes:
    """A response head with these header lines."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Odd"
    return "\r\n".join([f"HTTP/1.1 {status} {phrase}", *lines, "", ""]).encode("latin-1")


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def _filler(size: int) -> bytes:
    return (_BODY * (size // len(_BODY) + 1))[:size]


def _end(query: Query, default: End) -> End:
    return End(query.get("end", default.value))


def reset_now(query: Query) -> Script:
    """RST after the request's head, before any answer."""
    return Script([], End.RESET)


def close_now(query: Query) -> Script:
    """FIN after the request's head, before any answer."""
    return Script([], End.CLOSE)


def hang(query: Query) -> Script:
    """Never answer; `head=1`: send a head that promises `length` bytes [100], then nothing."""
    if query.get("head"):
        return Script([Send(head(200, f"Content-Length: {int(query.get('length', 100))}"))], End.HANG)
    return Script([], End.HANG)


def cut(query: Query) -> Script:
    """Promise `length` bytes [1000], send `after` [100], `wait=` seconds, then end [close; `end=reset|hang`]."""
    # `chunked=1` promises no length, and leaves the last chunk out.
    after, length = int(query.get("after", 100)), int(query.get("length", 1000))
    if query.get("chunked"):
        sent = head(200, "Transfer-Encoding: chunked") + (chunk(_filler(after)) if after else b"")
    else:
        sent = head(200, f"Content-Length: {length}") + _filler(after)
    return Script([Send(sent), Wait(float(query.get("wait", 0)))], _end(query, End.CLOSE))


def cut_head(query: Query) -> Script:
    """Half a head, then the end [close]."""
    return Script([Send(b"HTTP/1.1 200 OK\r\nContent-Le")], _end(query, End.CLOSE))


def slow(query: Query) -> Script:
    """Head after `first` seconds [1], then `count` pieces [5] of `size` bytes [10], each after `gap` seconds [0.1]."""
    count, size = int(query.get("count", 5)), int(query.get("size", 10))
    gap = Wait(float(query.get("gap", 0.1)))
    steps: list[Step] = [Wait(float(query.get("first", 1))), Send(head(200, f"Content-Length: {count * size}"))]
    for _ in range(count):
        steps += [gap, Send(_filler(size))]
    return Script(steps, _end(query, End.KEEP))


def slow_head(query: Query) -> Script:
    """The head byte by byte, `gap` seconds [0.1] between."""
    gap = Wait(float(query.get("gap", 0.1)))
    steps: list[Step] = []
    for byte in head(200, "Content-Length: 2"):
        steps += [Send(bytes([byte])), gap]
    return Script([*steps, Send(b"ok")], _end(query, End.KEEP))


def status(query: Query) -> Script:
    """An answer of `code` [503], well framed; `retry_after=` seconds; the request's body is not read."""
    code = int(query.get("code", 503))
    if code < 200 or code in (204, 304):
        return Script([Send(head(code))], _end(query, End.KEEP))
    body = b'{"error": "the LMS misbehaves"}'
    lines = ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    if "retry_after" in query:
        lines.append(f"Retry-After: {int(query['retry_after'])}")
    return Script([Send(head(code, *lines) + body)], _end(query, End.KEEP))


def interim(query: Query) -> Script:
    """`count` heads [0: without end] of `code` [103], `gap` seconds between; then 200."""
    one = Send(head(int(query.get("code", 103)), "Link: </style.css>; rel=preload"))
    gap = float(query.get("gap", 0))
    repeated = Repeat((one, Wait(gap)) if gap else (one,), int(query.get("count", 0)))
    return Script([repeated, Send(head(200, "Content-Length: 2") + b"ok")], _end(query, End.KEEP))


def excess(query: Query) -> Script:
    """`extra` bytes [a whole second answer] behind a complete one, in the same write or after `wait` seconds."""
    answer = head(200, "Content-Length: 2") + b"ok"
    extra = int(query.get("extra", 0))
    surplus = _filler(extra) if extra else head(200, "Content-Length: 6", "X-Poisoned: yes") + b"poison"
    if "wait" in query:
        return Script([Send(answer), Wait(float(query["wait"])), Send(surplus)], _end(query, End.KEEP))
    return Script([Send(answer + surplus)], _end(query, End.KEEP))


def endless(query: Query) -> Script:
    """A body without end: `how=chunked` [default] or `close`; pieces of `size` bytes [65536], `gap` seconds between."""
    piece, gap = _filler(int(query.get("size", 65536))), float(query.get("gap", 0))
    chunked = query.get("how", "chunked") == "chunked"
    data = Send(chunk(piece) if chunked else piece)
    framing = "Transfer-Encoding: chunked" if chunked else "Connection: close"
    return Script([Send(head(200, framing)), Repeat((data, Wait(gap)) if gap else (data,))])


def endless_head(query: Query) -> Script:
    """Header lines without end."""
    return Script([Send(b"HTTP/1.1 200 OK\r\n"), Repeat((Send(b"X-Padding: " + b"a" * 1000 + b"\r\n"),))])


def until_close(query: Query) -> Script:
    """A body of `size` bytes [1000] without a length, ended by closing [close; `end=reset`]."""
    return Script([Send(head(200) + _filler(int(query.get("size", 1000))))], _end(query, End.CLOSE))


def close_idle(query: Query) -> Script:
    """A good answer; the connection is closed `after` seconds [0] later without a word (a stale pooled connection)."""
    answer = head(200, "Content-Length: 2") + b"ok"
    return Script([Send(answer), Wait(float(query.get("after", 0)))], _end(query, End.CLOSE))


def trailers(query: Query) -> Script:
    """A chunked body with trailers."""
    sent = head(200, "Transfer-Encoding: chunked", "Trailer: X-Checksum") + chunk(_BODY)
    return Script([Send(sent + b"0\r\nX-Checksum: 42\r\n\r\n")], _end(query, End.KEEP))


_OK = b"HTTP/1.1 200 OK\r\n"

#: What a strict proxy refuses (502), or must relay so that it is read in one way only.
BAD_FRAMING: dict[str, bytes] = {
    "two-lengths": _OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
    "same-lengths": _OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "length-list": _OK + b"Content-Length: 2, 2\r\n\r\nok",
    "negative-length": _OK + b"Content-Length: -2\r\n\r\nok",
    "plus-length": _OK + b"Content-Length: +2\r\n\r\nok",
    "huge-length": _OK + b"Content-Length: 99999999999999999999999\r\n\r\nok",
    "not-a-length": _OK + b"Content-Length: two\r\n\r\nok",
    "length-and-chunked": _OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "unknown-coding": _OK + b"Transfer-Encoding: strange\r\n\r\nok",
    "chunked-not-last": _OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "chunked-twice": _OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "chunked-1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "bad-chunk-size": _OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n",
    "huge-chunk-size": _OK + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nok\r\n0\r\n\r\n",
    "chunk-without-crlf": _OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nokXX0\r\n\r\n",
    "chunk-lf-only": _OK + b"Transfer-Encoding: chunked\r\n\r\n2\nok\n0\n\n",
    "long-chunk-extension": _OK + b"Transfer-Encoding: chunked\r\n\r\n2;" + b"x" * 70000 + b"\r\nok\r\n0\r\n\r\n",
    "lf-only": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "obs-fold": _OK + b"X-Folded: one\r\n two\r\nContent-Length: 2\r\n\r\nok",
    "space-before-colon": _OK + b"Content-Length : 2\r\n\r\nok",
    "nul-in-header": _OK + b"X-Odd: a\x00b\r\nContent-Length: 2\r\n\r\nok",
    "cr-in-header": _OK + b"X-Odd: a\rb\r\nContent-Length: 2\r\n\r\nok",
    "no-colon": _OK + b"just words\r\nContent-Length: 2\r\n\r\nok",
    "http-0.9": b"ok\r\n",
    "http-2": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "http-1.2": b"HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "rtsp": b"RTSP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "status-099": b"HTTP/1.1 099 Low\r\nContent-Length: 2\r\n\r\nok",
    "status-1000": b"HTTP/1.1 1000 High\r\nContent-Length: 2\r\n\r\nok",
    "control-in-reason": b"HTTP/1.1 200 O\x01K\r\nContent-Length: 2\r\n\r\nok",
    "switching": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: upgrade\r\n\r\nraw",
    "204-with-body": b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
    "304-with-length": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n",
    "head-65k": _OK + b"X-Long: " + b"a" * 70000 + b"\r\nContent-Length: 2\r\n\r\nok",
    "garbage": bytes(range(256)) + b"\r\n\r\n",
    "tls-alert": b"\x15\x03\x01\x00\x02\x02\x46",
}


def bad_framing(query: Query) -> Script:
    """Bytes of `BAD_FRAMING` by `kind`; then the end [keep]."""
    kind = query.get("kind", "two-lengths")
    if kind not in BAD_FRAMING:
        raise ValueError(f"no such kind: {kind}; there are {', '.join(BAD_FRAMING)}")
    return Script([Send(BAD_FRAMING[kind])], _end(query, End.KEEP))


MISBEHAVIOURS: dict[str, Callable[[Query], Script]] = {
    "reset": reset_now,
    "close": close_now,
    "hang": hang,
    "cut": cut,
    "cut-head": cut_head,
    "slow": slow,
    "slow-head": slow_head,
    "status": status,
    "interim": interim,
    "excess": excess,
    "endless": endless,
    "endless-head": endless_head,
    "until-close": until_close,
    "close-idle": close_idle,
    "trailers": trailers,
    "bad-framing": bad_framing,
}


def script(name: str, query: Query) -> Script:
    """The script of a misbehaviour.  Raises ValueError on an unknown name or a bad parameter."""
    try:
        made = MISBEHAVIOURS[name]
    except KeyError:
        raise ValueError(f"no such misbehaviour: {name}; there are {', '.join(MISBEHAVIOURS)}") from None
    return made(query)
